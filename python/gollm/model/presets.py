"""Shapes that have a name: the fields of gollm.model.config.ModelConfig in which each differs from the defaults, which
are those of GPT-2 124M."""

from __future__ import annotations

from typing import Any


def _gpt2(n_layers: int, n_heads: int, d_model: int, **fields: Any) -> dict[str, Any]:
    return {"n_layers": n_layers, "n_heads": n_heads, "d_model": d_model, **fields}


def _llama(
    n_layers: int, n_heads: int, n_kv_heads: int, head_dim: int, d_model: int, d_ff: int, **fields: Any
) -> dict[str, Any]:
    llama = {
        "gated_mlp": True,
        "activation": "silu",
        "norm": "rmsnorm",
        "bias": False,
        "position": "rope",
        "context": 2048,
        "tied_head": False,
    }
    shape = {"n_kv_heads": n_kv_heads, "head_dim": head_dim, "d_ff": d_ff}
    return _gpt2(n_layers, n_heads, d_model) | llama | shape | fields


_LLAMA_3 = {"vocab_size": 128256, "rope_theta": 500000.0}
_LLAMA_32 = _LLAMA_3 | {
    "tied_head": True,
    "context": 131072,
    "rope_scaling": "llama3",
    "rope_factor": 32.0,
    "rope_original_context": 8192,
}
_QWEN_25 = {
    "vocab_size": 151936,
    "tied_head": True,
    "context": 32768,
    "qkv_bias": True,
    "rope_theta": 1e6,
    "norm_eps": 1e-6,
}
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": _gpt2(2, 2, 64, vocab_size=512, context=64),
    "small": _gpt2(4, 4, 128, vocab_size=1000, context=128),
    "medium": _gpt2(6, 6, 384, vocab_size=2000, context=256),
    "large": _gpt2(12, 12, 768, vocab_size=5000, context=512),
    "d12": _gpt2(12, 12, 768),  # GPT-2 124M
    "d24": _gpt2(24, 16, 1024),  # GPT-2 350M
    "d36": _gpt2(36, 20, 1280),  # GPT-2 774M
    "d48": _gpt2(48, 25, 1600),  # GPT-2 1558M
    "gollm-85m": _llama(12, 12, 4, 64, 768, 1536, vocab_size=32768, tied_head=True),
    "llama-3.2-1b": _llama(16, 32, 8, 64, 2048, 8192, **_LLAMA_32),
    "llama-3.2-3b": _llama(28, 24, 8, 128, 3072, 8192, **_LLAMA_32),
    "llama-3-8b": _llama(32, 32, 8, 128, 4096, 14336, **_LLAMA_3, context=8192),
    "tinyllama-1.1b": _llama(22, 32, 4, 64, 2048, 5632, vocab_size=32000),
    "smollm-135m": _llama(30, 9, 3, 64, 576, 1536, vocab_size=49152, tied_head=True),
    "smollm-360m": _llama(32, 15, 5, 64, 960, 2560, vocab_size=49152, tied_head=True),
    "qwen-2.5-0.5b": _llama(24, 14, 2, 64, 896, 4864, **_QWEN_25),
}
OTHER_NAMES = {"gpt2": "d12", "gpt2-medium": "d24", "gpt2-large": "d36", "gpt2-xl": "d48"}
