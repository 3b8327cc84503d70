"""Models in GGUF files, as llama.cpp and programs that stand on it run them.

    header           keys and the table of tensors, read with suspicion
    block_types      the number formats
    config           hyper-parameters as keys
    tokenizer        tokenizer, chat template and defaults of generation as keys

The head of a file is written by ggml's own package, `gguf`. Reading does not need it: its reader believes what a file
says of itself, so that everything would have to be checked before, and nothing would be left for it to do.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader, RawIOBase
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from gollm.errors import FormatError
from gollm.formats.encodings import read_into
from gollm.formats.gguf.block_types import BF16, F16, F32, Q4_0, Q8_0, QUANTISED, TYPES, BlockType, Quantised
from gollm.formats.gguf.config import ROPE_FREQS, Key, config_of, keys_of, rope_divisors, with_divisors
from gollm.formats.gguf.header import ALIGNMENT, MAGIC, GGUFHeader, GGUFTensor, read_header, without_ones
from gollm.formats.gguf.tokenizer import read_defaults, read_ids, read_tokenizer, tokenizer_keys
from gollm.formats.names import rows_of
from gollm.formats.opening import first_bytes, opened, reading, refusing
from gollm.formats.rotary_order import to_interleaved
from gollm.formats.source import ModelFormat, Packed, Source, StorageType
from gollm.kernels import Array
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder
from gollm.nn import dtypes
from gollm.nn.dtypes import DType
from gollm.nn.tensor import FLOAT32
from gollm.quantisation import Codes, joined, pack, unpack
from gollm.system.files import replacing
from gollm.system.strict_json import shorten
from gollm.tokenizers import Tokenizer

_TYPES: dict[StorageType, BlockType] = {"f32": F32, "f16": F16, "bf16": BF16, "q8_0": Q8_0, "q4_0": Q4_0}
_FILE_TYPES = {"f32": 0, "f16": 1, "bf16": 32, "q8_0": 7, "q4_0": 2}  # llama.cpp's names for "mostly of this type"
_HALVES = {BF16.number: dtypes.bfloat16, F16.number: dtypes.float16}
_QUANTIZATION_VERSION = 2

_IGNORED = ".attn_rot_embd.weight"  # tables of rotations in files from 2023


# --- reading ---------------------------------------------------------------------------------------------------------


def recognises(path: Path) -> bool:
    return first_bytes(path, len(MAGIC)) == MAGIC


def read(path: Path) -> Source:
    with _opened(path) as (file, header):
        return _source(path, file, header)


def _read_tokenizer(path: Path) -> tuple[Tokenizer | None, str]:
    """The tokenizer, or why there is none; of a file of a tokenizer alone, too."""
    with _opened(path) as (file, header), file:
        return read_tokenizer(header, read_ids(header, 0))


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, GGUFHeader]]:
    """The file and its head. It is closed when reading it fails, and an error names it."""
    with opened(path) as file, refusing(path, "GGUF model"):
        buffered = BufferedReader(cast(RawIOBase, file))
        header = read_header(buffered, os.fstat(file.fileno()).st_size, str(path))
        buffered.detach()
        yield file, header


def _source(path: Path, file: BinaryIO, header: GGUFHeader) -> Source:
    if not header.tensors:
        raise FormatError("it has no weights; a tokenizer alone is used with --tokenizer")
    config = config_of(header)
    arch = header.get("general.architecture", str)
    if arch == "llama" and ROPE_FREQS in header.tensors:
        divisors = np.empty(config.head_dim // 2, FLOAT32)
        _check_tensor(header, ROPE_FREQS, divisors.shape)
        _read_tensor(file, header.tensors[ROPE_FREQS], divisors)
        config = with_divisors(config, divisors)
    _check_tensors(header, config)
    parts = {name: rows_of(parameter, config, "gguf") for name, parameter in Decoder(config).parameters.items()}
    half_split = arch == "qwen2"

    def packed(name: str) -> Packed | None:
        names = [tensor for tensor, _, _ in parts[name]]
        types = {header.tensors[other].type.number for other in names}
        kind = QUANTISED.get(types.pop())
        if kind is None or types or len(header.tensors[names[0]].shape) != 2:
            return None
        return Packed(kind.dtype, 32, lambda: pack(joined([codes(other, kind) for other in names])))

    def half(name: str) -> DType | None:
        types = {header.tensors[tensor].type.number for tensor, _, _ in parts[name]}
        return _HALVES.get(types.pop()) if len(types) == 1 else None

    def codes(name: str, kind: Quantised) -> Codes:
        tensor = header.tensors[name]
        rows, K = tensor.shape
        blocks = np.empty((rows * K // 32, kind.n), np.uint8)
        with reading(path):
            file.seek(tensor.offset)
            read_into(file, blocks.reshape(-1))
        found = kind.codes(blocks, K)
        if half_split and (".attn_q." in name or ".attn_k." in name):
            found = found.rows(to_interleaved(np.arange(rows), config.head_dim).reshape(-1))
        return found

    def read(name: str, out: Array) -> None:
        with reading(path):
            for tensor, begin, end in parts[name]:
                rows = out[begin:end]
                _read_tensor(file, header.tensors[tensor], rows.reshape(-1))
                if half_split and (".attn_q." in tensor or ".attn_k." in tensor):
                    for start in range(0, len(rows), config.head_dim):
                        one = rows[start : start + config.head_dim]
                        one[:] = to_interleaved(one.copy(), config.head_dim).reshape(one.shape)

    ids = read_ids(header, config.vocab_size)
    tokenizer, without = read_tokenizer(header, ids)
    return Source(
        config,
        read,
        tokenizer,
        read_defaults(header, ids),
        file.close,
        dtype=", ".join(dict.fromkeys(t.type.name for t in header.tensors.values() if len(t.shape) > 1)),
        without_tokenizer=without,
        packed=packed,
        half=half,
    )


def _read_tensor(file: BinaryIO, tensor: GGUFTensor, out: Array) -> None:
    file.seek(tensor.offset)
    tensor.type.encoding.read(file, out)


def _check_tensor(header: GGUFHeader, name: str, shape: tuple[int, ...]) -> None:
    if name not in header.tensors:
        raise FormatError(f"the tensor {name!r} is missing")
    if header.tensors[name].shape != without_ones(shape):
        raise FormatError(f"tensor {name!r} has the shape {header.tensors[name].shape}; its keys ask for {shape}")


def _check_tensors(header: GGUFHeader, config: ModelConfig) -> None:
    """Every tensor of the configuration is there, and no other one."""
    if config.n_layers > len(header.tensors):
        raise FormatError(f"it has {len(header.tensors)} tensors, too few for {config.n_layers} layers")
    known = {ROPE_FREQS} if config.family == "llama" else set()
    for parameter in Decoder(config).parameters.values():
        for name, begin, end in rows_of(parameter, config, "gguf"):
            _check_tensor(header, name, (end - begin, *parameter.shape[1:]))
            known.add(name)
    for name in header.tensors.keys() - known:
        if not name.endswith(_IGNORED):
            raise FormatError(f"the tensor {shorten(name)} belongs to nothing that gollm has in this architecture")


# --- writing ---------------------------------------------------------------------------------------------------------


def write(source: Source, path: Path, dtype: StorageType) -> None:
    try:
        import gguf
    except ImportError:
        raise FormatError("writing GGUF files needs the gguf package: pip install 'gollm[gguf]'") from None
    config = source.config
    keys = keys_of(config) + tokenizer_keys(source.tokenizer, config.vocab_size, source.defaults)
    if config.family == "gpt2":  # all biases are there; those that the model has not got are zeros
        config = config.replace(bias=True, qkv_bias=None, output_bias=None, mlp_bias=None)
    quantised = _quantised(source)
    tensors = _tensors(config, dtype, quantised)
    with replacing(path, FormatError) as file:
        writer = gguf.GGUFWriter(file.name, config.family or "")
        try:
            _write_head(writer, dtype, keys, tensors)
        finally:
            writer.close()
        file.seek(0, os.SEEK_END)
        for name, values in _arrays(source, config, quantised):
            _pad(file)
            if isinstance(values, Codes):
                file.write(QUANTISED[tensors[name][1].number].blocks(values).data)
            else:
                tensors[name][1].encoding.write(file, values.reshape(-1))
        _pad(file)


def _pad(file: BinaryIO) -> None:
    file.write(bytes(-file.tell() % ALIGNMENT))


def _quantised(source: Source) -> dict[str, tuple[Packed, BlockType]]:
    """The packed parameters that one of ggml's types can take over as they are."""
    types = {(kind.dtype, 32): TYPES[number] for number, kind in QUANTISED.items()}
    types |= {(dtypes.bfloat16, 1): BF16, (dtypes.float16, 1): F16}
    found = {}
    for name, parameter in Decoder(source.config).parameters.items():
        packed = source.packed(name)
        if packed is not None:
            kind = types.get((packed.dtype, packed.group))
            if kind is not None and parameter.shape[1] % kind.K == 0:
                found[name] = packed, kind
    return found


