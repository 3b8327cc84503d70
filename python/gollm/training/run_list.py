"""The runs below a folder, a line each: their settings, how far they are, their best loss, their speed."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gollm.errors import ConfigError, TrainingError, warn
from gollm.options import load_file
from gollm.system.strict_json import shorten
from gollm.training.comparison import steps_of, tokens_after
from gollm.training.run import Run, is_measured


@dataclass(frozen=True)
class RunLine:
    """One run.

    name               its folder
    model              the shape that is trained, or the task and the model of a fine-tuning
    batch              sequences of a step
    steps, last_step   how many are done, and the number of the last; None where --epochs says when a run ends
    tokens             that it has trained on
    best_step          the step with the lowest validation loss
    tokens_per_second  the median over its steps
    """

    name: str
    model: str
    batch: int
    lr: float
    steps: int
    last_step: int | None
    tokens: int
    best_validation_loss: float | None
    best_step: int | None
    tokens_per_second: float | None


def list_runs(folders: Sequence[str | Path]) -> list[RunLine]:
    """The runs in these folders and directly below them, by name. A run that cannot be read is left out with a
    GollmWarning. Raises TrainingError where there are none."""
    found = []
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise TrainingError(f"there is no folder {folder}; name one that holds run folders: gollm runs FOLDER")
        paths = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
        for path in (path for path in paths if os.path.isfile(Run(path).config_path)):
            try:
                found.append(_line(Run(path)))
            except ConfigError as error:
                warn(f"the run in {path} is left out: {error}")
    if not found:
        raise TrainingError(
            f"there are no runs in {', '.join(map(str, folders))}; name a folder that holds run folders"
        )
    return found


def _line(run: Run) -> RunLine:
    options = load_file(run.config_path)
    try:
        lines = steps_of(run)
    except TrainingError:  # not a step yet
        lines = []
    evaluated = [line for line in lines if "validation_loss" in line]
    best = min(evaluated, key=lambda line: line["validation_loss"], default=None)
    return RunLine(
        name=run.name,
        model=_model_of(options),
        batch=_number(options, "batch_size") * _number(options, "grad_accumulation"),
        lr=_number(options, "lr"),
        steps=len(lines),
        last_step=None if options.get("steps") is None else _number(options, "steps"),
        tokens=tokens_after(lines)[-1] if lines else 0,
        best_validation_loss=None if best is None else best["validation_loss"],
        best_step=None if best is None else best.get("step"),
        tokens_per_second=statistics.median(line["tokens_per_second"] for line in lines) if lines else None,
    )


def _model_of(options: dict[str, Any]) -> str:
    if "task" in options:
        return f"{options['task']} of {Path(str(options.get('model'))).name}"
    layers, width, context = (_number(options, name) for name in ("n_layers", "d_model", "context"))
    return f"{layers} layers, {width} wide, context {context}"


def _number(options: dict[str, Any], name: str) -> Any:
    """Raises ConfigError where an option is missing or no number."""
    value = options.get(name)
    if not is_measured(value):
        raise ConfigError(f"{name} is {shorten(value)} in its config.yaml; it must be a number")
    return value
