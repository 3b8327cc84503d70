"""The options that choose a model's shape: a preset, and what changes it. Commands that make a model take these in."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from gollm.config import ALIASES, ModelConfig, preset
from gollm.options import PositiveFloat, PositiveInt, Range, check

MODEL_FIELDS = tuple(field.name for field in dataclasses.fields(ModelConfig) if field.name != "vocab_size")


@dataclass(frozen=True)
class ModelOptions:
    """A preset and changes to it; None leaves what the preset says."""

    preset: str = "small"  # the model's shape: tiny, small, medium, large, or GPT-2's d12, d24, d36, d48
    n_layers: PositiveInt | None = None  # blocks; this and the following change the preset
    n_heads: PositiveInt | None = None  # attention heads
    n_kv_heads: PositiveInt | None = None  # heads of keys and values; none: n_heads
    head_dim: PositiveInt | None = None  # width of a head; none: d_model / n_heads
    d_model: PositiveInt | None = None  # width of the residual stream
    d_ff: PositiveInt | None = None  # width of the MLP; none: 4 * d_model
    context: PositiveInt | None = None  # tokens in a sequence
    activation: Literal["gelu_tanh", "gelu", "relu", "silu"] | None = None  # of the MLP
    bias: bool | None = None  # whether linear layers and norms have biases
    tied_head: bool | None = None  # whether the head's weights are the token embedding's
    # of embeddings and of what each block adds
    dropout: Annotated[float, Range(at_least=0, below=1)] | None = None
    norm_eps: PositiveFloat | None = None  # added to the variance in norms

    ALIASES: ClassVar[Mapping[str, str]] = {alias: name for alias, name in ALIASES.items() if name in MODEL_FIELDS}

    def __post_init__(self) -> None:
        check(self)
        self.model_config()

    def model_config(self, vocab_size: int | None = None) -> ModelConfig:
        """The model's configuration; the preset's vocabulary where no size is given. Raises ConfigError."""
        preset(self.preset)  # its own error first
        changes: dict[str, Any] = {name: getattr(self, name) for name in MODEL_FIELDS}
        changes["vocab_size"] = vocab_size
        given = {name: value for name, value in changes.items() if value is not None}
        return ModelConfig.from_dict({"preset": self.preset, **given}, where="model")