def _tensors(
    config: ModelConfig, dtype: StorageType, quantised: Mapping[str, tuple[Packed, BlockType]]
) -> dict[str, tuple[tuple[int, ...], BlockType]]:
    """Name -> shape and type, in the order of the file."""
    tensors: dict[str, tuple[tuple[int, ...], BlockType]] = {}
    if config.rope_scaling == "llama3":
        tensors[ROPE_FREQS] = (config.head_dim // 2,), F32
    head = "token_embd.weight" if config.tied_head else "output.weight"
    for parameter in Decoder(config).parameters.values():
        for name, begin, end in rows_of(parameter, config, "gguf"):
            shape = (end - begin, *parameter.shape[1:])
            kind = _TYPES[dtype]
            if parameter.name in quantised:
                _, kind = quantised[parameter.name]
            elif kind is Q4_0 and name == head:  # every logit hangs on it; llama.cpp's quantiser takes six bits
                kind = Q8_0
            if len(shape) == 1 or name == "position_embd.weight":  # llama.cpp has no others there
                kind = F32
            elif shape[-1] % kind.K:
                kind = F16
            tensors[name] = shape, kind
    return tensors


def _arrays(
    source: Source, config: ModelConfig, quantised: Mapping[str, tuple[Packed, BlockType]]
) -> Iterator[tuple[str, Array | Codes]]:
    """Every tensor in the order of the file, one parameter in memory at a time: its codes or its numbers."""
    if config.rope_scaling == "llama3":
        yield ROPE_FREQS, rope_divisors(config)
    for parameter in Decoder(config).parameters.values():
        packed, kind = quantised.get(parameter.name, (None, F32))
        if packed is not None and kind.number in QUANTISED:
            codes = unpack(packed.storage())
            for name, begin, end in rows_of(parameter, config, "gguf"):
                yield name, codes.rows(slice(begin, end))
        else:
            values = source.values(parameter)
            for name, begin, end in rows_of(parameter, config, "gguf"):
                yield name, values[begin:end]


def _write_head(
    writer: Any, dtype: StorageType, keys: list[Key], tensors: dict[str, tuple[tuple[int, ...], BlockType]]
) -> None:
    from gguf import GGMLQuantizationType, GGUFValueType

    writer.add_type("model")
    writer.add_file_type(_FILE_TYPES[dtype])
    if any(block.number in QUANTISED for _, block in tensors.values()):
        writer.add_quantization_version(_QUANTIZATION_VERSION)
    for key, kind, value in keys:
        if isinstance(value, list):
            writer.add_key_value(key, value, GGUFValueType.ARRAY, GGUFValueType[kind])
        else:
            writer.add_key_value(key, value, GGUFValueType[kind])
    for name, (shape, block) in tensors.items():
        n_bytes = block.encoding.n_bytes(math.prod(shape))
        writer.add_tensor_info(name, shape, np.dtype(np.float32), n_bytes, GGMLQuantizationType(block.number))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()


FORMAT = ModelFormat("gguf", recognises, read, write, ("f32", "f16", "bf16", "q8_0", "q4_0"), _read_tokenizer)
