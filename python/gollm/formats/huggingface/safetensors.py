"""Safetensors files, read and written a piece at a time.

    8 bytes    N, u64, little-endian like everything here
    N bytes    JSON: {NAME: {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {string: string}}
    the rest   the tensors, row-major; offsets count from here, and each begins where the one before ended

The `safetensors` package (the oracle of the tests) needs another package for bfloat16, takes a header that names a
tensor twice, keeps every page that it has read in the process' memory, and wants all tensors at once for writing.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from gollm.errors import FormatError
from gollm.formats.encodings import BFloat16, Encoding, Float16, Float32, Float64
from gollm.formats.opening import opened, reading
from gollm.formats.source import StorageType
from gollm.kernels import Array
from gollm.nn.tensor import FLOAT32
from gollm.system.files import refuse_pointer
from gollm.system.strict_json import parse_object, shorten

# of weights
ENCODINGS: dict[str, Encoding] = {"F64": Float64(), "F32": Float32(), "F16": Float16(), "BF16": BFloat16()}
_STORED: dict[StorageType, str] = {"f32": "F32", "f16": "F16", "bf16": "BF16"}
_SIZES = {  # bytes of an element, of all dtypes
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}

MAX_HEADER_BYTES = 8 << 20  # some 70,000 tensors; one of a LLaMA of 405B parameters has 1,138
_MAX_NAME = 512
_MAX_ELEMENTS = 1 << 48
_PREFIX = struct.Struct("<Q")
_ALIGNMENT = 64


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file: `begin` and `end` are bytes from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class SafetensorsFile:
    """An open file and its checked header. Raises FormatError for one that is missing, damaged or hostile."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with opened(path) as self._file:
            self.tensors = self._read_header(os.fstat(self._file.fileno()).st_size)

    def close(self) -> None:
        self._file.close()

    def read(self, name: str, start: int, out: Array) -> None:
        """Fills `out` (contiguous, float32) with the tensor's elements from `start` on.

        The tensor must be of a dtype in ENCODINGS, and have that many elements."""
        tensor = self.tensors[name]
        encoding = ENCODINGS[tensor.dtype]
        with reading(f"{shorten(name)} of {self.path}"), _named(f"{self.path}: {name}"):
            self._file.seek(tensor.begin + encoding.n_bytes(start))
            encoding.read(self._file, out.reshape(-1))

    def _read_header(self, file_size: int) -> dict[str, StoredTensor]:
        refuse_pointer(self.path, self._file.read(64), FormatError)
        self._file.seek(0)
        prefix = self._file.read(_PREFIX.size)
        if len(prefix) < _PREFIX.size:
            raise FormatError(f"{self.path} is no safetensors file: it has {len(prefix)} bytes")
        (length,) = _PREFIX.unpack(prefix)
        if length > MAX_HEADER_BYTES:
            raise FormatError(
                f"{self.path} is no safetensors file, or none that gollm reads: its header claims {length:,} bytes; at "
                f"most {MAX_HEADER_BYTES:,} are allowed"
            )
        data = _PREFIX.size + length
        if data > file_size:
            raise FormatError(
                f"{self.path}: its header claims {length:,} bytes but the whole file has {file_size:,}: it is cut off "
                "or damaged"
            )
        text = self._file.read(length)
        if not text.startswith(b"{"):
            raise FormatError(f"{self.path} is no safetensors file: its header begins with {shorten(text[:4])}")
        members = parse_object(text, f"{self.path}: its header", FormatError)
        metadata = members.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise FormatError(f"{self.path}: __metadata__ is {shorten(metadata)}; it must be an object of strings")
        tensors = {name: self._entry(name, fields, data) for name, fields in members.items()}
        end = data
        for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
            if tensor.begin != end:
                raise FormatError(
                    f"{self.path}: the tensor {shorten(name)} begins at byte {tensor.begin:,}; the only valid place is "
                    f"{end:,}"
                )
            end = tensor.end
        if end != file_size:
            raise FormatError(
                f"{self.path}: its tensors end at byte {end:,} but the file has {file_size:,}: it is cut off or damaged"
            )
        return tensors

    def _entry(self, name: str, fields: Any, data: int) -> StoredTensor:
        what = f"{self.path}: the tensor {shorten(name)}"
        if not 0 < len(name) <= _MAX_NAME or not name.isprintable():
            raise FormatError(f"{what} has a name that is not allowed: 1 to {_MAX_NAME} printable characters")
        if not isinstance(fields, dict) or sorted(fields) != ["data_offsets", "dtype", "shape"]:
            raise FormatError(f"{what} must have dtype, shape and data_offsets, and nothing else")
        dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
        if not isinstance(dtype, str) or dtype not in _SIZES:
            raise FormatError(f"{what} has the dtype {shorten(dtype)}; known are {', '.join(_SIZES)}")
        for numbers in (shape, offsets):
            if not isinstance(numbers, list) or not all(type(n) is int and 0 <= n < 1 << 63 for n in numbers):
                raise FormatError(f"{what} has {shorten(numbers)} where a list of numbers of 63 bits belongs")
        if len(shape) > 8 or math.prod(n for n in shape if n) > _MAX_ELEMENTS:
            raise FormatError(f"{what} has the shape {shorten(shape)}; allowed are 8 axes and 2^48 elements")
        n_bytes = math.prod(shape) * _SIZES[dtype]
        if len(offsets) != 2 or offsets[1] - offsets[0] != n_bytes:
            raise FormatError(
                f"{what} has the data_offsets {shorten(offsets)}; {dtype} of shape {shorten(shape)} takes {n_bytes:,} "
                "bytes"
            )
        return StoredTensor(dtype, tuple(shape), data + offsets[0], data + offsets[1])


def write_tensors(
    file: BinaryIO, shapes: Mapping[str, tuple[int, ...]], dtype: StorageType, arrays: Iterator[tuple[str, Array]]
) -> None:
    """Writes a safetensors file: the tensors `shapes` names, whose float32 values the iterator gives in that order.

    Raises FormatError for a value that float16 cannot hold."""
    stored = _STORED[dtype]
    offsets = list(itertools.accumulate((math.prod(shape) * _SIZES[stored] for shape in shapes.values()), initial=0))
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers refuses a file without
    for (name, shape), ends in zip(shapes.items(), itertools.pairwise(offsets), strict=True):
        table[name] = {"dtype": stored, "shape": list(shape), "data_offsets": list(ends)}
    text = json.dumps(table, separators=(",", ":")).encode()
    text = text.ljust(-(-(len(text) + _PREFIX.size) // _ALIGNMENT) * _ALIGNMENT - _PREFIX.size)
    file.write(_PREFIX.pack(len(text)) + text)
    for name, array in itertools.islice(arrays, len(shapes)):
        assert array.size == math.prod(shapes[name])
        with _named(name):
            ENCODINGS[stored].write(file, np.ascontiguousarray(array, FLOAT32).reshape(-1))


@contextmanager
def _named(tensor: str) -> Iterator[None]:
    """An error of the encoding begins with the tensor's name."""
    try:
        yield
    except FormatError as error:
        raise FormatError(f"{tensor}: {error}") from None
