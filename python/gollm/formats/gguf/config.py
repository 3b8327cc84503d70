"""Hyper-parameters in GGUF: a model's configuration as keys, and back.

GGUF names architectures, not features. gollm writes "gpt2" and "llama", and reads "qwen2" as well, whose files differ
from llama's in the order of the rows of queries and keys. What these programs compute without a key for it (the
activation, say) is checked; a key of the architecture that is not known may change the result, and is refused.
Source: src/models/*.cpp and llama-model.cpp of github.com/ggml-org/llama.cpp.
"""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias

import numpy as np

from gollm.errors import FormatError
from gollm.formats.gguf.header import GGUFHeader
from gollm.kernels import Array
from gollm.model.config import MAX_LAYERS, ModelConfig
from gollm.system.strict_json import shorten

ARCHITECTURES = ("gpt2", "llama", "qwen2")
ROPE_FREQS = "rope_freqs.weight"

# A key, the name of its type in ggml's package (of its elements, for a list), and its value.
Key: TypeAlias = tuple[str, Literal["UINT32", "INT32", "FLOAT32", "BOOL", "STRING"], Any]

_BASE = ("context_length", "embedding_length", "block_count", "feed_forward_length", "attention.head_count",
         "attention.head_count_kv", "vocab_size")  # fmt: skip
_ROTARY = ("attention.layer_norm_rms_epsilon", "attention.key_length", "attention.value_length",
           "rope.dimension_count", "rope.freq_base", "rope.scaling.type", "rope.scaling.factor", "rope.scale_linear",
           "rope.scaling.original_context_length", "rope.scaling.finetuned", "rope.scaling.yarn_beta_fast",
           "rope.scaling.yarn_beta_slow")  # fmt: skip
_KNOWN = {
    "gpt2": (*_BASE, "attention.layer_norm_epsilon"),
    "llama": (*_BASE, *_ROTARY),
    "qwen2": (*_BASE, *_ROTARY),
}
# Keys that mean nothing at these values. llama.cpp takes a scale of 0 for none; numbers of experts, of the ranks of
# other kinds of attention and so on are 0 in models that have none.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "tensor_data_layout": ("Meta AI original pth",),
    "attention.causal": (True,), "use_parallel_residual": (False,), "swin_norm": (False,),
    "expert_weights_norm": (False,), "pooling_type": (0,),
    **dict.fromkeys(("logit_scale", "residual_scale", "embedding_scale", "expert_weights_scale"), (0, 1)),
    **dict.fromkeys(("attention.output_scale", "attention.value_scale", "num_loops"), (1,)),
    **dict.fromkeys(
        ("expert_count", "expert_used_count", "expert_shared_count", "expert_group_count", "expert_group_used_count",
         "expert_feed_forward_length", "expert_shared_feed_forward_length", "expert_gating_func",
         "leading_dense_block_count", "nextn_predict_layers", "n_deepstack_layers", "embedding_length_out",
         "attn_logit_softcapping", "final_logit_softcapping", "router_logit_softcapping", "attention.clamp_kqv",
         "attention.max_alibi_bias", "attention.temperature_scale", "attention.q_lora_rank", "attention.kv_lora_rank",
         "attention.relative_buckets_count", "attention.shared_kv_layers", "attention.sliding_window",
         "rope.scaling.alpha", "rope.scaling.yarn_log_multiplier"), (0,)),
    "rope.scaling.attn_factor": (1,), "rope.scaling.yarn_attn_factor": (1,), "rope.scaling.yarn_ext_factor": (-1, 0),
    "rope.scaling.type": ("none",), "rope.scaling.factor": (0, 1), "rope.scale_linear": (0, 1),
}  # fmt: skip


def config_of(header: GGUFHeader) -> ModelConfig:
    """The configuration that a file's keys and tensors describe. Raises FormatError for what gollm does not compute."""
    arch = header.get("general.architecture", str)
    if arch not in ARCHITECTURES:
        raise FormatError(f"its architecture is {shorten(arch)}; gollm computes {', '.join(ARCHITECTURES)}")
    _check_keys(header, arch)
    n_layers = _count(header, f"{arch}.block_count")
    if n_layers > MAX_LAYERS:
        raise FormatError(f"its {arch}.block_count is {n_layers:,}; gollm reads up to {MAX_LAYERS:,}")
    heads = _count(header, f"{arch}.attention.head_count")
    values: dict[str, Any] = {
        "n_layers": n_layers,
        "n_heads": heads,
        "n_kv_heads": _count(header, f"{arch}.attention.head_count_kv", heads),
        "d_model": _count(header, f"{arch}.embedding_length"),
        "d_ff": _count(header, f"{arch}.feed_forward_length"),
        "context": _count(header, f"{arch}.context_length"),
        "vocab_size": _vocab_size(header),
        "tied_head": "output.weight" not in header.tensors,
    }
    return ModelConfig.from_dict(values | _family(header, arch, values), where="its header")


