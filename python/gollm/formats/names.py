"""What other programs call each parameter."""

from __future__ import annotations

import itertools
from typing import Literal, TypeAlias

from gollm.model.config import ModelConfig
from gollm.nn.parameters import Parameter

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
Program: TypeAlias = Literal["huggingface", "gguf"]
_TABLES = {
    "huggingface": {"gpt2": _GPT2, "llama": _LLAMA},
    "gguf": {"gpt2": _GGUF, "llama": _GGUF_LLAMA},
}


def names_of(name: str, config: ModelConfig, program: Program) -> tuple[str, ...]:
    """The names of a parameter in a format; several where they are its parts along the first axis. The configuration
    must be of a family that the format has.

    >>> llama = ModelConfig(position="rope", norm="rmsnorm", gated_mlp=True)
    >>> names_of("blocks.3.mlp.up.weight", llama, "gguf")
    ('blk.3.ffn_up.weight',)
    """
    assert config.family is not None
    part, block = name, ""
    if name.startswith("blocks."):
        _, block, part = name.split(".", 2)
    stem, dot, kind = part.rpartition(".") if part.endswith((".weight", ".bias")) else (part, "", "")
    theirs = _TABLES[program][config.family][stem]
    return tuple(other.format(i=block) + dot + kind for other in theirs.split())


def rows_of(parameter: Parameter, config: ModelConfig, program: Program) -> list[tuple[str, int, int]]:
    """(name, first row, end) of each tensor that a parameter consists of in a format, in order: one, or the rows of
    queries, keys and values."""
    names = names_of(parameter.name, config, program)
    heads = (config.n_heads, config.n_kv_heads, config.n_kv_heads)
    rows = [n * config.head_dim for n in heads] if len(names) == 3 else [parameter.shape[0]]
    ends = itertools.accumulate(rows)
    return [(name, end - n, end) for name, n, end in zip(names, rows, ends, strict=True)]
