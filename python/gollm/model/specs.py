"""Every parameter of a configuration: its name, shape and start, and what it is called in the formats of others."""

from __future__ import annotations

import math

from gollm.model.config import ModelConfig
from gollm.nn.parameters import ParameterSpec

# gollm's name -> the names in Hugging Face's GPT-2 and LLaMA files, and in GGUF files of either architecture. Where
# there are several, they are the parts of the parameter along its first axis. {i} is the block.
_GPT2 = {
    "token_embedding": "transformer.wte.weight",
    "position_embedding": "transformer.wpe.weight",
    "attention_norm": "transformer.h.{i}.ln_1",
    "attention.qkv": "transformer.h.{i}.attn.c_attn",
    "attention.output": "transformer.h.{i}.attn.c_proj",
    "mlp_norm": "transformer.h.{i}.ln_2",
    "mlp.up": "transformer.h.{i}.mlp.c_fc",
    "mlp.down": "transformer.h.{i}.mlp.c_proj",
    "norm": "transformer.ln_f",
    "head": "lm_head.weight",
}
_LLAMA = {
    "token_embedding": "model.embed_tokens.weight",
    "attention_norm": "model.layers.{i}.input_layernorm",
    "attention.qkv": "model.layers.{i}.self_attn.q_proj model.layers.{i}.self_attn.k_proj "
    "model.layers.{i}.self_attn.v_proj",
    "attention.output": "model.layers.{i}.self_attn.o_proj",
    "mlp_norm": "model.layers.{i}.post_attention_layernorm",
    "mlp.gate": "model.layers.{i}.mlp.gate_proj",
    "mlp.up": "model.layers.{i}.mlp.up_proj",
    "mlp.down": "model.layers.{i}.mlp.down_proj",
    "norm": "model.norm",
    "head": "lm_head.weight",
}
_GGUF = {
    "token_embedding": "token_embd.weight",
    "position_embedding": "position_embd.weight",
    "attention_norm": "blk.{i}.attn_norm",
    "attention.qkv": "blk.{i}.attn_qkv",
    "attention.output": "blk.{i}.attn_output",
    "mlp_norm": "blk.{i}.ffn_norm",
    "mlp.gate": "blk.{i}.ffn_gate",
    "mlp.up": "blk.{i}.ffn_up",
    "mlp.down": "blk.{i}.ffn_down",
    "norm": "output_norm",
    "head": "output.weight",
}
_GGUF_LLAMA = {**_GGUF, "attention.qkv": "blk.{i}.attn_q blk.{i}.attn_k blk.{i}.attn_v"}
_FAMILIES = {
    "gpt2": {"huggingface": _GPT2, "gguf": _GGUF},
    "llama": {"huggingface": _LLAMA, "gguf": _GGUF_LLAMA},
}


def parameter_specs(config: ModelConfig) -> list[ParameterSpec]:
    """Every parameter in the order of the forward pass. Starts as GPT-2's: normal(0, 0.02), output projections of the
    residual stream scaled down by sqrt(2 n_layers), norms one, biases zero."""
    C, F, E = config.d_model, config.ff_size, config.qkv_size
    P = config.n_heads * config.head_size
    std, projection_std = 0.02, 0.02 / math.sqrt(2 * config.n_layers)
    formats = _FAMILIES.get(config.family or "", {})
    specs: list[ParameterSpec] = []

    def add(
        part: str,
        shape: tuple[int, ...],
        std: float = 0.0,
        *,
        constant: float = 0.0,
        split: int | None = None,
        block: int | None = None,
        kind: str = "",
    ) -> None:
        """`part` is a key of the tables above, `kind` ".weight", ".bias" or nothing."""
        others = {
            name: tuple(other.format(i=block) + kind for other in table[part].split())
            for name, table in formats.items()
        }
        name = part if block is None else f"blocks.{block}.{part}"
        specs.append(ParameterSpec(name + kind, shape, std, constant, split, others))

    def add_linear(
        part: str, block: int, shape: tuple[int, int], *, std: float = std, split: int = 0, bias: bool
    ) -> None:
        add(part, shape, std, split=split, block=block, kind=".weight")
        if bias:  # it is split with the outputs, or not at all
            add(part, shape[:1], split=0 if split == 0 else None, block=block, kind=".bias")

    def add_norm(part: str, block: int | None = None) -> None:
        add(part, (C,), constant=1.0, block=block, kind=".weight")
        if config.norm_bias:
            add(part, (C,), block=block, kind=".bias")

    add("token_embedding", (config.vocab_size, C), std, split=0)
    if config.position == "learned":
        add("position_embedding", (config.context, C), std)
    for i in range(config.n_layers):
        add_norm("attention_norm", i)
        add_linear("attention.qkv", i, (E, C), bias=config.has_bias("qkv"))
        add_linear("attention.output", i, (C, P), std=projection_std, split=1, bias=config.has_bias("output"))
        add_norm("mlp_norm", i)
        if config.gated_mlp:
            add_linear("mlp.gate", i, (F, C), bias=config.has_bias("mlp"))
        add_linear("mlp.up", i, (F, C), bias=config.has_bias("mlp"))
        add_linear("mlp.down", i, (C, F), std=projection_std, split=1, bias=config.has_bias("mlp"))
    add_norm("norm")
    if not config.tied_head:
        add("head", (config.vocab_size, C), std, split=0)
    return specs
