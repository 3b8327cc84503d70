"""The options of fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from gollm.errors import ConfigError
from gollm.model.config import BelowOne
from gollm.options import NonNegativeFloat, NonNegativeInt, PathText, Positional, PositiveFloat, PositiveInt
from gollm.training.options import LoopOptions


@dataclass(frozen=True)
class TaskOptions:
    """What is learned by which model, and from what."""

    model: Annotated[PathText | None, Positional] = None  # the model to start from, in any format
    # conversations: files of JSON lines or a JSON array, folders, wildcards, or - for standard input
    data: Annotated[tuple[PathText, ...], Positional] = ()
    task: Literal["sft"] = "sft"  # sft: answers in conversations
    validation_data: tuple[PathText, ...] = ()  # validation data (default: the --validation-fraction of the data)
    validation_fraction: BelowOne = 0.05  # fraction of the data held out for validation, spread evenly over it

    # the longest sequence, in tokens (default: the model's context)
    context: PositiveInt | None = None
    too_long: Literal["refuse", "truncate"] = "refuse"  # what to do with longer sequences
    mask: Literal["assistant", "none"] = "assistant"  # which tokens count: the assistant's, or all of them


@dataclass(frozen=True)
class FinetuneOptions(LoopOptions, TaskOptions):
    """Fine-tune a model, and keep everything in a run folder."""

    steps: PositiveInt | None = None  # optimiser steps (default: what --epochs takes)
    epochs: PositiveFloat | None = None  # passes over the data, instead of steps (default: 3)
    lr: NonNegativeFloat = 1e-4  # the peak learning rate
    weight_decay: NonNegativeFloat = 0.0  # weight decay, applied to matrices only
    beta2: BelowOne = 0.999  # beta2 of AdamW
    eval_every: NonNegativeInt = 100  # steps between evaluations; 0: only at the end

    COMMAND: ClassVar[str] = "finetune"
    TRY: ClassVar[str] = "gollm chat {}"
    DEFAULT_EPOCHS: ClassVar[float | None] = 3.0
    HEADINGS: ClassVar[Mapping[str, str]] = {
        "model": "model and data",
        "context": "sequences",
        "steps": "training",
        "optimizer": "optimisation",
        "log_every": "logging and checkpoints",
        "out": "output",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resume is None and (self.model is None or not self.data):
            raise ConfigError("--model and --data are needed: gollm finetune MODEL DATA")
