"""Fine-tuning beside peft and PyTorch on the same batches: losses, speed and memory, of all weights and of LoRA.

python bench/finetuning.py MODEL DATA [STEPS] [CASE ...]      # MODEL: any format; DATA: as for gollm finetune

Both start from the same weights (and adapters), take the same batches in the same order, and do in a step what `gollm
finetune` does: forward, backward, clipping at 1, AdamW without weight decay, at the same learning rates. They are two
processes that take turns, a step each. "by hand" is peft with logits of the counted positions only, "as its users write
it" is model(labels=...), which computes all of them. PyTorch has SDPA without a mask (padding is at the end), fused
AdamW and as many threads as gollm; bfloat16 is autocast there, --compute-dtype here.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import gollm
from gollm.benchmarks.turns import PAUSE, Worker
from gollm.finetuning.padding import PaddedBatches
from gollm.finetuning.sft import sft
from gollm.finetuning.task import Base
from gollm.formats import open_model, peft, save
from gollm.model.lora import LoraConfig, attach
from gollm.nn import dtypes
from gollm.nn.schedule import learning_rate

HERE = Path(__file__).parent
LORA, RATES = LoraConfig(rank=8, alpha=16.0), {"full": 1e-4, "lora": 1e-3}
BATCH = 8


@dataclass(frozen=True)
class Case:
    """gollm against peers, each a way in which finetuning_peft.py computes the loss; steps: None for those asked for"""

    method: str
    weights: str = "float32"  # as they are stored
    compute: str = "float32"
    peers: tuple[str, ...] = ("by hand",)
    steps: int | None = 5


CASES = {
    "full": Case("full", steps=None),
    "lora": Case("lora", steps=None),
    "full-usual": Case("full", peers=("as its users write it",)),
    "lora-usual": Case("lora", peers=("as its users write it",)),
    "full-bfloat16": Case("full", compute="bfloat16"),
    "lora-bfloat16": Case("lora", compute="bfloat16"),
    "lora-int8": Case("lora", weights="int8", peers=()),
    "lora-int4": Case("lora", weights="int4", peers=()),
}


def main(model: str, data: str, steps: int = 50, *names: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tokens = write_batches(model, data, steps, Path(folder))
        base = write_bases(model, Path(folder), {CASES[name].weights for name in names or CASES})
        print("| | steps | gollm | | peft + PyTorch | | speed | largest difference of losses |\n|" + "---|" * 8)
        for name in names or CASES:
            print(*measure(CASES[name], steps, tokens, base, folder), sep="\n", flush=True)


def write_batches(model: str, data: str, steps: int, folder: Path) -> list[int]:
    """The batches of `gollm finetune`'s first steps; returns how many tokens each has, padding included."""
    options = gollm.FinetuneOptions(model=model, data=(data,), batch_size=BATCH, validation_fraction=0.0)
    task = sft(options, Base.of(model))
    batches = PaddedBatches(
        task.train, task.collate, batch_size=BATCH, n_batches=1, seed=options.seed, longest=task.longest
    )
    found = [batches.next_step(1) for _ in range(steps + 1)]
    np.savez(folder / "batches.npz", *(array[0] for pair in found for array in pair))
    return [inputs.size for inputs, _ in found[1:]]  # the first one warms up


def write_bases(model: str, folder: Path, kinds: set[str]) -> dict[str, Path]:
    """The weights that cases start from, as files; and an adapter for the float32 ones."""
    base = {"float32": folder / "base"}
    with open_model(model) as source:
        save(source, base["float32"])
    for dtype in kinds - {"float32"}:
        base[dtype] = folder / f"{dtype}.golm"
        with open_model(base["float32"]) as source:
            save(source.quantised(getattr(dtypes, dtype)), base[dtype])
    decoder = gollm.load(base["float32"]).decoder
    attach(decoder, LORA, seed=1)
    peft.write_adapter(folder / "adapter", decoder, LORA, str(base["float32"]))
    return base


def measure(case: Case, steps: int, tokens: Sequence[int], base: Mapping[str, Path], folder: str) -> Iterator[str]:
    """A row of the table for each peer, or one without."""
    n_steps = case.steps or steps
    given = {"folder": folder, "method": case.method, "compute": case.compute}
    given["rates"] = rates(RATES[case.method], n_steps)
    for peer in case.peers or (None,):
        workers = {"gollm": Worker(gollm.num_threads())}
        own = {"base": str(base[case.weights]), "rank": LORA.rank, "alpha": LORA.alpha}
        workers["gollm"].ask(make=[str(HERE / "finetuning_gollm.py"), "training", {**given, **own}])
        if peer is not None:
            workers["peft"] = Worker(gollm.num_threads())
            theirs = {"base": str(base["float32"]), "head": peer}
            workers["peft"].ask(make=[str(HERE / "finetuning_peft.py"), "training", {**given, **theirs}])
        turns: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
        for _ in range(n_steps):
            for name, worker in workers.items():
                time.sleep(PAUSE)
                turns[name].append(worker.ask(turn=0.0))
        for worker in workers.values():
            worker.close()
        yield row(case, peer, tokens, turns)


def rates(peak: float, steps: int) -> list[float]:
    """The learning rates of gollm finetune: a warm-up of a tenth of the steps, then a cosine."""
    options = gollm.FinetuneOptions(model="-", data=("-",), lr=peak, steps=steps)
    warmup, minimum = options.resolved_warmup_steps(steps), options.resolved_min_lr
    return [
        learning_rate(
            step, schedule=options.schedule, peak=peak, minimum=minimum, warmup_steps=warmup, total_steps=steps
        )
        for step in range(1, steps + 1)
    ]


def row(case: Case, peer: str | None, tokens: Sequence[int], turns: Mapping[str, list[dict[str, Any]]]) -> str:
    cells, seconds = {}, {name: [turn["seconds"] for turn in of_one] for name, of_one in turns.items()}
    for name, of_one in turns.items():
        speed = statistics.median(n / one for n, one in zip(tokens, seconds[name], strict=False))
        cells[name] = f"{speed:.0f} tokens/s | {of_one[-1]['peak_bytes'] / 1e9:.2f} GB"
    what = f"{case.method}, {case.weights}" + (", products in bfloat16" if case.compute != "float32" else "")
    start = f"| {what}{f', {peer}' if peer else ''} | {len(turns['gollm'])} | {cells['gollm']} |"
    if peer is None:
        return f"{start} | | | |"
    ours, theirs = ([turn["work"] for turn in turns[name]] for name in ("gollm", "peft"))  # losses
    differences = [abs(a - b) for a, b in zip(ours, theirs, strict=True)]
    at = differences.index(max(differences))
    ratio = statistics.median(theirs / ours for theirs, ours in zip(seconds["peft"], seconds["gollm"], strict=True))
    return (
        f"{start} {cells['peft']} | {ratio:.2f} x | {differences[at]:.1e} "
        f"(step {at + 1}: {ours[at]:.5f}, {theirs[at]:.5f}; last: {ours[-1]:.5f}, {theirs[-1]:.5f}) |"
    )


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:4]), *sys.argv[4:])