def _family(header: GGUFHeader, arch: str, sizes: dict[str, Any]) -> dict[str, Any]:
    """What is different between the two families."""
    if arch == "gpt2":
        return {"norm_eps": header.get("gpt2.attention.layer_norm_epsilon", float)}
    head_dim = header.get(f"{arch}.attention.key_length", int, sizes["d_model"] // max(1, sizes["n_heads"]))
    for key in ("attention.value_length", "rope.dimension_count"):
        value = header.get(f"{arch}.{key}", int, head_dim)
        if value != head_dim:
            raise FormatError(f"its {arch}.{key} is {value}, and its heads have {head_dim} values: not supported")
    base = header.get(f"{arch}.rope.freq_base", float, 10000.0)
    biases = {
        f"{layers}_bias": f"blk.0.{tensor}.bias" in header.tensors or None
        for layers, tensor in (("qkv", "attn_q"), ("output", "attn_output"), ("mlp", "ffn_up"))
    }
    return {
        "norm": "rmsnorm",
        "norm_eps": header.get(f"{arch}.attention.layer_norm_rms_epsilon", float),
        "position": "rope",
        "gated_mlp": True,
        "activation": "silu",
        "bias": False,
        **biases,
        "head_dim": head_dim,
        "rope_theta": base,
        **_linear_scaling(header, arch),
    }


def _linear_scaling(header: GGUFHeader, arch: str) -> dict[str, Any]:
    """A factor without a type is linear, as in llama.cpp; its older files have another name for the factor."""
    kind = header.get(f"{arch}.rope.scaling.type", str, "linear")
    if kind not in ("none", "linear", "yarn"):
        raise FormatError(f"its {arch}.rope.scaling.type is {shorten(kind)}; gollm computes none and linear")
    old = header.get(f"{arch}.rope.scale_linear", float, 0.0)
    factor = header.get(f"{arch}.rope.scaling.factor", float, old)
    if kind == "none" or factor in (0.0, 1.0):
        return {}
    if kind == "yarn":
        raise FormatError(f"its {arch}.rope.scaling.type is 'yarn' with the factor {factor}; gollm computes linear")
    return {"rope_scaling": "linear", "rope_factor": factor}


def _check_keys(header: GGUFHeader, arch: str) -> None:
    sizes = _neutral_of_heads(header, arch)
    for key, value in header.values.items():
        if key == "split.count" and header.get(key, int) > 1:
            raise FormatError(f"it is one of {shorten(value)} parts; put them together first: llama-gguf-split --merge")
        name = key.removeprefix(f"{arch}.")
        if name == key or name in _KNOWN[arch]:
            continue
        if (
            name == "attention.sliding_window"
            and type(value) is int
            and value >= header.get(f"{arch}.context_length", int)
        ):
            continue
        neutral = _NEUTRAL.get(name, ()) + sizes.get(name, ())
        if not any(_same(value, one) for one in neutral):
            raise FormatError(f"it has the key {shorten(key)} ({shorten(value)}), which gollm does not compute with")


def _neutral_of_heads(header: GGUFHeader, arch: str) -> dict[str, tuple[Any, ...]]:
    """The values of keys that repeat the size of a head."""
    width, heads = (header.values.get(f"{arch}.{key}") for key in ("embedding_length", "attention.head_count"))
    size = width // heads if type(width) is int and type(heads) is int and heads > 0 else 0
    if arch != "gpt2":
        size = header.values.get(f"{arch}.attention.key_length", size)
    if type(size) is not int or size < 1:
        return {}
    sizes = dict.fromkeys(("attention.key_length", "attention.value_length", "rope.dimension_count"), (size,))
    return {**sizes, "attention.scale": (0, float(str(np.float32(size**-0.5))))}


def _same(value: Any, other: Any) -> bool:
    """Equal, whatever the type of number."""
    kinds = {type(value), type(other)}
    return (len(kinds) == 1 or kinds <= {int, float}) and bool(value == other)


def _count(header: GGUFHeader, key: str, default: int | None = None) -> int:
    """A whole number; a list of one for every layer, if they are all the same."""
    value = header.values.get(key)
    if isinstance(value, np.ndarray) and value.dtype.kind in "iu" and value.size:
        if (value != value[0]).any():
            raise FormatError(f"its {key} is not the same in every layer, which gollm does not compute")
        return int(value[0])
    return header.get(key, int, default)


def _vocab_size(header: GGUFHeader) -> int:
    """The rows of the embedding, which other readers compare with the tokens."""
    if "token_embd.weight" not in header.tensors:
        raise FormatError("it has no tensor 'token_embd.weight'")
    return header.tensors["token_embd.weight"].shape[0]


def keys_of(config: ModelConfig) -> list[Key]:
    """(key, type, value) for a configuration. Raises FormatError for what llama.cpp would not compute as gollm does."""
    arch = config.family
    if arch is None:
        raise FormatError(
            f"GGUF's files hold models like GPT-2 and LLaMA; this one has norm {config.norm!r}, "
            f"position {config.position!r} and gated_mlp {config.gated_mlp}"
        )
    activation = {"gpt2": "gelu_tanh", "llama": "silu"}[arch]
    if config.activation != activation:
        raise FormatError(f"llama.cpp computes {arch} with {activation}, and this model has {config.activation}")
    if config.sliding_window is not None and config.sliding_window < config.context:
        raise FormatError(
            f"llama.cpp attends to all tokens in {arch} models, and this one has a sliding_window of "
            f"{config.sliding_window}"
        )
    keys: list[Key] = [
        (f"{arch}.context_length", "UINT32", config.context),
        (f"{arch}.embedding_length", "UINT32", config.d_model),
        (f"{arch}.block_count", "UINT32", config.n_layers),
        (f"{arch}.feed_forward_length", "UINT32", config.d_ff),
        (f"{arch}.attention.head_count", "UINT32", config.n_heads),
        (f"{arch}.attention.head_count_kv", "UINT32", config.n_kv_heads),
        (f"{arch}.vocab_size", "UINT32", config.vocab_size),
    ]
    if arch == "gpt2":
        if config.n_heads * config.head_dim != config.d_model:
            raise FormatError(
                f"llama.cpp's gpt2 needs n_heads * head_dim = d_model, and this model has {config.n_heads} * "
                f"{config.head_dim} and {config.d_model}"
            )
        return [*keys, ("gpt2.attention.layer_norm_epsilon", "FLOAT32", config.norm_eps)]
    keys += [
        ("llama.attention.layer_norm_rms_epsilon", "FLOAT32", config.norm_eps),
        ("llama.attention.key_length", "UINT32", config.head_dim),
        ("llama.attention.value_length", "UINT32", config.head_dim),
        ("llama.rope.dimension_count", "UINT32", config.head_dim),
        ("llama.rope.freq_base", "FLOAT32", config.rope_theta),
    ]
    if config.rope_scaling == "linear":
        keys += [
            ("llama.rope.scaling.type", "STRING", "linear"),
            ("llama.rope.scaling.factor", "FLOAT32", config.rope_factor),
        ]
    return keys


def rope_divisors(config: ModelConfig) -> Array:
    """What rope_freqs.weight holds of LLaMA-3's scaling: by how much each pair's angle is divided.  (head_dim / 2)"""
    assert config.rope_original_context is not None
    turns = config.rope_original_context * _frequencies(config)  # within the original context
    low, high, factor = config.rope_low_freq_factor, config.rope_high_freq_factor, config.rope_factor
    share = np.clip((turns - low) / (high - low), 0, 1)
    divisors: Array = (1 / ((1 - share) / factor + share)).astype(np.float32)
    return divisors


def _frequencies(config: ModelConfig) -> Array:
    """Turns of each pair per token, without scaling.  (head_dim / 2) float64"""
    frequencies: Array = config.rope_theta ** (-np.arange(0, config.head_dim, 2) / config.head_dim) / (2 * math.pi)
    return frequencies


def with_divisors(config: ModelConfig, divisors: Array) -> ModelConfig:
    """The configuration of a file with the tensor rope_freqs.weight, whose parameters its writer has computed away.

    Between the frequencies a and b (turns per token) 1 / divisor rises in a straight line from 1 / factor to 1. Only
    a = low / original_context and b = high / original_context can be told from it; low is taken as 1, which is what
    LLaMA-3's models have. Raises FormatError for divisors that no parameters make."""
    if (divisors == 1).all():
        return config
    if config.rope_scaling != "none":
        raise FormatError(f"it has both {ROPE_FREQS} and a linear scaling, which gollm does not compute")
    problem = FormatError(f"its {ROPE_FREQS} is not LLaMA-3's scaling of rotations, the only one that gollm computes")
    if not np.isfinite(divisors).all() or divisors.min() < 1:
        raise problem
    f, y = _frequencies(config), 1 / divisors.astype(np.float64)
    factor = float(divisors.max())
    share = (y - 1 / factor) / (1 - 1 / factor)
    between = (share > 1e-6) & (share < 1 - 1e-6)
    slowest = float(f[share <= 1e-6].max())  # there is one: that with the largest divisor
    fastest = float(f[share >= 1 - 1e-6].min(initial=np.inf))
    if between.sum() > 1:
        (first, *_, last), (top, *_, bottom) = f[between], share[between]
        if first == last or top <= bottom:
            raise problem
        run = float((first - last) / (top - bottom))
        a, b = last - bottom * run, first + (1 - top) * run
    elif between.any():  # one point of the line: it begins at the last of the slow ones, or ends at the first fast one
        point, height = float(f[between][0]), float(share[between][0])
        a, b = slowest, slowest + (point - slowest) / height
        if b > fastest:
            a, b = (point - height * fastest) / (1 - height), fastest
    else:
        a, b = slowest, min(fastest, 4 * slowest)
    if not 2**-31 < a < b:
        raise problem
    for original, digits in ((round(1 / a), 5), (math.ceil(1 / a), 15)):  # round numbers, if they do as well
        low, high = (float(f"{original * x:.{digits}g}") for x in (a, b))
        found = config.replace(
            rope_scaling="llama3",
            rope_factor=factor,
            rope_low_freq_factor=max(1.0, low),
            rope_high_freq_factor=high,
            rope_original_context=max(1, original),
        )
        if np.allclose(rope_divisors(found), divisors, rtol=1e-5, atol=0):
            return found
    raise problem
