"""A model's configuration: its fields, what other projects call them, and the shapes that have a name."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gollm.errors import ConfigError
from gollm.options import load_file
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

ACTIVATION_NAMES = ("gelu_tanh", "gelu", "relu", "silu")
NORMS = ("layernorm", "rmsnorm")
POSITIONS = ("learned", "rope")
ROPE_SCALINGS = ("none", "linear", "llama3")
_ACTIVATION_ALIASES = {
    **dict.fromkeys(("gelu_new", "gelu_fast", "gelu_accurate", "gelu_pytorch_tanh", "gelu_python_tanh"), "gelu_tanh"),
    "gelu_python": "gelu",
    "swish": "silu",
}

MAX_HEAD_DIM = 256  # of the attention kernels
MAX_LAYERS = 1 << 11  # far deeper than any model; the header of a checkpoint has a line for each tensor, and a limit


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a decoder. Sizes are numbers of elements; `None` means derived from the others.

    Raises ConfigError for a value that is not allowed."""

    n_layers: int = 12
    n_heads: int = 12
    d_model: int = 768
    vocab_size: int = 50257
    context: int = 1024  # the longest sequence, in tokens
    n_kv_heads: int | None = None  # heads of keys and values; n_heads unless given
    head_dim: int | None = None  # d_model / n_heads unless given
    d_ff: int | None = None  # width of the MLP; unless given 4 * d_model, with a gate 8/3 * d_model to the next 64
    gated_mlp: bool = False  # activation(x gateᵀ) * (x upᵀ) before down; with silu this is SwiGLU (Shazeer 2020)
    activation: str = "gelu_tanh"
    norm: str = "layernorm"  # or rmsnorm
    norm_eps: float = 1e-5
    bias: bool = True  # whether linear layers and LayerNorms have biases; the next three change it for some layers
    qkv_bias: bool | None = None
    output_bias: bool | None = None  # of attention's output projection
    mlp_bias: bool | None = None
    tied_head: bool = True  # whether the head's weights are the token embedding's
    position: str = "learned"  # or rope: queries and keys are rotated by their position (Su et al. 2021)
    rope_theta: float = 10000.0
    rope_scaling: str = "none"  # how positions beyond the trained context are rotated: see gollm.model.rope
    rope_factor: float = 1.0  # by how much the context was made longer
    rope_low_freq_factor: float = 1.0  # with llama3
    rope_high_freq_factor: float = 4.0  # with llama3
    rope_original_context: int | None = None  # with llama3: the context before it was made longer
    sliding_window: int | None = None  # the last tokens that each attends to, itself included; all unless given
    window_layers: tuple[int, ...] | None = None  # the blocks with that window, the first is 0; all unless given
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("n_layers", "n_heads", "d_model", "vocab_size", "context"):
            self._check_count(name)
        if self.n_layers > MAX_LAYERS:
            raise ConfigError(f"n_layers is {self.n_layers}; it must be at most {MAX_LAYERS}")
        if self.n_kv_heads is None:
            object.__setattr__(self, "n_kv_heads", self.n_heads)
        self._check_count("n_kv_heads")
        if self.n_heads % self.kv_heads:
            raise ConfigError(f"n_kv_heads is {self.n_kv_heads}; it must divide n_heads ({self.n_heads})")
        if self.head_dim is None:
            if self.d_model % self.n_heads:
                raise ConfigError(
                    f"n_heads is {self.n_heads}; it must divide d_model ({self.d_model}), or give head_dim"
                )
            object.__setattr__(self, "head_dim", self.d_model // self.n_heads)
        self._check_count("head_dim")
        if self.head_size > MAX_HEAD_DIM:
            raise ConfigError(
                f"head_dim is {self.head_dim}; it must be at most {MAX_HEAD_DIM}: use more heads or a smaller d_model"
            )
        for name in ("bias", "tied_head", "gated_mlp"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} is {shorten(getattr(self, name))}; it must be true or false")
        if self.d_ff is None:
            gated = -(-8 * self.d_model // (3 * 64)) * 64
            object.__setattr__(self, "d_ff", gated if self.gated_mlp else 4 * self.d_model)
        self._check_count("d_ff")
        object.__setattr__(self, "activation", _ACTIVATION_ALIASES.get(str(self.activation), self.activation))
        self._check_choice("activation", ACTIVATION_NAMES)
        self._check_choice("norm", NORMS)
        self._check_number("norm_eps", 0.0, 1.0)
        self._check_number("dropout", 0.0, 1.0)
        for name in ("qkv_bias", "output_bias", "mlp_bias"):
            if getattr(self, name) is not None and not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} is {shorten(getattr(self, name))}; it must be true, false or none")
        self._check_windows()
        self._check_positions()

    def _check_windows(self) -> None:
        """Leaves one way to say where the windows are: no window_layers for all blocks, no sliding_window for none."""
        if self.sliding_window is not None:
            self._check_count("sliding_window")
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
        object.__setattr__(self, "window_layers", None if len(windowed) in (0, self.n_layers) else windowed)
        if not windowed:
            object.__setattr__(self, "sliding_window", None)

    def _check_positions(self) -> None:
        self._check_choice("position", POSITIONS)
        self._check_choice("rope_scaling", ROPE_SCALINGS)
        for name in ("rope_theta", "rope_factor", "rope_low_freq_factor", "rope_high_freq_factor"):
            self._check_number(name, 1.0, 1e12)
        if self.rope_original_context is not None:
            self._check_count("rope_original_context")
        if self.position == "learned":
            if self.rope_scaling != "none":
                raise ConfigError(
                    f"rope_scaling is {shorten(self.rope_scaling)}, but position is 'learned': only rope can be scaled"
                )
            return
        if self.head_size % 2:
            raise ConfigError(f"head_dim is {self.head_dim}; rope rotates pairs, so it must be even")
        if self.rope_scaling == "llama3":
            self._check_count("rope_original_context")
            if self.rope_low_freq_factor >= self.rope_high_freq_factor:
                raise ConfigError(
                    f"rope_low_freq_factor is {self.rope_low_freq_factor:g}; it must be below rope_high_freq_factor "
                    f"({self.rope_high_freq_factor:g})"
                )

    def _check_choice(self, name: str, allowed: tuple[str, ...]) -> None:
        if getattr(self, name) not in allowed:
            raise ConfigError(f"{name} is {shorten(getattr(self, name))}; it must be one of {', '.join(allowed)}")

    def _check_count(self, name: str) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31:
            raise ConfigError(f"{name} is {shorten(value)}; it must be a whole number from 1 to 2147483647")

    def _check_number(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value < high:
            raise ConfigError(
                f"{name} is {shorten(value)}; it must be a number from {low:g} up to, not including, {high:g}"
            )

    # The optional fields are never None after __post_init__; these say so to type checkers.
    @property
    def kv_heads(self) -> int:
        assert self.n_kv_heads is not None
        return self.n_kv_heads

    @property
    def head_size(self) -> int:
        assert self.head_dim is not None
        return self.head_dim

    @property
    def ff_size(self) -> int:
        assert self.d_ff is not None
        return self.d_ff

    @property
    def qkv_size(self) -> int:
        """Width of the joint q, k, v projection: (n_heads + 2 n_kv_heads) * head_dim"""
        return (self.n_heads + 2 * self.kv_heads) * self.head_size

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
        return values | {"window_layers": None if self.window_layers is None else list(self.window_layers)}

    def replace(self, **changes: Any) -> ModelConfig:
        return dataclasses.replace(self, **changes)

    def with_context(self, context: int, rope_scaling: str | None = None) -> ModelConfig:
        """The same model for sequences of `context` tokens, be they longer than those it was trained on.

        rope_scaling says how a rotary embedding turns positions that it has not seen, and must be given for a longer
        context: "linear" squeezes all positions into the trained range (Chen et al. 2023), "llama3" the slow rotations
        alone (Llama 3.1), "none" goes on turning. The first two multiply a scaling of their kind that the model has.
        Raises ConfigError for learned positions, which end where training did."""
        if rope_scaling not in (None, *ROPE_SCALINGS):
            raise ConfigError(f"rope_scaling is {shorten(rope_scaling)}; it must be one of {', '.join(ROPE_SCALINGS)}")
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


def _shaped(
    base: ModelConfig, layers: int, heads: int, kv_heads: int, head_dim: int, d_model: int, d_ff: int, **changes: Any
) -> ModelConfig:
    return base.replace(
        n_layers=layers, n_heads=heads, n_kv_heads=kv_heads, head_dim=head_dim, d_model=d_model, d_ff=d_ff, **changes
    )


PRESETS = {
    "tiny": ModelConfig(n_layers=2, n_heads=2, d_model=64, vocab_size=512, context=64),
    "small": ModelConfig(n_layers=4, n_heads=4, d_model=128, vocab_size=1000, context=128),
    "medium": ModelConfig(n_layers=6, n_heads=6, d_model=384, vocab_size=2000, context=256),
    "large": ModelConfig(n_layers=12, n_heads=12, d_model=768, vocab_size=5000, context=512),
    "d12": ModelConfig(n_layers=12, n_heads=12, d_model=768),  # GPT-2 124M
    "d24": ModelConfig(n_layers=24, n_heads=16, d_model=1024),  # GPT-2 350M
    "d36": ModelConfig(n_layers=36, n_heads=20, d_model=1280),  # GPT-2 774M
    "d48": ModelConfig(n_layers=48, n_heads=25, d_model=1600),  # GPT-2 1558M
}
_LLAMA = ModelConfig(
    gated_mlp=True, activation="silu", norm="rmsnorm", bias=False, position="rope", context=2048, tied_head=False
)
_LLAMA_3 = _LLAMA.replace(vocab_size=128256, rope_theta=500000.0)
_LLAMA_32 = _LLAMA_3.replace(
    tied_head=True, context=131072, rope_scaling="llama3", rope_factor=32.0, rope_original_context=8192
)
PRESETS |= {
    "gollm-85m": _shaped(_LLAMA, 12, 12, 4, 64, 768, 1536, vocab_size=32768, tied_head=True),
    "llama-3.2-1b": _shaped(_LLAMA_32, 16, 32, 8, 64, 2048, 8192),
    "llama-3.2-3b": _shaped(_LLAMA_32, 28, 24, 8, 128, 3072, 8192),
    "llama-3-8b": _shaped(_LLAMA_3, 32, 32, 8, 128, 4096, 14336, context=8192),
    "tinyllama-1.1b": _shaped(_LLAMA, 22, 32, 4, 64, 2048, 5632, vocab_size=32000),
    "smollm-135m": _shaped(_LLAMA, 30, 9, 3, 64, 576, 1536, vocab_size=49152, tied_head=True),
    "smollm-360m": _shaped(_LLAMA, 32, 15, 5, 64, 960, 2560, vocab_size=49152, tied_head=True),
    "qwen-2.5-0.5b": _shaped(
        _LLAMA,
        24,
        14,
        2,
        64,
        896,
        4864,
        vocab_size=151936,
        tied_head=True,
        context=32768,
        qkv_bias=True,
        rope_theta=1e6,
        norm_eps=1e-6,
    ),
}
PRESET_ALIASES = {"gpt2": "d12", "gpt2-medium": "d24", "gpt2-large": "d36", "gpt2-xl": "d48"}


def preset(name: str) -> ModelConfig:
    """The configuration with this name (or `gpt2:NAME`, as llm.c writes it). Raises ConfigError for an unknown one."""
    key = str(name).removeprefix("gpt2:")
    key = PRESET_ALIASES.get(key, key)
    if key not in PRESETS:
        raise ConfigError(f"preset is {shorten(name)}; it must be one of {', '.join([*PRESETS, *PRESET_ALIASES])}")
    return PRESETS[key]
