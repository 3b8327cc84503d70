"""llama2.c's `.bin` files: LLaMA models for Karpathy's run.c (float32, version 0) and runq.c (int8, version 2).

    version 0   dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len: int32. vocab_size is negative where
                the head has weights of its own. Float32 weights, then two tables of rotations that nobody reads, then
                the head. There is no magic number: the sizes must ask for exactly the bytes that the file has.
    version 1   "24ka", version, the seven sizes, u8 whether the head is the embedding; 256 bytes of header; float32.
    version 2   the same header, with the group size behind the flag. Norms in float32; each matrix as int8, followed
                by a float32 scale for every group of numbers that follow each other.

Matrices are (out, in), rotary pairs lie side by side, and each kind of weight is there for all blocks in a row. The
files say nothing about rotary base and epsilon: both programs compute with 10000 and 1e-5.
Source: export.py, run.c and runq.c of github.com/karpathy/llama2.c.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from gollm.errors import FormatError
from gollm.formats.encodings import CHUNK, Encoding, Float32, read_into
from gollm.formats.flat.layout import Layout, open_flat
from gollm.formats.opening import first_bytes
from gollm.formats.source import ModelFormat, Source, StorageType
from gollm.formats.tokenizer_beside import TokenizerBeside, read_beside
from gollm.kernels import Array
from gollm.model.config import MAX_LAYERS, ModelConfig
from gollm.model.generation_defaults import GenerationDefaults
from gollm.system.files import replacing
from gollm.tokenizers.files import llama2c as llama2c_tokenizer

MAGIC = 0x616B3432
SIZES = ("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "seq_len")
_LEGACY = struct.Struct("<7i")
_HEADER = struct.Struct("<Ii7iB")  # magic, version, sizes, whether the head is the embedding
_GROUP = struct.Struct("<i")  # behind it in version 2
HEADER_BYTES = 256  # of versions 1 and 2
LLAMA2_VOCABULARY = 32000
GROUP_SIZE = 64  # halved until it divides the rows

# What run.c and runq.c compute with, whatever the model was trained with.
_FIXED = {
    "activation": "silu",
    "norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "rope_scaling": "none",
}
BEGIN, END = 1, 2  # run.c starts with the one, and stops at it; its chat stops at the other


@dataclass(frozen=True)
class Int8Groups:
    """int8 values, then a float32 scale for each `group` of them: value * scale, scale = max |w| / 127."""

    group: int

    def n_bytes(self, n: int) -> int:
        return n + 4 * (n // self.group)

    def read(self, file: BinaryIO, out: Array) -> None:
        for start in range(0, out.size, CHUNK):
            part = out[start : start + CHUNK]
            values = np.empty(part.size, np.int8)
            read_into(file, values)
            part[:] = values
        scales = np.empty(out.size // self.group, np.float32)
        read_into(file, scales)
        out.reshape(-1, self.group)[:] *= scales[:, None]

    def write(self, file: BinaryIO, values: Array) -> None:
        groups = values.reshape(-1, self.group)
        step = max(1, CHUNK // self.group)
        all_scales = np.empty(len(groups), np.float32)
        for start in range(0, len(groups), step):
            part = groups[start : start + step]
            scales = np.abs(part).max(1) / np.float32(127)
            if not np.isfinite(scales).all():
                raise FormatError("a weight is NaN or infinite, which int8 cannot hold")
            all_scales[start : start + step] = scales
            # A group of zeros has the scale zero. Only where the scale is subnormal does clipping change anything.
            quotients = np.divide(part, scales[:, None], out=np.zeros_like(part), where=scales[:, None] > 0)
            file.write(np.clip(np.rint(quotients), -127, 127).astype(np.int8).data)
        file.write(all_scales.data)


def _config(sizes: tuple[int, ...], *, tied: bool) -> ModelConfig:
    named = dict(zip(SIZES, sizes, strict=True))
    for name, value in named.items():
        if value < 1:
            raise FormatError(f"its {name} is {value}; it must be positive")
    if named["n_layers"] > MAX_LAYERS:
        raise FormatError(f"its n_layers is {named['n_layers']:,}; gollm reads up to {MAX_LAYERS:,}")
    return ModelConfig.from_dict(
        {**named, **_FIXED, "norm": "rmsnorm", "position": "rope", "gated_mlp": True, "bias": False, "tied_head": tied},
        where="its header",
    )


def _layout(config: ModelConfig, version: int, group: int = GROUP_SIZE) -> Layout:
    L, C, F, V = config.n_layers, config.d_model, config.d_ff, config.vocab_size
    KV = config.n_kv_heads * config.head_dim
    matrix: Encoding = Int8Groups(group) if version == 2 else Float32()
    layout = Layout(_LEGACY.size if version == 0 else HEADER_BYTES, "int8" if version == 2 else "float32")
    embedding = partial(layout.add, "token_embedding", V * C, matrix)
    attention_norms = partial(layout.add, "attention_norm.weight", C, Float32(), L)
    mlp_norms = partial(layout.add, "mlp_norm.weight", C, Float32(), L)
    norm = partial(layout.add, "norm.weight", C, Float32())

    def attention() -> None:
        for rows in (C, KV, KV):  # wq, wk, wv
            layout.add("attention.qkv.weight", rows * C, matrix, L)
        layout.add("attention.output.weight", C * C, matrix, L)

    def mlp() -> None:
        for part in ("gate", "down", "up"):  # w1, w2, w3
            layout.add(f"mlp.{part}.weight", F * C, matrix, L)

    order = (
        (embedding, attention_norms, attention, mlp_norms, mlp, norm)
        if version == 0
        else (attention_norms, mlp_norms, norm, embedding, attention, mlp)
    )
    for add in order:
        add()
    if version == 0:
        layout.skip(2 * 4 * config.context * (config.head_dim // 2))
    if not config.tied_head:
        layout.add("head", V * C, matrix)
    return layout


def _parse(header: bytes) -> tuple[ModelConfig, Layout]:
    if not header.startswith(_GROUP.pack(MAGIC)):
        if len(header) < _LEGACY.size:
            raise FormatError(f"it ends within its header of {_LEGACY.size} bytes")
        *sizes, vocab_size, seq_len = _LEGACY.unpack_from(header)
        config = _config((*sizes, abs(vocab_size), seq_len), tied=vocab_size > 0)
        return config, _layout(config, 0)
    if len(header) < HEADER_BYTES:
        raise FormatError(f"it ends within its header of {HEADER_BYTES} bytes")
    _, version, *sizes, shared = _HEADER.unpack_from(header)
    if version not in (1, 2):
        raise FormatError(f"its version is {version}; gollm reads 0, 1 and 2")
    if shared not in (0, 1):
        raise FormatError(f"its flag of a shared head is {shared}; it must be 0 or 1")
    config = _config(tuple(sizes), tied=bool(shared))
    if version == 1:
        return config, _layout(config, 1)
    (group,) = _GROUP.unpack_from(header, _HEADER.size)
    C, KV = config.d_model, config.n_kv_heads * config.head_dim
    for name, size in (
        ("embedding", config.vocab_size * C),
        ("wq", C * C),
        ("wk", KV * C),
        ("w1", config.d_ff * C),
    ):
        if group < 1 or size % group:
            raise FormatError(f"its group size is {group}; it must divide the {size:,} numbers of {name}")
    return config, _layout(config, 2, group)


def _recognises(path: Path) -> bool:
    """Whether it begins with the magic number, or, as version 0 has none, with seven sizes of a possible model."""
    header = first_bytes(path, HEADER_BYTES)
    if header.startswith(_GROUP.pack(MAGIC)):
        return True
    if len(header) < _LEGACY.size:
        return False
    dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len = _LEGACY.unpack_from(header)
    return bool(
        min(dim, hidden_dim, n_layers, n_heads, n_kv_heads, abs(vocab_size), seq_len) > 0
        and max(dim, hidden_dim, abs(vocab_size), seq_len) <= 1 << 24
        and n_layers <= MAX_LAYERS
        and dim % (2 * n_heads) == 0
        and n_heads % n_kv_heads == 0
    )


def _read(path: Path) -> Source:
    source = open_flat(path, "llama2.c model", HEADER_BYTES, _parse)
    V = source.config.vocab_size
    if V > END:
        source.defaults = GenerationDefaults(stop_tokens=(BEGIN, END), bos_token=BEGIN)
    read_beside(source, path, _tokenizer_names(V), lambda file: llama2c_tokenizer.read(file, V))
    return source


def _tokenizer_names(vocab_size: int) -> tuple[str, str]:
    """What llama2.c calls the tokenizer beside a model: of a vocabulary of one's own, and of LLaMA-2."""
    return f"tok{vocab_size}.bin", "tokenizer.bin"


