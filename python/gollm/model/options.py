"""The options that choose a model's shape: a preset, and the fields of ModelConfig that change it. Commands that make a
model take these in."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Optional, TypeVar, get_type_hints

from gollm.model.config import ALIASES, Activation, ModelConfig, RopeScaling, preset
from gollm.options import check, describe
from gollm.options.types import shown

T = TypeVar("T")

MODEL_FIELDS = tuple(
    field.name for field in dataclasses.fields(ModelConfig) if field.name not in ("vocab_size", "labels")
)
RARE = tuple(name for name in MODEL_FIELDS if name not in ("n_layers", "n_heads", "d_model", "context", "dropout"))


def defaults_of(name: str) -> dict[str, str]:
    """The defaults of the fields in words, for options whose default preset this is."""
    values = preset(name).to_dict()
    said = {field: value if isinstance(value, str) else shown(value) for field, value in values.items()}
    return {f: "the preset's" + ("" if values[f] is None else f", {said[f]} for {name}") for f in MODEL_FIELDS}


def _with_model_fields(cls: type[T]) -> type[T]:
    """Adds the fields of ModelConfig, where None leaves what the preset says."""
    hints, options = get_type_hints(ModelConfig, include_extras=True), describe(ModelConfig)
    for name in MODEL_FIELDS:
        cls.__annotations__[name] = Optional[hints[name]]  # noqa: UP045
        setattr(cls, name, dataclasses.field(default=None, metadata={"help": options[name].help}))
    return cls


@dataclass(frozen=True)
@_with_model_fields
class ModelOptions:
    """A preset and changes to it: every field of ModelConfig but the vocabulary's size."""

    # model preset: tiny, small, medium, large; GPT-2: d12, d24, d36, d48; LLaMA family: gollm-85m,
    # llama-3.2-1b, llama-3.2-3b, llama-3-8b, tinyllama-1.1b, smollm-135m, smollm-360m, qwen-2.5-0.5b
    preset: str = "small"

    DEFAULTS: ClassVar = defaults_of("small")
    ALIASES: ClassVar[Mapping[str, str]] = {alias: name for alias, name in ALIASES.items() if name in MODEL_FIELDS}

    def __post_init__(self) -> None:
        check(self)
        self.model_config()

    @staticmethod
    def presets_defaults(name: str) -> Mapping[str, str]:
        """The defaults in words that another preset has. Raises ConfigError."""
        return defaults_of(name)

    def model_config(self, vocab_size: int | None = None) -> ModelConfig:
        """The model's configuration; the preset's vocabulary where no size is given. Raises ConfigError."""
        preset(self.preset)  # its own error first
        changes: dict[str, Any] = {name: getattr(self, name) for name in MODEL_FIELDS}
        changes["vocab_size"] = vocab_size
        given = {name: value for name, value in changes.items() if value is not None}
        return ModelConfig.from_dict({"preset": self.preset, **given}, where="model")

    if TYPE_CHECKING:  # the fields that _with_model_fields adds, as type checkers want to read them
        n_layers: int | None = None
        n_heads: int | None = None
        d_model: int | None = None
        context: int | None = None
        n_kv_heads: int | None = None
        head_dim: int | None = None
        d_ff: int | None = None
        gated_mlp: bool | None = None
        activation: Activation | None = None
        norm: Literal["layernorm", "rmsnorm"] | None = None
        norm_eps: float | None = None
        bias: bool | None = None
        qkv_bias: bool | None = None
        output_bias: bool | None = None
        mlp_bias: bool | None = None
        tied_head: bool | None = None
        position: Literal["learned", "rope"] | None = None
        rope_theta: float | None = None
        rope_scaling: RopeScaling | None = None
        rope_factor: float | None = None
        rope_low_freq_factor: float | None = None
        rope_high_freq_factor: float | None = None
        rope_original_context: int | None = None
        sliding_window: int | None = None
        window_layers: tuple[int, ...] | None = None
        dropout: float | None = None
