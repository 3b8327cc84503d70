"""What a task of fine-tuning brings to the trainer, and the model that it starts from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from gollm import formats
from gollm.errors import ConfigError, DataError
from gollm.finetuning.options import FinetuneOptions
from gollm.finetuning.padding import Collate, Item
from gollm.kernels import Array, cpu
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder
from gollm.model.generation_defaults import GenerationDefaults
from gollm.model.lora import LoraConfig, attach
from gollm.nn import dtypes
from gollm.nn.devices import ModelDType
from gollm.nn.dtypes import DType
from gollm.nn.storage import PANELS, Storage
from gollm.quantisation import packed_shape
from gollm.tokenizers import Tokenizer
from gollm.training.objective import Objective

T = TypeVar("T")


@dataclass(frozen=True)
class Base:
    """The model that fine-tuning starts from, as far as it is known before its weights are read."""

    config: ModelConfig
    tokenizer: Tokenizer
    defaults: GenerationDefaults
    packed: Mapping[str, tuple[DType, int]]  # parameters that stay as they are stored: dtype and group

    @classmethod
    def of(cls, path: str, dtype: ModelDType = "float32") -> Base:
        """In a model of bfloat16, weights that are stored in 16 bits are rounded like the others. Raises FormatError
        for what is no model, ConfigError for one without a tokenizer."""
        with formats.open_model(path) as source:
            if source.tokenizer is None:
                why = f" ({source.without_tokenizer})" if source.without_tokenizer else ""
                raise ConfigError(f"the model {path} has no tokenizer{why}, so it cannot read text")
            stored = source.as_stored()
            found = {name: stored.packed(name) for name in Decoder(source.config).parameters}
            plain = (dtypes.bfloat16, dtypes.float16) if dtype == "bfloat16" else ()
            packed = {name: (one.dtype, one.group) for name, one in found.items() if one and one.dtype not in plain}
            return cls(source.config, source.tokenizer, source.defaults, packed)

    def blank_decoder(self, config: ModelConfig, lora: LoraConfig | None, seed: int) -> Decoder:
        """A decoder as it will be trained, without its weights: for an estimate."""
        decoder = Decoder(config)
        if lora is not None:
            blank = {}
            for name, (dtype, group) in self.packed.items():
                if config.labels and name == "head":
                    continue
                shape = decoder.parameters[name].shape
                array = cpu.empty(packed_shape(dtype, shape, group), dtype.array)
                blank[name] = Storage(array, dtype, PANELS, shape=shape)
            decoder.parameters.freeze(blank)
            decoder.parameters.let_go(blank)
            attach(decoder, lora, seed, trained=new_parameters(config))
        return decoder


def new_parameters(config: ModelConfig) -> tuple[str, ...]:
    """Those that start from nothing: the head of a classifier. They are trained beside adapters."""
    return ("head",) if config.labels else ()


def with_new_head(decoder: Decoder, config: ModelConfig, seed: int) -> Decoder:
    """The same model with the head of a classifier, which has its starting values."""
    changed = Decoder(config, decoder.parameters.dtype)
    kept = {name: p.storage for name, p in decoder.parameters.items() if name != "head"}
    packed = {name: storage for name, storage in kept.items() if storage.layout == PANELS}
    changed.parameters.freeze(packed)
    changed.parameters.let_go(packed)
    for name, storage in kept.items():
        if name not in packed:
            changed.parameters[name].data[...] = storage.array
    changed.parameters.initialise(seed, ["head"])
    return changed


@dataclass(frozen=True)
class Task:
    """What the model is to learn.

    train, validation   items for batches
    collate             makes a batch of some of them
    longest             the longest that a sequence may be, in tokens
    defaults            what the model's file will say about generating
    prompt, shown       of samples: gollm.training.training_data
    summary             the data, in words
    config              of the model to train, where it is not the base model's: with other rows of the head
    begin               is called with the model and the run's folder before the first batch is made
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
    config: ModelConfig | None = None
    begin: Callable[[Decoder, Path], None] = lambda model, folder: None


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
