"""Hugging Face's config.json as a ModelConfig and back: model_type gpt2, llama, mistral and qwen2.

Keys are those of transformers 4 and 5: the rotation in rope_theta and rope_scaling or in rope_parameters. What they
ask for and gollm has not got is refused by its name and value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gollm.config import ModelConfig
from gollm.errors import ConfigError, FormatError
from gollm.interop.source import StorageType
from gollm.strict_json import shorten

_DTYPES: dict[StorageType, str] = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
_ACTIVATIONS = {"gelu_tanh": "gelu_pytorch_tanh"}  # gollm's name -> theirs, where they differ

# Keys of any model, with the values that leave the architecture as it is. None does so everywhere.
_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": (False,),
    "attn_logit_softcapping": (),
    "auto_map": (),
    "embedding_multiplier": (1,),
    "final_logit_softcapping": (),
    "is_encoder_decoder": (False,),
    "logits_scaling": (1,),
    "n_routed_experts": (0,),
    "num_experts": (0,),
    "num_local_experts": (0,),
    "partial_rotary_factor": (1,),
    "pruned_heads": ({},),
    "quantization_config": (),
    "residual_multiplier": (1,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "scale_attn_weights": (True,),
    "use_qk_norm": (False,),
}

Values = Mapping[str, Any]


def from_json(values: Values, where: str) -> ModelConfig:
    """The configuration in a parsed config.json. Raises FormatError, which begins with `where`."""
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in _READERS:
        raise FormatError(f"{where}: model_type is {shorten(kind)}; gollm reads {', '.join(_READERS)}")
    for key, allowed in _WITHOUT_EFFECT.items():
        value = values.get(key)
        if value is not None and value not in allowed:
            raise FormatError(
                f"{where}: {key} is {shorten(value)}, which gollm has not got"
                + (f"; it reads {key} {' or '.join(map(repr, allowed))} only" if allowed else "")
            )
    try:
        return ModelConfig(**_READERS[kind](values, where))
    except ConfigError as error:
        raise FormatError(f"{where}: {error}") from None


def _needed(values: Values, key: str, where: str) -> Any:
    if values.get(key) is None:
        raise FormatError(f"{where}: {key} is missing; a model of type {values['model_type']} needs it")
    return values[key]


def _gpt2(values: Values, where: str) -> dict[str, Any]:
    context = "n_positions" if "n_positions" in values or "n_ctx" not in values else "n_ctx"  # an old name
    return {
        "n_layers": _needed(values, "n_layer", where),
        "n_heads": _needed(values, "n_head", where),
        "d_model": _needed(values, "n_embd", where),
        "vocab_size": _needed(values, "vocab_size", where),
        "context": _needed(values, context, where),
        "d_ff": values.get("n_inner"),
        "activation": values.get("activation_function", "gelu_new"),
        "norm_eps": values.get("layer_norm_epsilon", 1e-5),
        "tied_head": values.get("tie_word_embeddings", True),
        "dropout": values.get("resid_pdrop", 0.0),
    }


def _llama(values: Values, where: str) -> dict[str, Any]:
    attention_bias = values.get("attention_bias", False)
    return _rotary(values, where) | {
        "bias": False,
        "qkv_bias": attention_bias,
        "output_bias": attention_bias,
        "mlp_bias": values.get("mlp_bias", False),
    }


def _mistral(values: Values, where: str) -> dict[str, Any]:
    return _rotary(values, where) | {"bias": False, "sliding_window": values.get("sliding_window", 4096)}


def _qwen2(values: Values, where: str) -> dict[str, Any]:
    return _rotary(values, where) | {"bias": False, "qkv_bias": True, "sliding_window": _qwen2_window(values, where)}


def _qwen2_window(values: Values, where: str) -> Any:
    """The window, if all layers have it."""
    window = values.get("sliding_window", 4096)
    if window is None or not values.get("use_sliding_window", False):
        return None
    first, layers, types = values.get("max_window_layers", 28), values["num_hidden_layers"], values.get("layer_types")
    if isinstance(types, list):
        found = [kind for kind in ("full_attention", "sliding_attention") if kind in types]
        if len(found) == 2 or not all(kind in found for kind in types):
            raise FormatError(
                f"{where}: layer_types is {shorten(types)}; gollm has a sliding window in all layers or in none"
            )
        return window if found == ["sliding_attention"] else None
    if not isinstance(first, int) or not isinstance(layers, int) or 0 < first < layers:
        raise FormatError(
            f"{where}: max_window_layers is {shorten(first)} of {shorten(layers)}; gollm has a sliding window in all "
            "layers or in none"
        )
    return window if first <= 0 else None


def _rotary(values: Values, where: str) -> dict[str, Any]:
    """What the LLaMA family has in common."""
    return {
        "norm": "rmsnorm",
        "position": "rope",
        "gated_mlp": True,
        "n_layers": _needed(values, "num_hidden_layers", where),
        "n_heads": _needed(values, "num_attention_heads", where),
        "n_kv_heads": values.get("num_key_value_heads"),
        "head_dim": values.get("head_dim"),
        "d_model": _needed(values, "hidden_size", where),
        "d_ff": _needed(values, "intermediate_size", where),
        "vocab_size": _needed(values, "vocab_size", where),
        "context": _needed(values, "max_position_embeddings", where),
        "activation": values.get("hidden_act", "silu"),
        "norm_eps": values.get("rms_norm_eps", 1e-6),
        "tied_head": values.get("tie_word_embeddings", False),
        **_rope(values, where),
    }


def _rope(values: Values, where: str) -> dict[str, Any]:
    key = next((key for key in ("rope_parameters", "rope_scaling") if values.get(key) is not None), None)
    rope = values[key] if key else {}
    if not isinstance(rope, dict) or any(isinstance(value, dict) for value in rope.values()):
        raise FormatError(f"{where}: {key} is {shorten(rope)}; gollm rotates all layers alike, by one set of numbers")
    if rope.get("partial_rotary_factor") not in (None, 1):
        raise FormatError(
            f"{where}: partial_rotary_factor is {shorten(rope['partial_rotary_factor'])}; gollm rotates whole heads"
        )
    kind = rope.get("rope_type", rope.get("type", "default"))
    found = {"rope_theta": rope.get("rope_theta", values.get("rope_theta", 10000.0))}
    if kind == "default":
        return found
    if kind not in ("linear", "llama3"):
        raise FormatError(f"{where}: rope_type is {shorten(kind)}; gollm has default, linear and llama3")
    for name in ("factor",) if kind == "linear" else ("factor", "low_freq_factor", "high_freq_factor"):
        if rope.get(name) is None:
            raise FormatError(f"{where}: {name} of {key} is missing; rope_type {kind} needs it")
        found[f"rope_{name}"] = rope[name]
    if kind == "llama3":
        original = rope.get("original_max_position_embeddings")
        found["rope_original_context"] = values["max_position_embeddings"] if original is None else original
    return found | {"rope_scaling": kind}


_READERS: dict[str, Callable[[Values, str], dict[str, Any]]] = {
    "gpt2": _gpt2,
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
}


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
    window = config.sliding_window
    if config.has_bias("qkv") and not config.has_bias("output"):
        sliding = {"max_window_layers": 0 if window else config.n_layers}
        return "Qwen2", {"use_sliding_window": window is not None, "sliding_window": window, **sliding}
    if window is not None:
        return "Mistral", {"sliding_window": window}
    return "Llama", {"attention_bias": config.has_bias("qkv"), "mlp_bias": config.has_bias("mlp")}


def _rope_scaling(config: ModelConfig) -> dict[str, Any] | None:
    if config.rope_scaling == "none":
        return None
    factors = {"rope_type": config.rope_scaling, "factor": config.rope_factor}
    if config.rope_scaling == "llama3":
        factors |= {
            "low_freq_factor": config.rope_low_freq_factor,
            "high_freq_factor": config.rope_high_freq_factor,
            "original_max_position_embeddings": config.rope_original_context,
        }
    return factors
