"""Peak memory and time of a training step, by what is kept for the backward pass. Each row in a process of its own:

python bench/memory.py d12 4x256 1x1024        # a preset, batches x tokens
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np

STEPS = 2


def measure(preset_name: str, batch: int, length: int, recompute: str, activation_dtype: str) -> None:
    """Prints the process' peak in GB and the best step in ms, of some training steps with AdamW on random tokens."""
    from gollm.model.config import preset
    from gollm.model.decoder import Decoder
    from gollm.nn.optimizer import AdamW
    from gollm.training.estimate import resident_bytes

    config = preset(preset_name)
    model = Decoder(config.replace(context=max(length, config.context))).initialise(1)
    model.recompute, model.activation_dtype = recompute, activation_dtype  # type: ignore[assignment]
    optimizer = AdamW(model.parameters)
    rng, seconds = np.random.default_rng(0), []
    for _ in range(STEPS):
        inputs, targets = rng.integers(0, config.vocab_size, (2, batch, length)).astype(np.int32)
        started = time.perf_counter()
        model.parameters.zero_grad()
        model.loss(inputs, targets).backward()
        optimizer.step(1e-4)
        seconds.append(time.perf_counter() - started)
    print(json.dumps([resident_bytes()[1] / 1e9, min(seconds) * 1e3]))


def main(preset_name: str, *shapes: str) -> None:
    print("| batch x tokens | recompute | activations | peak GB | ms |\n|---|---|---|---|---|")
    for shape in shapes:
        for recompute in ("none", "mlp", "block"):
            for dtype in ("float32", "bfloat16"):
                words = [sys.executable, __file__, "--one", preset_name, *shape.split("x"), recompute, dtype]
                result = subprocess.run(words, capture_output=True, text=True, check=True)
                peak, ms = json.loads(result.stdout)
                print(f"| {shape} | {recompute} | {dtype} | {peak:.2f} | {ms:.0f} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        measure(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), *sys.argv[5:])
    else:
        main(*sys.argv[1:])
