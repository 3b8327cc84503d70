"""The numbers of a training report: what a run folder says about a run, step by step and in sum."""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gollm.errors import PictureError
from gollm.options import load_file
from gollm.system.files import read_regular
from gollm.training.comparison import differences, steps_of, tokens_after
from gollm.training.run import Run, is_measured, parsed

__all__ = ["RunCurves", "run_curves"]

MOST_POINTS = 1000  # of a curve; a longer run's are means of equal parts
SMOOTHED_SHARE = 0.02  # of a run's steps: the smoothing's span
_MACHINE_BYTES = 1 << 16

Point = dict[str, Any]


@dataclass(frozen=True)
class RunCurves:
    """One run.

    points      of each step, or of each part of a long run: step, tokens, minutes, loss, smoothed, lr, grad_norm,
                tokens_per_second, and where they are known percent_of_peak and memory_mb
    validation  step, tokens, minutes and loss of each evaluation
    samples     (step, text)
    options     of config.yaml
    summary     what it came to, in words
    """

    name: str
    points: list[Point]
    validation: list[Point]
    samples: list[tuple[int, str]]
    options: dict[str, Any]
    summary: dict[str, str]


def run_curves(path: str | Path) -> RunCurves:
    """Raises TrainingError for a folder without a run, or without a step."""
    run = Run(path)
    lines = steps_of(run)
    tokens = tokens_after(lines)
    minutes = [ms / 60_000 for ms in itertools.accumulate(line["ms"] for line in lines)]
    places = [
        {"step": line.get("step", i), "tokens": n, "minutes": round(t, 4)}
        for i, (line, n, t) in enumerate(zip(lines, tokens, minutes, strict=True), 1)
    ]
    machine = _machine(run)
    losses = [float(line["loss"]) for line in lines]
    columns: dict[str, list[float | None]] = {
        "loss": list(losses),
        "smoothed": list(smoothed(losses, span=max(5.0, SMOOTHED_SHARE * len(losses)))),
        "lr": [line.get("lr") for line in lines],
        "grad_norm": [line.get("grad_norm") for line in lines],
        "tokens_per_second": [line["tokens_per_second"] for line in lines],
        "percent_of_peak": [_percent_of_peak(line, machine) for line in lines],
        "memory_mb": [None if (n := line.get("memory_bytes")) is None else n / 1e6 for line in lines],
    }
    return RunCurves(
        name=run.name,
        points=thinned(
            [
                {**place, **dict(zip(columns, row, strict=True))}
                for place, row in zip(places, zip(*columns.values(), strict=True), strict=True)
            ]
        ),
        validation=[
            {**place, "loss": line["validation_loss"]}
            for place, line in zip(places, lines, strict=True)
            if "validation_loss" in line
        ],
        samples=[
            (place["step"], line["sample"]) for place, line in zip(places, lines, strict=True) if "sample" in line
        ],
        options=load_file(run.config_path),
        summary=_summary(lines, tokens[-1], minutes[-1], columns),
    )


def all_curves(paths: Sequence[str | Path]) -> list[RunCurves]:
    """run_curves() of each. Raises PictureError for no run, or for one that is named twice."""
    if not paths:
        raise PictureError("there is no run to report; name one run folder or more")
    names = [str(path) for path in paths]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise PictureError(f"the run {twice} is given twice; name each run once")
    return [run_curves(path) for path in paths]


def different_options(runs: Sequence[RunCurves]) -> dict[str, list[str]]:
    """The options in which runs differ, each with its value in every run."""
    return differences([run.options for run in runs])


def smoothed(values: Sequence[float], span: float) -> list[float]:
    """The exponential moving average with weight a = 2 / (span + 1), without the bias towards its start:

        y_t = Σ_i≤t (1 - a)^(t - i) x_i  /  Σ_i≤t (1 - a)^(t - i)

    >>> smoothed([1.0, 3.0], span=3)
    [1.0, 2.3333333333333335]
    """
    keep, total, weight, found = 1 - 2 / (span + 1), 0.0, 0.0, []
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        found.append(total / weight)
    return found


def thinned(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most so many points: each the mean of a part, at the part's last step. Parts differ by one point in length.

    >>> thinned([{"step": 1, "loss": 4.0}, {"step": 2, "loss": 2.0}, {"step": 3, "loss": 1.0}], most=2)
    [{'step': 1, 'loss': 4.0}, {'step': 3, 'loss': 1.5}]
    """
    if len(points) <= most:
        return list(points)
    bounds = [len(points) * i // most for i in range(most + 1)]
    return [_mean_point(points[a:b]) for a, b in itertools.pairwise(bounds)]


def _mean_point(part: Sequence[Point]) -> Point:
    mean = dict(part[-1])
    for name in mean.keys() - {"step", "tokens", "minutes"}:
        known = [point[name] for point in part if point[name] is not None]
        mean[name] = statistics.fmean(known) if known else None
    return mean


def _machine(run: Run) -> dict[str, Any]:
    try:
        return parsed(read_regular(run.machine_path, _MACHINE_BYTES))
    except OSError:  # an older run, or one of a program
        return {}


def _percent_of_peak(line: dict[str, Any], machine: dict[str, Any]) -> float | None:
    peak, flops = machine.get("peak_flops"), machine.get("flops_per_token")
    if not is_measured(peak) or not is_measured(flops) or peak < 1:
        return None
    return 100.0 * float(line["tokens_per_second"]) * flops / peak


def _summary(lines: Sequence[dict[str, Any]], tokens: int, minutes: float, columns: dict[str, Any]) -> dict[str, str]:
    losses = np.array(columns["loss"])
    validation = [line["validation_loss"] for line in lines if "validation_loss" in line]
    peaks = [x for x in columns["percent_of_peak"] if x is not None]
    memory = [x for x in columns["memory_mb"] if x is not None]
    return {
        "steps": f"{len(lines):,}",
        "tokens": f"{tokens:,}",
        "time": duration(60 * minutes),
        "final loss": f"{losses[-1]:.4f}",
        "lowest loss": f"{losses.min():.4f}",
        "mean loss": f"{losses.mean():.4f}",
        **({"best validation loss": f"{min(validation):.4f}"} if validation else {}),
        "tokens per second": f"{statistics.median(columns['tokens_per_second']):,.0f}",
        **({"% of peak FLOP/s": f"{statistics.median(peaks):.1f}"} if peaks else {}),
        **({"peak memory": f"{max(memory):,.0f} MB"} if memory else {}),
    }


def duration(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> duration(0.25), duration(75), duration(7384)
    ('0.2 s', '1 min 15 s', '2 h 3 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def config_in_text(options: dict[str, Any]) -> str:
    """The options as the run's config.yaml has them, one a line."""
    return "\n".join(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in options.items())