def _check(config: ModelConfig) -> None:
    """Raises FormatError for a model that run.c and runq.c would not compute as gollm does."""
    if config.family != "llama":
        raise FormatError(
            f"llama2.c's files hold models of the LLaMA family; this one has norm {config.norm!r}, "
            f"position {config.position!r} and gated_mlp {config.gated_mlp}"
        )
    for name, value in _FIXED.items():
        if getattr(config, name) != value:
            raise FormatError(f"llama2.c computes with {name} {value}, and this model has {getattr(config, name)}")
    if config.n_heads * config.head_dim != config.d_model:
        raise FormatError(
            f"llama2.c needs n_heads * head_dim = d_model, and this model has {config.n_heads} * {config.head_dim} "
            f"and {config.d_model}"
        )
    for layers in ("qkv", "output", "mlp"):
        if config.has_bias(layers):
            raise FormatError(f"llama2.c's files have no biases, and this model has them ({layers}_bias)")
    if config.sliding_window is not None and config.sliding_window < config.context:
        raise FormatError(
            f"llama2.c attends to all tokens, and this model has a sliding_window of {config.sliding_window}"
        )


def _write_rotations(file: BinaryIO, config: ModelConfig) -> None:
    """The tables behind the norms of version 0: cos, then sin, of position / theta^(2i / D).  (context, D / 2) each"""
    D, step = config.head_dim, 4096
    frequencies = config.rope_theta ** (-np.arange(0, D, 2) / D)
    for function in (np.cos, np.sin):
        for start in range(0, config.context, step):
            positions = np.arange(start, min(start + step, config.context))
            file.write(function(positions[:, None] * frequencies).astype(np.float32).data)


