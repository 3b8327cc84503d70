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
    """The model, the data and the task."""

    model: Annotated[PathText | None, Positional] = None  # base model, in any format
    # training records: JSON Lines, JSON or CSV files, folders, wildcards, or - for standard input
    data: Annotated[tuple[PathText, ...], Positional] = ()
    # sft: supervised fine-tuning on conversations; dpo: preference optimisation; classify: text classification
    task: Literal["sft", "dpo", "classify"] = "sft"
    validation_data: tuple[PathText, ...] = ()  # validation data (default: the --validation-fraction of the data)
    validation_fraction: BelowOne = 0.05  # fraction of the data held out for validation, evenly spread

    # maximum sequence length, in tokens (default: the model's context)
    context: PositiveInt | None = None
    too_long: Literal["refuse", "truncate"] = "refuse"  # how to handle longer sequences
    mask: Literal["assistant", "none"] = "assistant"  # tokens that count in the loss: the assistant's, or all (none)

    dpo_loss: Literal["dpo", "ipo"] = "dpo"  # loss function of preference pairs
    dpo_beta: PositiveFloat = 0.1  # beta: how strongly the model is kept close to the base model
    dpo_normalize: bool = False  # divide the log-probability of an answer by its number of tokens

    text_field: str = "text"  # field with the text
    label_field: str = "label"  # field with the label
    # class weights in the loss: all equal, or inversely proportional to class frequency
    class_weights: Literal["none", "balanced"] = "none"

    # rank of LoRA adapters, trained instead of the model's weights (default: train all weights)
    lora_rank: PositiveInt | None = None
    lora_alpha: PositiveFloat | None = None  # the adapters' output is scaled by alpha / rank (default: twice the rank)
    # layers with adapters (default: all)
    lora_targets: tuple[Literal["q", "k", "v", "qkv", "output", "gate", "up", "down"], ...] = ()
    lora_dropout: BelowOne = 0.0  # dropout probability of adapter inputs


@dataclass(frozen=True)
class FinetuneOptions(LoopOptions, TaskOptions):
    """Fine-tune a model. All results are saved in a run folder."""

    steps: PositiveInt | None = None  # optimiser steps (default: set by --epochs)
    epochs: PositiveFloat | None = None  # passes over the training data, instead of --steps (default: 3)
    lr: NonNegativeFloat = 1e-4  # peak learning rate
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
