"""What a task of fine-tuning brings to the trainer, and the model that it starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from gollm import formats
from gollm.errors import ConfigError, DataError
from gollm.finetuning.options import FinetuneOptions
from gollm.finetuning.padding import Collate, Item
from gollm.kernels import Array
from gollm.model.config import ModelConfig
from gollm.model.generation_defaults import GenerationDefaults
from gollm.tokenizers import Tokenizer
from gollm.training.objective import Objective

T = TypeVar("T")


@dataclass(frozen=True)
class Base:
    """The model that fine-tuning starts from, as far as it is known before its weights are read."""

    config: ModelConfig
    tokenizer: Tokenizer
    defaults: GenerationDefaults

    @classmethod
    def open(cls, path: str) -> Base:
        """Raises FormatError for what is no model, ConfigError for one without a tokenizer."""
        with formats.open_model(path) as source:
            if source.tokenizer is None:
                why = f" ({source.without_tokenizer})" if source.without_tokenizer else ""
                raise ConfigError(f"the model {path} has no tokenizer{why}, so it cannot read text")
            return cls(source.config, source.tokenizer, source.defaults)


@dataclass(frozen=True)
class Task:
    """What the model is to learn.

    train, validation   items for batches
    collate             makes a batch of some of them
    longest             the longest that a sequence may be, in tokens
    defaults            what the model's file will say about generating
    prompt, shown       of samples: gollm.training.training_data
    summary             the data, in words
    """

    train: Sequence[Item]
    validation: Sequence[Item]
    collate: Collate
    objective: Objective
    longest: int
    defaults: GenerationDefaults
    prompt: Array
    shown: str
    summary: str


def longest_allowed(options: FinetuneOptions, config: ModelConfig) -> int:
    """The longest sequence. Raises ConfigError for more than the model can read."""
    if options.context is not None and options.context > config.context:
        raise ConfigError(
            f"--context is {options.context}, but this model reads at most {config.context} tokens; use "
            f"{config.context} or less"
        )
    return options.context or config.context


def held_out(items: Sequence[T], fraction: float) -> tuple[list[T], list[T]]:
    """Those to train on, and a fraction to validate with, spread evenly over all.

    >>> held_out("abcdef", 0.34)
    (['a', 'b', 'd', 'e'], ['c', 'f'])
    """
    out = [int((i + 1) * fraction) > int(i * fraction) for i in range(len(items))]
    train = [item for item, held in zip(items, out, strict=True) if not held]
    if not train:
        raise DataError(f"a validation fraction of {fraction:g} leaves nothing to train on; use more data")
    return train, [item for item, held in zip(items, out, strict=True) if held]
