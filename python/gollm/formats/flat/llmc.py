"""llm.c's `.bin` models: GPT-2 in float32 (version 3) or bfloat16 (version 5).

    256 int32     20240326, version, context, vocabulary V, layers, heads, width C, padded vocabulary Vp; zeros
    weights       token embedding (Vp, C), of which V rows count; position embedding; then each of a block's twelve for
                  all blocks in a row: norm, q k v, output, norm, up, down, weight before bias; the last norm. All of
                  the file's type, matrices (out, in).

llm.c pads the vocabulary to a multiple of 128 with zeros. Its MLP is 4 C wide, and its head the token embedding.
Source: write_model in train_gpt2.py and gpt2_build_from_checkpoint in train_gpt2.c of github.com/karpathy/llm.c.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gollm.errors import FormatError
from gollm.formats.encodings import BFloat16, Encoding, Float32
from gollm.formats.flat.layout import Layout, open_flat
from gollm.formats.opening import first_bytes
from gollm.formats.source import ModelFormat, Source, StorageType
from gollm.formats.tokenizer_beside import TokenizerBeside, read_beside
from gollm.model.config import MAX_LAYERS, ModelConfig
from gollm.model.generation_defaults import GenerationDefaults
from gollm.nn import dtypes
from gollm.system.files import replacing
from gollm.tokenizers.files import llmc as llmc_tokenizer

MAGIC = 20240326
HEADER_BYTES = 1024
VOCABULARY_MULTIPLE = 128
TOKENIZER_NAME = "gpt2_tokenizer.bin"
GPT2_VOCABULARY, GPT2_END = 50257, 50256  # llm.c begins a text with this token, and ends it there

_ENCODINGS: dict[int, Encoding] = {3: Float32(), 5: BFloat16()}
_VERSIONS: dict[StorageType, int] = {"f32": 3, "bf16": 5}

# What llm.c computes with, whatever the model was trained with.
_FIXED = {
    "activation": "gelu_tanh",
    "norm_eps": 1e-5,
    "tied_head": True,
}


def _layout(config: ModelConfig, padded: int, encoding: Encoding) -> Layout:
    L, C, F, V = config.n_layers, config.d_model, config.d_ff, config.vocab_size
    layout = Layout(HEADER_BYTES, "bfloat16" if isinstance(encoding, BFloat16) else "float32")
    layout.add("token_embedding", V * C, encoding)
    layout.skip(encoding.n_bytes((padded - V) * C))
    layout.add("position_embedding", config.context * C, encoding)
    for part, rows, columns in (
        ("attention_norm", C, 1),
        ("attention.qkv", 3 * C, C),
        ("attention.output", C, C),
        ("mlp_norm", C, 1),
        ("mlp.up", F, C),
        ("mlp.down", C, F),
    ):
        layout.add(f"{part}.weight", rows * columns, encoding, L)
        layout.add(f"{part}.bias", rows, encoding, L)
    layout.add("norm.weight", C, encoding)
    layout.add("norm.bias", C, encoding)
    return layout


def _parse(header: bytes) -> tuple[ModelConfig, Layout]:
    if len(header) < HEADER_BYTES:
        raise FormatError(f"it ends within its header of {HEADER_BYTES} bytes")
    values = np.frombuffer(header, "<i4")
    version, *sizes = (int(value) for value in values[1:8])
    if version not in _ENCODINGS:
        raise FormatError(f"its version is {version}; gollm reads 3 (float32) and 5 (bfloat16)")
    names = ("context", "vocab_size", "n_layers", "n_heads", "d_model", "padded vocabulary")
    named = dict(zip(names, sizes, strict=True))
    for name, value in named.items():
        if value < 1:
            raise FormatError(f"its {name} is {value}; it must be positive")
    padded = named.pop("padded vocabulary")
    if padded < named["vocab_size"]:
        raise FormatError(f"its padded vocabulary is {padded}, less than its vocabulary of {named['vocab_size']}")
    if named["n_layers"] > MAX_LAYERS:
        raise FormatError(f"its n_layers is {named['n_layers']:,}; gollm reads up to {MAX_LAYERS:,}")
    config = ModelConfig.from_dict({**named, **_FIXED}, where="its header")
    return config, _layout(config, padded, _ENCODINGS[version])


def _recognises(path: Path) -> bool:
    return first_bytes(path, 4) == MAGIC.to_bytes(4, "little")


def _read(path: Path) -> Source:
    source = open_flat(path, "llm.c model", HEADER_BYTES, _parse)
    if source.dtype == "bfloat16":
        source.half = lambda name: dtypes.bfloat16
    if source.config.vocab_size == GPT2_VOCABULARY:
        source.defaults = GenerationDefaults(stop_tokens=(GPT2_END,), bos_token=GPT2_END)
    V = source.config.vocab_size
    read_beside(source, path, (TOKENIZER_NAME,), lambda file: llmc_tokenizer.read(file, V))
    return source


def _check(config: ModelConfig) -> None:
    """Raises FormatError for a model that llm.c would not compute as gollm does."""
    if config.family != "gpt2":
        raise FormatError(
            f"llm.c's files hold models of the GPT-2 family; this one has norm {config.norm!r}, "
            f"position {config.position!r} and gated_mlp {config.gated_mlp}"
        )
    C, H = config.d_model, config.n_heads
    fixed = {**_FIXED, "norm_bias": True, "n_kv_heads": H, "d_ff": 4 * C}
    for name, value in fixed.items():
        if getattr(config, name) != value:
            raise FormatError(f"llm.c computes with {name} {value}, and this model has {getattr(config, name)}")
    for layers in ("qkv", "output", "mlp"):
        if not config.has_bias(layers):
            raise FormatError(f"llm.c's models have biases everywhere, and this one has none there: {layers}_bias")
    if H * config.head_dim != C:
        raise FormatError(
            f"llm.c needs n_heads * head_dim = d_model, and this model has {H} * {config.head_dim} and {C}"
        )
    if config.sliding_window is not None and config.sliding_window < config.context:
        raise FormatError(
            f"llm.c attends to all tokens, and this model has a sliding_window of {config.sliding_window}"
        )


def _write(source: Source, path: Path, dtype: StorageType) -> None:
    """f32: version 3, bf16: version 5. A tokenizer that cuts text as GPT-2's goes beside it."""
    config = source.config
    _check(config)
    beside = TokenizerBeside(source, path, TOKENIZER_NAME, llmc_tokenizer.FORMAT)
    padded = -(-config.vocab_size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    version = _VERSIONS[dtype]
    header = np.zeros(HEADER_BYTES // 4, "<i4")
    header[:8] = (
        MAGIC,
        version,
        config.context,
        config.vocab_size,
        config.n_layers,
        config.n_heads,
        config.d_model,
        padded,
    )
    with replacing(path, FormatError) as file:
        file.write(header.data)
        _layout(config, padded, _ENCODINGS[version]).write(file, source)
    beside.write()


FORMAT = ModelFormat("llm.c", _recognises, _read, _write, ("f32", "bf16"))
