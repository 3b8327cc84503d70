"""Callbacks that send a run's metrics to a tracker, each by the tracker's own library:

    gollm.train(options, [TensorBoard("runs/tensorboard")])     tensorboard --logdir runs/tensorboard
    gollm.train(options, [Trackio("my project")])               trackio show
    gollm.train(options, [WandB("my project")])                 wandb.ai, or $WANDB_MODE=offline

Numbers keep their names and steps; samples are sent to none.
"""

from __future__ import annotations

import importlib
from typing import Any

from gollm.errors import TrainingError
from gollm.training.callbacks import Callback, Training, TrainResult

__all__ = ["TensorBoard", "Trackio", "WandB"]


class TensorBoard(Callback):
    """Writes event files to `folder`, in a folder of the run's name. Needs `pip install tensorboard`."""

    def __init__(self, folder: str) -> None:
        self.folder, self.library = folder, _library("tensorboard.summary")

    def on_start(self, trainer: Training) -> None:
        self.writer = self.library.Writer(f"{self.folder}/{trainer.folder.path.name}")

    def on_step(self, trainer: Training, metrics: dict[str, Any]) -> None:
        for name, value in _numbers(metrics).items():
            self.writer.add_scalar(name, value, metrics["step"])

    def on_end(self, trainer: Training, result: TrainResult) -> None:
        self.writer.close()


class _Project(Callback):
    """What trackio and wandb share: the first has the interface of the second."""

    LIBRARY = ""

    def __init__(self, project: str) -> None:
        self.project, self.library = project, _library(self.LIBRARY)

    def on_start(self, trainer: Training) -> None:
        name, config = trainer.folder.path.name, trainer.options.to_dict()
        self.run = self.library.init(project=self.project, name=name, config=config)

    def on_step(self, trainer: Training, metrics: dict[str, Any]) -> None:
        self.run.log(_numbers(metrics), step=metrics["step"])

    def on_end(self, trainer: Training, result: TrainResult) -> None:
        self.run.finish()


class Trackio(_Project):
    """Logs to a project of trackio on this machine. Needs `pip install trackio`."""

    LIBRARY = "trackio"


class WandB(_Project):
    """Logs to a project of Weights & Biases. Needs `pip install wandb`."""

    LIBRARY = "wandb"


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        package = name.partition(".")[0]
        raise TrainingError(f"{package} is not installed; install it: pip install {package}") from None


def _numbers(metrics: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name != "step" and isinstance(value, int | float)}
