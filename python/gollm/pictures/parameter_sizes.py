"""The weights of a model in numbers: a histogram of each parameter, and what training has recorded of their gradients
and updates (gollm.training.parameter_statistics)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gollm.language_model import LanguageModel
from gollm.pictures.finite import finite
from gollm.quantisation import plain_values
from gollm.system.files import open_regular
from gollm.training.run import LARGEST, Run, is_measured, parsed

__all__ = ["Histogram", "recorded_sizes", "weight_histograms"]

BINS = 48
_OF_A_BLOCK = re.compile(r"blocks\.(\d{1,9})\.(.+)", re.ASCII)


@dataclass(frozen=True)
class Histogram:
    """counts (BINS) between equally spaced edges (BINS + 1), the least and the largest value at the ends; the mean and
    the standard deviation of all, and the shape."""

    shape: tuple[int, ...]
    edges: list[float]
    counts: list[int]
    mean: float
    std: float


def weight_histograms(model: LanguageModel) -> dict[str, Histogram]:
    """One for each parameter, by its name; quantised ones as what they stand for. Raises PictureError for values that
    are not finite."""
    found = {}
    for name, parameter in model.decoder.parameters.items():
        values = finite(plain_values(parameter), f"the values of {name}")
        counts, edges = np.histogram(values, bins=BINS)
        mean, std = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
        found[name] = Histogram(parameter.shape, edges.tolist(), counts.tolist(), mean, std)
    return found


def recorded_sizes(path: str | Path) -> list[dict[str, Any]]:
    """A row for each recorded step and parameter of a run: step, parameter, weight, gradient and update (root mean
    squares) and ratio = update / weight. Damaged lines are left out. [] for what is no run's folder, or a run that has
    recorded none."""
    rows = []
    try:
        with open_regular(Run(path).statistics_path, buffering=-1) as file:
            lines = [parsed(line) for line in file]
    except OSError:
        return []
    for line in lines:
        step, parameters = line.get("step"), line.get("parameters")
        if not is_measured(step) or not isinstance(parameters, dict):
            continue
        for name, sizes in parameters.items():
            if isinstance(sizes, list) and len(sizes) == 3 and all(map(is_measured, sizes)):
                weight, gradient, update = sizes
                ratio = update / weight if abs(weight) > 1 / LARGEST else None
                values = {"weight": weight, "gradient": gradient, "update": update, "ratio": ratio}
                rows.append({"step": step, "parameter": name, **values})
    return rows


def family(parameter: str) -> tuple[str, int | None]:
    """A parameter's name without its block, and the block.

    >>> family("blocks.3.mlp.up.weight"), family("norm.weight")
    (('mlp.up.weight', 3), ('norm.weight', None))
    """
    found = _OF_A_BLOCK.fullmatch(parameter)
    return (parameter, None) if found is None else (found[2], int(found[1]))
