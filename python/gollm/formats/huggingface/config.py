"""Hugging Face's config.json as a ModelConfig and back: model_type gpt2, llama, mistral, ministral and qwen2.

Keys are those of transformers 4 and 5: the rotation in rope_theta and rope_scaling or in rope_parameters, the windows
of layers in max_window_layers or in layer_types. What they ask for and gollm has not got is refused by its name and
value; gollm.formats.huggingface.config_keys says which keys are known.
"""

from __future__ import annotations

from typing import Any

from gollm.errors import ConfigError, FormatError, warn
from gollm.formats.huggingface.config_keys import FULL_ATTENTION, Values, architecture, complete
from gollm.formats.source import StorageType
from gollm.model.config import MAX_LAYERS, ModelConfig
from gollm.system.strict_json import shorten

_DTYPES: dict[StorageType, str] = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
_ACTIVATIONS = {"gelu_tanh": "gelu_pytorch_tanh"}  # gollm's name -> theirs, where they differ
_SLIDING = "sliding_attention"
_ROPE_KEYS = ("rope_type", "type", "rope_theta", "partial_rotary_factor", "factor", "low_freq_factor",
              "high_freq_factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow",
              "short_factor", "long_factor", "mscale", "mscale_all_dim", "truncate", "mrope_section")  # fmt: skip


def from_json(values: Values, where: str) -> ModelConfig:
    """The configuration in a parsed config.json. Raises FormatError, which begins with `where`."""
    kind = architecture(values, where)
    found = complete(values, kind, where)
    layers = found["n_layer" if kind == "gpt2" else "num_hidden_layers"]
    if type(layers) is int and layers > MAX_LAYERS:
        raise FormatError(f"{where}: it has {layers:,} layers; gollm reads up to {MAX_LAYERS:,}")
    try:
        return ModelConfig(**(_gpt2(found) if kind == "gpt2" else _rotary(found, kind, where)))
    except ConfigError as error:
        raise FormatError(f"{where}: {error}") from None


def _gpt2(found: Values) -> dict[str, Any]:
    return {
        "n_layers": found["n_layer"],
        "n_heads": found["n_head"],
        "d_model": found["n_embd"],
        "vocab_size": found["vocab_size"],
        "context": found["n_positions"],
        "d_ff": found["n_inner"],
        "activation": found["activation_function"],
        "norm_eps": found["layer_norm_epsilon"],
        "tied_head": found["tie_word_embeddings"],
        "dropout": found["resid_pdrop"],
    }


def _rotary(found: Values, kind: str, where: str) -> dict[str, Any]:
    """The LLaMA family: they differ in biases and windows."""
    attention_bias = found.get("attention_bias", False)  # llama's
    return {
        "norm": "rmsnorm",
        "position": "rope",
        "gated_mlp": True,
        "n_layers": found["num_hidden_layers"],
        "n_heads": found["num_attention_heads"],
        "n_kv_heads": found["num_key_value_heads"],
        "head_dim": found["head_dim"],
        "d_model": found["hidden_size"],
        "d_ff": found["intermediate_size"],
        "vocab_size": found["vocab_size"],
        "context": found["max_position_embeddings"],
        "activation": found["hidden_act"],
        "norm_eps": found["rms_norm_eps"],
        "tied_head": found["tie_word_embeddings"],
        "bias": False,
        "qkv_bias": kind == "qwen2" or attention_bias,
        "output_bias": attention_bias,
        "mlp_bias": found.get("mlp_bias", False),
        **_windows(found, where),
        **_rope(found, where),
    }


def _windows(found: Values, where: str) -> dict[str, Any]:
    """The window, and the layers that have it."""
    window, types, layers = found.get("sliding_window"), found.get("layer_types"), found["num_hidden_layers"]
    used = found.get("use_sliding_window", True)
    if not isinstance(used, bool):
        raise FormatError(f"{where}: use_sliding_window is {shorten(used)}; it must be true or false")
    if not used:
        window = None
    if types is not None:
        if not isinstance(types, list) or len(types) != layers:
            raise FormatError(f"{where}: layer_types is {shorten(types)}; it must be a list of {shorten(layers)} names")
        for kind in types:
            if kind != _SLIDING and kind not in FULL_ATTENTION:
                raise FormatError(
                    f"{where}: layer_types has {shorten(kind)}; gollm computes {FULL_ATTENTION[0]} and {_SLIDING}"
                )
        windowed = [i for i, kind in enumerate(types) if kind == _SLIDING]
        if windowed and window is None:
            raise FormatError(
                f"{where}: layer_types has {_SLIDING}, but there is no window: sliding_window is "
                f"{shorten(found.get('sliding_window'))} and use_sliding_window {used}"
            )
        return {} if window is None else {"sliding_window": window, "window_layers": windowed}
    first = found.get("max_window_layers", 0)
    if window is None or type(layers) is not int:
        return {"sliding_window": window}
    if type(first) is not int:
        raise FormatError(f"{where}: max_window_layers is {shorten(first)}; it must be a whole number")
    return {"sliding_window": window, "window_layers": list(range(layers))[max(0, first) :]}


