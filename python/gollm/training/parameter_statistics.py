"""How large each parameter, its gradient and its update are, recorded every so many steps: `--statistics-every`.

A line of statistics.jsonl is {"step": 100, "parameters": {"blocks.0.mlp.up.weight": [weight, gradient, update], ...}},
each the root mean square over the parameter's elements: the weight before the step, the gradient before clipping, and
the difference that the step made. A healthy update is about a thousandth of its weight.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from gollm.errors import TrainingError
from gollm.kernels import Array
from gollm.system.files import open_regular, reason, replacing
from gollm.training.callbacks import Callback, Training
from gollm.training.run import parsed


class ParameterStatistics(Callback):
    """Writes the run's statistics.jsonl at every step that is a multiple of `every`."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.before: dict[str, Array] = {}  # the trained weights, kept when the next step is to be recorded

    def on_start(self, trainer: Training) -> None:
        self._cut_off(trainer)
        self._remember(trainer)

    def on_step(self, trainer: Training, metrics: dict[str, Any]) -> None:
        if self.before:
            self._write(trainer)
        self._remember(trainer)

    def _remember(self, trainer: Training) -> None:
        due = (trainer.step + 1) % self.every == 0
        trained = {name: p for name, p in trainer.model.parameters.items() if p.requires_grad}
        self.before = {name: np.array(p.data) for name, p in trained.items()} if due else {}

    def _write(self, trainer: Training) -> None:
        parameters, found = trainer.model.parameters, {}
        for name, before in self.before.items():
            gradient = parameters[name].grad
            values = (before, 0.0 if gradient is None else gradient, parameters[name].data - before)
            found[name] = [float(f"{root_mean_square(value):.6g}") for value in values]
        line = json.dumps({"step": trainer.step, "parameters": found}).encode() + b"\n"
        path = trainer.folder.statistics_path
        try:
            with open(path, "ab") as file:
                file.write(line)
        except OSError as failure:
            raise TrainingError(f"cannot write {path}: {reason(failure)}; free some space and resume the run") from None

    def _cut_off(self, trainer: Training) -> None:
        """Drops the lines of steps that a resumed run does again, and half a line of a killed process."""
        path = trainer.folder.statistics_path
        try:
            with open_regular(path, buffering=-1) as file:
                lines = [line for line in file if parsed(line).get("step") in range(1, trainer.step + 1)]
        except OSError:  # a new run
            return
        with replacing(path, TrainingError) as file:
            file.writelines(lines)


def root_mean_square(values: Array | float) -> float:
    """√(mean of the squares), summed in float64.

    >>> root_mean_square(np.array([3.0, 4.0, 0.0, 0.0]))
    2.5
    """
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
