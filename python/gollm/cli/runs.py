"""gollm runs"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from gollm.options import PathText, Positional

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gollm.training.run_list import RunLine


@dataclass(frozen=True)
class Options:
    """List training runs with their settings, progress, lowest validation loss and speed."""

    folders: Annotated[tuple[PathText, ...], Positional] = ("runs",)  # parent folders of run folders
    json: bool = False  # print one JSON document


def run(options: Options) -> None:
    from gollm.training.run_list import list_runs

    found = list_runs(options.folders)
    if options.json:
        print(json.dumps([dataclasses.asdict(line) for line in found]))
    else:
        print(in_table(found))


def in_table(lines: Sequence[RunLine]) -> str:
    rows = [("run", "model", "batch", "lr", "steps", "best val", "at step", "tok/s")]
    rows += [
        (
            line.name,
            line.model,
            str(line.batch),
            f"{line.lr:g}",
            f"{line.steps:,}" + (f"/{line.last_step:,}" if line.last_step and line.last_step != line.steps else ""),
            "" if line.best_validation_loss is None else f"{line.best_validation_loss:.4f}",
            "" if line.best_step is None else f"{line.best_step:,}",
            "" if line.tokens_per_second is None else f"{line.tokens_per_second:,.0f}",
        )
        for line in lines
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = 2  # columns of words
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
