"""The options that choose a model's shape: a preset, and what changes it. Commands that make a model take these in."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from gollm.model.config import ALIASES, ModelConfig, preset
from gollm.options import NonNegativeInt, PositiveFloat, PositiveInt, Range, check

MODEL_FIELDS = tuple(field.name for field in dataclasses.fields(ModelConfig) if field.name != "vocab_size")


@dataclass(frozen=True)
class ModelOptions:
    """A preset and changes to it; None leaves what the preset says."""

    # the model's shape: tiny, small, medium, large, GPT-2's d12, d24, d36, d48, or of the LLaMA family gollm-85m,
    # llama-3.2-1b, llama-3.2-3b, llama-3-8b, tinyllama-1.1b, smollm-135m, smollm-360m, qwen-2.5-0.5b
    preset: str = "small"
    n_layers: PositiveInt | None = None  # blocks; this and the following change the preset
    n_heads: PositiveInt | None = None  # attention heads
    n_kv_heads: PositiveInt | None = None  # heads of keys and values; none: the preset's where fewer, else n_heads
    head_dim: PositiveInt | None = None  # width of a head; none: d_model / n_heads
    d_model: PositiveInt | None = None  # width of the residual stream
    d_ff: PositiveInt | None = None  # width of the MLP; none: 4 * d_model, with a gate 8/3 * d_model
    gated_mlp: bool | None = None  # whether the MLP has a gate; with silu this is SwiGLU
    context: PositiveInt | None = None  # tokens in a sequence
    activation: Literal["gelu_tanh", "gelu", "relu", "silu"] | None = None  # of the MLP
    norm: Literal["layernorm", "rmsnorm"] | None = None  # before attention, before the MLP, and before the head
    norm_eps: PositiveFloat | None = None  # added to the variance in norms
    bias: bool | None = None  # whether linear layers and LayerNorms have biases
    qkv_bias: bool | None = None  # the same for queries, keys and values alone
    output_bias: bool | None = None  # for attention's output projection alone
    mlp_bias: bool | None = None  # for the MLP alone
    tied_head: bool | None = None  # whether the head's weights are the token embedding's
    position: Literal["learned", "rope"] | None = None  # how a token's position comes in: an embedding, or rotation
    rope_theta: PositiveFloat | None = None  # base of the rotation's frequencies
    rope_scaling: Literal["none", "linear", "llama3"] | None = None  # for contexts longer than trained
    rope_factor: PositiveFloat | None = None  # by how much
    rope_low_freq_factor: PositiveFloat | None = None  # with llama3: frequencies below are stretched in full
    rope_high_freq_factor: PositiveFloat | None = None  # with llama3: frequencies above stay
    rope_original_context: PositiveInt | None = None  # with llama3: the context before
    sliding_window: PositiveInt | None = None  # the last tokens that each attends to; none: all
    window_layers: tuple[NonNegativeInt, ...] | None = None  # blocks with that window, the first is 0; none: all
    # of embeddings and of what each block adds
    dropout: Annotated[float, Range(at_least=0, below=1)] | None = None

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