def _rope(found: Values, where: str) -> dict[str, Any]:
    """The rotation. As in transformers, rope_scaling wins where both are there, and what a dictionary says of theta."""
    key = "rope_scaling" if found["rope_scaling"] else "rope_parameters"
    rope = found[key] or {}
    if not isinstance(rope, dict) or any(isinstance(value, dict) for value in rope.values()):
        raise FormatError(f"{where}: {key} is {shorten(rope)}; gollm rotates all layers alike, by one set of numbers")
    rope = {name: value for name, value in rope.items() if value is not None}
    kind = rope.get("rope_type", rope.get("type", "default"))
    needed: dict[str, tuple[str, ...]] = {
        "default": (),
        "linear": ("factor",),
        "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    }
    if not isinstance(kind, str) or kind not in needed:
        raise FormatError(f"{where}: rope_type of {key} is {shorten(kind)}; gollm has default, linear and llama3")
    share = rope.get("partial_rotary_factor", found["partial_rotary_factor"])
    if share not in (None, 1):
        raise FormatError(f"{where}: partial_rotary_factor is {shorten(share)}; gollm rotates whole heads")
    for name in rope:
        if name not in _ROPE_KEYS:
            raise FormatError(f"{where}: {key} has the key {shorten(name)} ({shorten(rope[name])}), which is not known")
    used = {*_ROPE_KEYS[:4], *needed[kind], *(("original_max_position_embeddings",) if kind == "llama3" else ())}
    if unused := [name for name in rope if name not in used]:
        warn(f"{where}: {key} has {', '.join(unused)}, which rope_type {kind} does not use; left out")
    theta = rope.get("rope_theta", found["rope_theta"])
    changes = {"rope_theta": 10000.0 if theta is None else theta}
    if kind == "default":
        return changes
    for name in needed[kind]:
        if name not in rope:
            raise FormatError(f"{where}: {name} of {key} is missing; rope_type {kind} needs it")
        changes[f"rope_{name}"] = rope[name]
    if kind == "llama3":  # transformers: a value outside the dictionary comes first
        original = found["original_max_position_embeddings"] or rope.get("original_max_position_embeddings")
        changes["rope_original_context"] = found["max_position_embeddings"] if original is None else original
    return changes | {"rope_scaling": kind}


def holdable(config: ModelConfig, *, qwen2: bool) -> ModelConfig:
    """The configuration as Hugging Face's models have it: with more biases where theirs has them together. Whether
    Qwen-2, which has fewer than LLaMA, may be among them is for the caller to say.

    A bias of zeros changes nothing. Raises FormatError for what none of them has."""
    if config.family is None:
        raise FormatError(
            f"norm {config.norm}, position {config.position} and gated_mlp {config.gated_mlp} together are neither "
            "GPT-2 nor LLaMA: Hugging Face has no model for them that gollm knows"
        )
    if config.family == "gpt2":
        for name, needed in (
            ("n_kv_heads", config.n_heads),
            ("head_dim", config.d_model / config.n_heads),
            ("sliding_window", None),
        ):
            if getattr(config, name) != needed:
                raise FormatError(f"{name} is {getattr(config, name)}; Hugging Face's GPT-2 has {needed}")
        return config.replace(bias=True, qkv_bias=None, output_bias=None, mlp_bias=None)
    qkv, output, mlp = (config.has_bias(part) for part in ("qkv", "output", "mlp"))
    if not (qwen2 and qkv and not output and not mlp):
        qkv = output = qkv or output
    if config.sliding_window is not None and (output or mlp):
        raise FormatError(
            f"sliding_window is {config.sliding_window} beside biases; Hugging Face's Mistral has none, and "
            "Qwen-2, with its own tokenizer, those of queries, keys and values"
        )
    return config.replace(bias=False, qkv_bias=qkv, output_bias=output, mlp_bias=mlp)


def to_json(config: ModelConfig, dtype: StorageType) -> dict[str, Any]:
    """config.json of what `holdable` returns, with the keys that both transformers 4 and 5 read."""
    activation = _ACTIVATIONS.get(config.activation, config.activation)
    common = {"vocab_size": config.vocab_size, "tie_word_embeddings": config.tied_head, "torch_dtype": _DTYPES[dtype]}
    if config.family == "gpt2":
        return {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "n_layer": config.n_layers,
            "n_head": config.n_heads,
            "n_embd": config.d_model,
            "n_positions": config.context,
            "n_inner": config.d_ff,
            "activation_function": "gelu_new" if config.activation == "gelu_tanh" else activation,
            "layer_norm_epsilon": config.norm_eps,
            "resid_pdrop": config.dropout,
            "embd_pdrop": config.dropout,
            "attn_pdrop": 0.0,
            **common,
        }
    name, own = _llama_kind(config)
    return {
        "architectures": [f"{name}ForCausalLM"],
        "model_type": name.lower(),
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff,
        "max_position_embeddings": config.context,
        "hidden_act": activation,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": _rope_scaling(config),
        **own,
        **common,
    }


def _llama_kind(config: ModelConfig) -> tuple[str, dict[str, Any]]:
    """Which of the family it is, and the keys that it alone has."""
    window, windowed = config.sliding_window, [config.window(i) is not None for i in range(config.n_layers)]
    types: dict[str, Any] = {"layer_types": [_SLIDING if sliding else FULL_ATTENTION[0] for sliding in windowed]}
    if config.has_bias("qkv") and not config.has_bias("output"):
        first = windowed.index(True) if window else config.n_layers
        own = {"use_sliding_window": window is not None, "sliding_window": window, "max_window_layers": first}
        return "Qwen2", own | ({} if all(windowed[first:]) else types)
    if window is not None:
        return (
            ("Mistral", {"sliding_window": window})
            if all(windowed)
            else ("Ministral", {"sliding_window": window, **types})
        )
    return "Llama", {"attention_bias": config.has_bias("qkv"), "mlp_bias": config.has_bias("mlp")}


def _rope_scaling(config: ModelConfig) -> dict[str, Any] | None:
    if config.rope_scaling == "none":
        return None
    factors: dict[str, Any] = {"rope_type": config.rope_scaling, "factor": config.rope_factor}
    if config.rope_scaling == "llama3":
        factors |= {
            "low_freq_factor": config.rope_low_freq_factor,
            "high_freq_factor": config.rope_high_freq_factor,
            "original_max_position_embeddings": config.rope_original_context,
        }
    return factors
