"""Runs beside each other: the options that differ, losses at equal numbers of tokens, speed, evaluations."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gollm.errors import TrainingError
from gollm.options import load_file
from gollm.options.types import shown
from gollm.system.files import open_regular
from gollm.training.run import Run, is_measured, parsed

POINTS = (0.25, 0.5, 0.75, 1.0)  # of the tokens that all runs have trained on
SMOOTHED = 10  # steps whose mean loss is shown
_OF_THE_PLACE = ("out", "resume", "cache_dir")


@dataclass(frozen=True)
class RunSummary:
    """One run. losses: the mean training loss of the steps before each of the points, as many tokens in each run."""

    name: str
    options: dict[str, Any]
    n_steps: int
    n_tokens: int
    losses: tuple[float, ...]
    validation_loss: float | None
    tokens_per_second: float
    evaluations: dict[str, float]


def compare(paths: Sequence[str | Path]) -> list[RunSummary]:
    """Raises TrainingError for a folder without a run, or without a step."""
    steps = {str(path): steps_of(Run(path)) for path in paths}
    tokens = {name: tokens_after(lines) for name, lines in steps.items()}
    common = min(counts[-1] for counts in tokens.values())
    found = []
    for name, lines in steps.items():
        losses = []
        for point in POINTS:
            last = sum(count <= common * point for count in tokens[name])
            part = lines[max(0, last - SMOOTHED) : max(1, last)]
            losses.append(statistics.fmean(line["loss"] for line in part))
        validation = [line["validation_loss"] for line in lines if "validation_loss" in line]
        found.append(
            RunSummary(
                name=name,
                options=load_file(Run(name).config_path),
                n_steps=len(lines),
                n_tokens=tokens[name][-1],
                losses=tuple(losses),
                validation_loss=min(validation, default=None),
                tokens_per_second=statistics.median(line["tokens_per_second"] for line in lines),
                evaluations=dict(_evaluations(Run(name))),
            )
        )
    return found


def differences(options: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The options in which runs differ, but for where they lie: each with its value in every run."""
    names = dict.fromkeys(name for of_run in options for name in of_run if name not in _OF_THE_PLACE)
    values = {name: [shown(of_run.get(name)) for of_run in options] for name in names}
    return {name: found for name, found in values.items() if len(set(found)) > 1}


def steps_of(run: Run) -> list[dict[str, Any]]:
    """The metrics of a run's steps: numbers, and samples in text; what is neither is left out, and a step without its
    loss or speed. Raises TrainingError for a folder without a run, or without a step."""
    try:
        found = ({name: value for name, value in line.items() if _is_metric(name, value)} for line in run.metrics())
        lines = [line for line in found if {"loss", "ms", "tokens_per_second"} <= line.keys()]
    except OSError:
        raise TrainingError(f"there is no run in {run.name} (no metrics.jsonl); name a run's folder") from None
    if not lines:
        raise TrainingError(f"the run in {run.name} has not done a step yet")
    return lines


def _is_metric(name: str, value: object) -> bool:
    return isinstance(value, str) if name == "sample" else is_measured(value)


def tokens_after(lines: Sequence[dict[str, Any]]) -> list[int]:
    """How many tokens a run has trained on after each step."""
    total, found = 0, []
    for line in lines:
        total += round(line["tokens_per_second"] * line["ms"] / 1000)  # both are rounded, to far less than a token
        found.append(total)
    return found


def _evaluations(run: Run) -> Iterator[tuple[str, float]]:
    """The newest of each kind."""
    with contextlib.suppress(OSError), open_regular(run.evaluations_path, buffering=-1) as file:
        for line in file:
            values = parsed(line)
            kind = values.pop("kind", "")
            for name, value in values.items():
                if is_measured(value):
                    yield f"{kind}: {name}", value
