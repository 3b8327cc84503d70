"""A model's configuration: its fields, what other projects call them, and the shapes that have a name."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from gollm.errors import ConfigError
from gollm.model import presets
from gollm.options import Range, load_file, refuse_values
from gollm.system.strict_json import shorten

# What other projects call our fields: the one table for configuration files, flags and imports.
ALIASES = {
    "n_layer": "n_layers",
    "num_layers": "n_layers",
    "num_hidden_layers": "n_layers",
    "depth": "n_layers",
    "n_head": "n_heads",
    "num_heads": "n_heads",
    "num_attention_heads": "n_heads",
    "num_kv_heads": "n_kv_heads",
    "n_kv_head": "n_kv_heads",
    "num_key_value_heads": "n_kv_heads",
    "n_embd": "d_model",
    "embed_dim": "d_model",
    "emb_dim": "d_model",
    "hidden_size": "d_model",
    "dim": "d_model",
    "n_inner": "d_ff",
    "intermediate_size": "d_ff",
    "hidden_dim": "d_ff",
    "block_size": "context",
    "context_size": "context",
    "context_length": "context",
    "n_ctx": "context",
    "n_positions": "context",
    "max_seq_len": "context",
    "seq_len": "context",
    "max_position_embeddings": "context",
    "n_vocab": "vocab_size",
    "layer_norm_epsilon": "norm_eps",
    "layer_norm_eps": "norm_eps",
    "rms_norm_eps": "norm_eps",
    "rope_base": "rope_theta",
    "activation_function": "activation",
    "hidden_act": "activation",
    "tie_word_embeddings": "tied_head",
    "drop_rate": "dropout",
}

_ACTIVATION_ALIASES = {
    **dict.fromkeys(("gelu_new", "gelu_fast", "gelu_accurate", "gelu_pytorch_tanh", "gelu_python_tanh"), "gelu_tanh"),
    "gelu_python": "gelu",
    "swish": "silu",
}

MAX_HEAD_DIM = 256  # of the attention kernels
MAX_LAYERS = 1 << 11  # far deeper than any model; the header of a checkpoint has a line for each tensor, and a limit

Count = Annotated[int, Range(at_least=1, at_most=2**31 - 1)]
BelowOne = Annotated[float, Range(at_least=0, below=1)]
RopeFactor = Annotated[float, Range(at_least=1, below=1e12)]
Activation = Literal["gelu_tanh", "gelu", "relu", "silu"]
RopeScaling = Literal["none", "linear", "llama3"]

_DERIVED: Any = None  # follows from other fields unless it is given; never None in a ModelConfig


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a decoder. Sizes are numbers of elements.

    Raises ConfigError for a value that is not allowed."""

    n_layers: Count = 12  # blocks
    n_heads: Count = 12  # attention heads
    d_model: Count = 768  # width of the residual stream
    vocab_size: Count = 50257  # tokens in the vocabulary
    context: Count = 1024  # maximum sequence length, in tokens
    n_kv_heads: Count = _DERIVED  # key-value heads; n_heads unless given
    head_dim: Count = _DERIVED  # width of a head; d_model / n_heads unless given
    d_ff: Count = _DERIVED  # width of the MLP; unless given 4 * d_model, with a gate 8/3 * d_model to the next 64
    gated_mlp: bool = False  # whether the MLP has a gate; with silu this is SwiGLU (Shazeer 2020)
    activation: Activation = "gelu_tanh"  # activation of the MLP
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"  # norm before attention, the MLP and the head
    norm_eps: BelowOne = 1e-5  # epsilon of the norms
    bias: bool = True  # whether linear layers and LayerNorms have biases
    qkv_bias: bool | None = None  # bias of the query, key and value projections only
    output_bias: bool | None = None  # bias of attention's output projection only
    mlp_bias: bool | None = None  # bias of the MLP only
    tied_head: bool = True  # whether the head shares the weights of the token embedding
    position: Literal["learned", "rope"] = "learned"  # learned position embeddings, or rotary ones (Su et al. 2021)
    rope_theta: RopeFactor = 10000.0  # base of the rotation frequencies
    rope_scaling: RopeScaling = "none"  # RoPE scaling for contexts longer than in training
    rope_factor: RopeFactor = 1.0  # context extension factor
    rope_low_freq_factor: RopeFactor = 1.0  # with llama3: lower frequencies are scaled in full
    rope_high_freq_factor: RopeFactor = 4.0  # with llama3: higher frequencies are not scaled
    rope_original_context: Count | None = None  # with llama3: context length before the extension
    sliding_window: Count | None = None  # sliding-window size, in tokens; full attention unless given
    window_layers: tuple[int, ...] | None = None  # blocks with a sliding window, counted from 0; all unless given
    dropout: BelowOne = 0.0  # dropout probability (embeddings and residual branches)
    labels: tuple[str, ...] | None = None  # of a classifier, whose head has a row for each of them

    def __post_init__(self) -> None:
        self._set(activation=_ACTIVATION_ALIASES.get(str(self.activation), self.activation))
        derived = ("n_kv_heads", "head_dim", "d_ff")
        unchecked = {"window_layers", "labels"}
        refuse_values(self, {name for name in derived if getattr(self, name) is None} | unchecked)
        if self.n_layers > MAX_LAYERS:
            raise ConfigError(f"n_layers is {self.n_layers}; it must be at most {MAX_LAYERS}")
        if self.n_kv_heads is None:
            self._set(n_kv_heads=self.n_heads)
        if self.n_heads % self.n_kv_heads:
            raise ConfigError(f"n_kv_heads is {self.n_kv_heads}; it must divide n_heads ({self.n_heads})")
        if self.head_dim is None:
            if self.d_model % self.n_heads:
                raise ConfigError(
                    f"n_heads is {self.n_heads}; it must divide d_model ({self.d_model}), or give head_dim"
                )
            self._set(head_dim=self.d_model // self.n_heads)
        if self.head_dim > MAX_HEAD_DIM:
            raise ConfigError(
                f"head_dim is {self.head_dim}; it must be at most {MAX_HEAD_DIM}: use more heads or a smaller d_model"
            )
        if self.d_ff is None:
            self._set(d_ff=-(-8 * self.d_model // (3 * 64)) * 64 if self.gated_mlp else 4 * self.d_model)
        refuse_values(self, unchecked)
        self._check_labels()
        self._check_windows()
        self._check_positions()

    def _set(self, **fields: Any) -> None:
        """While it is being made."""
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def _check_labels(self) -> None:
        labels = self.labels
        if labels is None:
            return
        if not isinstance(labels, list | tuple) or not all(isinstance(one, str) and one for one in labels):
            raise ConfigError(f"labels is {shorten(labels)}; it must be a list of words")
        if not 2 <= len(set(labels)) == len(labels):
            raise ConfigError(f"labels is {shorten(labels)}; a classifier has two labels or more, each once")
        self._set(labels=tuple(labels))

    def _check_windows(self) -> None:
        """Leaves one way to say where the windows are: no window_layers for all blocks, no sliding_window for none."""
        layers = self.window_layers
        if layers is None:
            return
        if not isinstance(layers, list | tuple) or not all(type(i) is int and 0 <= i < self.n_layers for i in layers):
            raise ConfigError(
                f"window_layers is {shorten(layers)}; it must be a list of the numbers of blocks, from 0 to "
                f"{self.n_layers - 1}"
            )
        if self.sliding_window is None:
            raise ConfigError(f"window_layers is {shorten(layers)}, but there is no sliding_window; give its size")
        windowed = tuple(sorted(set(layers)))
        self._set(window_layers=None if len(windowed) in (0, self.n_layers) else windowed)
        if not windowed:
            self._set(sliding_window=None)

    def _check_positions(self) -> None:
        if self.position == "learned":
            if self.rope_scaling != "none":
                raise ConfigError(
                    f"rope_scaling is {shorten(self.rope_scaling)}, but position is 'learned': only rope can be scaled"
                )
            return
        if self.head_dim % 2:
            raise ConfigError(f"head_dim is {self.head_dim}; rope rotates pairs, so it must be even")
        if self.rope_scaling == "llama3":
            if self.rope_original_context is None:
                raise ConfigError("rope_original_context is None; with rope_scaling llama3 it must be given")
            if self.rope_low_freq_factor >= self.rope_high_freq_factor:
                raise ConfigError(
                    f"rope_low_freq_factor is {self.rope_low_freq_factor:g}; it must be below rope_high_freq_factor "
                    f"({self.rope_high_freq_factor:g})"
                )

    def has_bias(self, layers: Literal["qkv", "output", "mlp"]) -> bool:
        """Whether these linear layers have biases."""
        own: bool | None = getattr(self, f"{layers}_bias")
        return self.bias if own is None else own

    def window(self, layer: int) -> int | None:
        """The last tokens that each attends to in a block; None: all of them."""
        return self.sliding_window if self.window_layers is None or layer in self.window_layers else None

    @property
    def norm_bias(self) -> bool:
        """Whether norms have biases; RMSNorm never has."""
        return self.bias and self.norm == "layernorm"

    @property
    def family(self) -> Literal["gpt2", "llama"] | None:
        """Whose architecture this is, in the formats of others; None where it is nobody's."""
        if (self.norm, self.position, self.gated_mlp) == ("layernorm", "learned", False):
            return "gpt2"
        return "llama" if (self.norm, self.position, self.gated_mlp) == ("rmsnorm", "rope", True) else None

    def to_dict(self) -> dict[str, Any]:
        """All fields, as JSON can hold them; `from_dict` gives the same configuration back."""
        values = dataclasses.asdict(self)
        labels = {} if self.labels is None else {"labels": list(self.labels)}
        del values["labels"]
        return values | {"window_layers": None if self.window_layers is None else list(self.window_layers)} | labels

    def replace(self, **changes: Any) -> ModelConfig:
        return dataclasses.replace(self, **changes)

    def with_context(self, context: int, rope_scaling: str | None = None) -> ModelConfig:
        """The same model for sequences of `context` tokens, be they longer than those it was trained on.

        rope_scaling says how a rotary embedding turns positions that it has not seen, and must be given for a longer
        context: "linear" squeezes all positions into the trained range (Chen et al. 2023), "llama3" the slow rotations
        alone (Llama 3.1), "none" goes on turning. The first two multiply a scaling of their kind that the model has.
        Raises ConfigError for learned positions, which end where training did."""
        if rope_scaling not in (None, *get_args(RopeScaling)):
            allowed = ", ".join(get_args(RopeScaling))
            raise ConfigError(f"rope_scaling is {shorten(rope_scaling)}; it must be one of {allowed}")
        changed = self.replace(context=context)  # its own checks first
        if context == self.context:
            return self
        if self.position == "learned":
            raise ConfigError(
                f"context is {context}, but this model has learned a vector for each of its {self.context} positions, "
                "and there are no others; only models with rotary positions can have another context"
            )
        if context < self.context:
            if rope_scaling not in (None, "none"):
                raise ConfigError(
                    f"rope_scaling is {rope_scaling!r}, but context {context} is within the {self.context} tokens that "
                    "this model is for; leave it out"
                )
            return changed
        if rope_scaling is None:
            raise ConfigError(
                f"context is {context}, but this model is for {self.context} tokens; choose how its rotary positions "
                "are scaled, with rope_scaling linear, llama3 or none"
            )
        if rope_scaling == "none":
            return changed
        if self.rope_scaling not in ("none", rope_scaling):
            raise ConfigError(
                f"rope_scaling is {rope_scaling!r}, but this model has {self.rope_scaling!r} already; use that, or none"
            )
        original = self.rope_original_context if self.rope_scaling == "llama3" else self.context
        return changed.replace(
            rope_scaling=rope_scaling,
            rope_factor=self.rope_factor * context / self.context,
            rope_original_context=original if rope_scaling == "llama3" else None,
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "model configuration") -> ModelConfig:
        """From field names or their aliases; `preset` names a shape that the other fields change.

        Raises ConfigError that names the field, its value, and what is allowed."""
        fields = [f.name for f in dataclasses.fields(cls)]
        base: dict[str, Any] = {}
        named: dict[str, Any] = {}
        for key, value in values.items():
            name = ALIASES.get(key, key)
            if name == "preset":
                base = preset(value).to_dict()
            elif name not in fields:
                near = difflib.get_close_matches(str(key), [*fields, *ALIASES], 1)
                hint = f"; did you mean {near[0]}?" if near else f"; the fields are {', '.join(fields)}"
                raise ConfigError(f"{where}: there is no field {shorten(key)}{hint}")
            elif name in named:
                raise ConfigError(f"{where}: {name} is given twice, once as {shorten(key)}")
            else:
                named[name] = value
        if base and {"d_model", "n_heads"} & named.keys():  # derived sizes follow a changed width
            base.update(head_dim=None)
        if base and {"d_model", "gated_mlp"} & named.keys():
            base.update(d_ff=None)
        if base and "n_heads" in named and base["n_kv_heads"] == base["n_heads"]:
            base.update(n_kv_heads=None)  # grouped heads stay as many as the preset has
        try:
            return cls(**{**base, **named})
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None

    @classmethod
    def from_file(cls, path: str | Path) -> ModelConfig:
        """From a .json, .yaml or .yml file with a mapping of fields. Raises ConfigError."""
        return cls.from_dict(load_file(path), where=str(path))


PRESETS = {name: ModelConfig(**fields) for name, fields in presets.SHAPES.items()}


def preset(name: str) -> ModelConfig:
    """The configuration with this name (or `gpt2:NAME`, as llm.c writes it). Raises ConfigError for an unknown one."""
    key = str(name).removeprefix("gpt2:")
    key = presets.OTHER_NAMES.get(key, key)
    if key not in PRESETS:
        raise ConfigError(f"preset is {shorten(name)}; it must be one of {', '.join([*PRESETS, *presets.OTHER_NAMES])}")
    return PRESETS[key]
