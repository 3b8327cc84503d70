"""The options of fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from gollm.errors import ConfigError
from gollm.model.config import BelowOne
from gollm.model.lora import LoraConfig
from gollm.options import NonNegativeFloat, NonNegativeInt, PathText, Positional, PositiveFloat, PositiveInt
from gollm.training.options import LoopOptions


@dataclass(frozen=True)
class TaskOptions:
    """What is learned by which model, and from what."""

    model: Annotated[PathText | None, Positional] = None  # the model to start from, in any format
    # records: files of JSON lines, a JSON array or CSV, folders, wildcards, or - for standard input
    data: Annotated[tuple[PathText, ...], Positional] = ()
    # sft: answers in conversations; dpo: preferring one answer to another; classify: labels of texts
    task: Literal["sft", "dpo", "classify"] = "sft"
    validation_data: tuple[PathText, ...] = ()  # validation data (default: the --validation-fraction of the data)
    validation_fraction: BelowOne = 0.05  # fraction of the data held out for validation, spread evenly over it

    # the longest sequence, in tokens (default: the model's context)
    context: PositiveInt | None = None
    too_long: Literal["refuse", "truncate"] = "refuse"  # what to do with longer sequences
    mask: Literal["assistant", "none"] = "assistant"  # which tokens count: the assistant's, or all of them

    dpo_loss: Literal["dpo", "ipo"] = "dpo"  # the loss of a pair
    dpo_beta: PositiveFloat = 0.1  # how far the model is held to the one that it starts from
    dpo_normalize: bool = False  # divide an answer's log-probability by the number of its tokens

    text_field: str = "text"  # the field of a text that has a label
    label_field: str = "label"  # the field of its label
    # weights of labels in the loss: all the same, or in inverse proportion to how often they occur
    class_weights: Literal["none", "balanced"] = "none"

    # rank of LoRA adapters, which are trained in place of the model's weights (default: all weights are trained)
    lora_rank: PositiveInt | None = None
    lora_alpha: PositiveFloat | None = None  # what an adapter adds is scaled by alpha / rank (default: twice the rank)
    # layers with adapters (default: all of them)
    lora_targets: tuple[Literal["q", "k", "v", "qkv", "output", "gate", "up", "down"], ...] = ()
    lora_dropout: BelowOne = 0.0  # dropout probability of the adapters' inputs


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
    DEFAULT_EPOCHS: ClassVar[float] = 3.0
    RARE: ClassVar[tuple[str, ...]] = (
        *("validation_fraction", "mask", "dpo_normalize", "class_weights", "lora_alpha", "lora_dropout", "dtype"),
        *LoopOptions.RARE,
    )
    HEADINGS: ClassVar[Mapping[str, str]] = {
        "model": "model and data",
        "context": "sequences",
        "dpo_loss": "preferences",
        "text_field": "classification",
        "lora_rank": "LoRA",
        "steps": "training",
        "optimizer": "optimisation",
        "log_every": "logging and checkpoints",
        "out": "output",
        "device": "device",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resume is None and (self.model is None or not self.data):
            raise ConfigError("--model and --data are needed: gollm finetune MODEL DATA")
        if self.lora_rank is None:
            for name in ("lora_alpha", "lora_targets", "lora_dropout"):
                if getattr(self, name):
                    raise ConfigError(f"--{name.replace('_', '-')} is of LoRA, which --lora-rank turns on; give both")

    @property
    def try_it(self) -> str:
        return 'gollm classify {} --text "..."' if self.task == "classify" else "gollm chat {}"

    @property
    def lora(self) -> LoraConfig | None:
        """How adapters are made; None where all weights are trained."""
        if self.lora_rank is None:
            return None
        alpha = 2.0 * self.lora_rank if self.lora_alpha is None else self.lora_alpha
        return LoraConfig(self.lora_rank, alpha, self.lora_targets, self.lora_dropout)