def _write(source: Source, path: Path, dtype: StorageType) -> None:
    """f32: version 0, which run.c reads; q8_0: version 2, which runq.c reads. SentencePiece tokenizers go beside it."""
    config = source.config
    _check(config)
    own, llama2 = _tokenizer_names(config.vocab_size)
    name = llama2 if config.vocab_size == LLAMA2_VOCABULARY else own
    beside = TokenizerBeside(source, path, name, llama2c_tokenizer.FORMAT)
    sizes = (config.d_model, config.d_ff, config.n_layers, config.n_heads, config.n_kv_heads)
    V, context = config.vocab_size, config.context
    if dtype == "f32":
        layout = _layout(config, 0)
        header = _LEGACY.pack(*sizes, V if config.tied_head else -V, context)
    else:
        group = GROUP_SIZE
        while config.d_model % group or config.d_ff % group:  # runq.c takes no group that crosses the end of a row
            group //= 2
        layout = _layout(config, 2, group)
        header = _HEADER.pack(MAGIC, 2, *sizes, V, context, config.tied_head) + _GROUP.pack(group)
    with replacing(path, FormatError) as file:
        file.write(header)
        layout.write(file, source)
        if dtype == "f32":
            tables = 2 * 4 * context * (config.head_dim // 2)
            behind = 0 if config.tied_head else 4 * V * config.d_model
            file.seek(layout.size - behind - tables)
            _write_rotations(file, config)
    beside.write()


FORMAT = ModelFormat("llama2.c", _recognises, _read, _write, ("f32", "q8_0"))
