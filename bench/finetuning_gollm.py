"""gollm's side of bench/finetuning.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

import gollm
from gollm.model.lora import LoraConfig, attach
from gollm.nn.optimizer import AdamW
from gollm.nn.plan import Plan
from gollm.training.objective import NextToken, forward_backward


def training(
    folder: str, method: str, compute: str, rates: Sequence[float], base: str, rank: int, alpha: float
) -> tuple[Callable[[], float], int]:
    """Each call is a step and returns its loss; the first one changes nothing."""
    decoder = gollm.load(base, dequantise=method == "full").decoder
    if method == "lora":
        attach(decoder, LoraConfig(rank, alpha), seed=1)
    decoder.compute_dtype = compute
    optimizer = AdamW(decoder.parameters, beta2=0.999, weight_decay=0.0, max_grad_norm=1.0)
    counters, objective = np.zeros(1, np.int64), NextToken()
    plan = Plan(lambda denominator, *pair: forward_backward(decoder, counters, *pair, denominator=denominator))
    with np.load(Path(folder) / "batches.npz") as file:
        arrays = [file[name] for name in file.files]

    def steps() -> Iterator[float]:
        for i, pair in enumerate(zip(arrays[::2], arrays[1::2], strict=True)):
            batch = [array[None] for array in pair]
            loss = plan(np.array([objective.count(batch)], np.float64), *batch)[0].item()
            if i > 0:
                optimizer.step(rates[i - 1])
            yield loss

    return steps().__next__, 1 << 30
