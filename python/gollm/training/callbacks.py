"""What a program does along the way of a training run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from gollm.model.decoder import Decoder
from gollm.nn.optimizer import Optimizer
from gollm.nn.plan import Plan
from gollm.nn.tensor import Tensor
from gollm.training.objective import Batches
from gollm.training.options import LoopOptions
from gollm.training.run import Run


class Training(Protocol):
    """What a callback is given: the trainer (gollm.training.Trainer), of which it may use this.

    Steps are replayed from a recording (gollm.nn.plan). Arrays may be changed, weights and moments too; after changing
    a number of the model, such as `trainer.model.dropout.p`, call `trainer.forward_backward.forget()`."""

    model: Decoder
    folder: Run
    options: LoopOptions
    optimizer: Optimizer
    batches: Batches
    forward_backward: Plan[list[Tensor]]
    total_steps: int

    @property
    def step(self) -> int:
        """How many steps are done."""

    @property
    def best_validation_loss(self) -> float | None:
        """The lowest so far, or None before the first evaluation."""

    def evaluate(self) -> float:
        """The mean loss over the validation batches, now."""


class Callback:
    """A base class with nothing to do; every method may be left out."""

    def on_start(self, trainer: Training) -> None:
        """Before the first step; trainer.step is 0, or the step that the run goes on from."""

    def on_step(self, trainer: Training, metrics: dict[str, Any]) -> None:
        """After each step, with its line of metrics.jsonl."""

    def on_checkpoint(self, trainer: Training, path: Path) -> None:
        """After a checkpoint was written."""

    def on_end(self, trainer: Training, result: TrainResult) -> None:
        """After the last step, or after an interruption."""


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    folder                the run folder
    steps                 how many steps are done
    loss                  the last step's, in nats per token, or None before the first step
    validation_loss       of the last evaluation, or None
    best_validation_loss  the lowest of all evaluations, or None
    best_step             the step that has it, or None
    checkpoint            the newest checkpoint
    interrupted           the signal that ended the run early, or None
    first_step            the step that fit() went on from, 0 for a new run
    seconds               how long fit() took
    """

    folder: Path
    steps: int
    loss: float | None
    validation_loss: float | None
    best_validation_loss: float | None
    checkpoint: Path
    interrupted: int | None = None
    best_step: int | None = None
    first_step: int = field(default=0, compare=False)
    seconds: float = field(default=0.0, compare=False)
