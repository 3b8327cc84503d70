"""gollm compare"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from gollm.options import PathText, Positional

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gollm.training.comparison import RunSummary


@dataclass(frozen=True)
class Options:
    """Compare training runs: options that differ, training losses at equal numbers of tokens, lowest validation loss,
    speed, and results of gollm eval."""

    runs: Annotated[tuple[PathText, ...], Positional]  # run folders
    json: bool = False  # print one JSON document


def run(options: Options) -> None:
    from gollm.training.comparison import compare

    found = compare(options.runs)
    if options.json:
        print(json.dumps([dataclasses.asdict(one) for one in found]))
    else:
        print(in_table(found))


def in_table(runs: Sequence[RunSummary]) -> str:
    from gollm.training.comparison import POINTS, differences

    rows: dict[str, list[str]] = {"": [one.name for one in runs], **differences([one.options for one in runs])}
    rows["steps"] = [f"{one.n_steps:,}" for one in runs]
    rows["tokens"] = [f"{one.n_tokens:,}" for one in runs]
    common = min(one.n_tokens for one in runs)
    for i, point in enumerate(POINTS):
        rows[f"loss at {common * point:,.0f} tokens"] = [f"{one.losses[i]:.4f}" for one in runs]
    rows["best validation loss"] = ["" if x is None else f"{x:.4f}" for x in (one.validation_loss for one in runs)]
    rows["tokens per second"] = [f"{one.tokens_per_second:,.0f}" for one in runs]
    for name in dict.fromkeys(name for one in runs for name in one.evaluations):
        rows[name] = [f"{one.evaluations[name]:.4f}" if name in one.evaluations else "" for one in runs]
    first = max(map(len, rows))
    widths = [max(len(row[i]) for row in rows.values()) for i in range(len(runs))]
    lines = (f"{name:<{first}}  " + "  ".join(map(str.rjust, row, widths)) for name, row in rows.items())
    return "\n".join(line.rstrip() for line in lines)
