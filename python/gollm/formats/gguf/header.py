"""The head of a GGUF file: its keys and the table of its tensors, read without trusting any of it.

    "GGUF", u32 version, u64 tensors, u64 keys
    a key:     name, u32 type, value                             a string is a u64 of bytes, then UTF-8
    a tensor:  name, u32 dimensions, u64 each, u32 type, u64 offset     the fastest dimension comes first
    zeros up to a multiple of the alignment, then the tensors

Everything is little-endian. Every length and count is compared with the bytes that are left before it is believed; the
tensors must follow each other without gaps, as ggml demands. Source: gguf.cpp and gguf.md of github.com/ggml-org/ggml.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt

from gollm.errors import FormatError, warn
from gollm.formats.gguf.block_types import OTHERS, TYPES, BlockType
from gollm.model.config import MAX_LAYERS
from gollm.system.strict_json import shorten
from gollm.tokenizers.vocabulary import MAX_VOCAB_SIZE

MAGIC = b"GGUF"
ALIGNMENT = 32  # unless the file names another

# A file may have more bytes than anyone wants to spend memory and seconds on.
_MAX_KEYS = 1 << 16
_MAX_TENSORS = 16 * MAX_LAYERS
_MAX_STRINGS = MAX_VOCAB_SIZE  # in all arrays
_MAX_NAME = 256  # characters
_MAX_HEAD = 1 << 27  # bytes

_SCALARS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 10: "<u8", 11: "<i8", 12: "<f8"}
_BOOL, _STRING, _ARRAY = 7, 8, 9

_SHORTER = "it has become shorter while it was read"

T = TypeVar("T")


@dataclass(frozen=True)
class GGUFTensor:
    """`shape` is row-major, as NumPy has it; `offset` counts from the start of the file."""

    shape: tuple[int, ...]
    type: BlockType
    offset: int

    @property
    def n_bytes(self) -> int:
        return self.type.encoding.n_bytes(math.prod(self.shape))


class GGUFHeader:
    """Keys and tensors by name. A value is an int, float, bool, str, a list of str, or an array of numbers; bytes stand
    for text that is not UTF-8. `where` is the file's name."""

    def __init__(self, values: dict[str, Any], tensors: dict[str, GGUFTensor], where: str) -> None:
        self.values = values
        self.tensors = tensors
        self.where = where

    def get(self, key: str, kind: type[T], default: T | None = None) -> T:
        """The value of a key, or `default` where there is none; raises FormatError for another type of value, and for
        one that must be there."""
        if key not in self.values:
            if default is None:
                raise FormatError(f"it has no key {shorten(key)}")
            return default
        value = self.values[key]
        if type(value) is not kind:
            raise FormatError(f"its {key} is {_describe(value)}; it must be {_KINDS[kind]}")
        if isinstance(value, list) and set(map(type, value)) - {str}:
            raise FormatError(f"its {key} has a text that is not UTF-8")
        return value

    def side(self, key: str, kind: type[T]) -> T | None:
        """The value of a key that the weights do not need; none, with a warning, for another type of value."""
        value = self.values.get(key)
        if value is None or type(value) is kind:
            return value
        warn(f"{self.where}: {key} is {_describe(value)}; it must be {_KINDS[kind]}, so it is left out")
        return None


_KINDS = {
    int: "a whole number", float: "a floating-point number", bool: "true or false", str: "text",
    list: "an array of texts", np.ndarray: "an array of numbers",
}  # fmt: skip


def _describe(value: Any) -> str:
    if isinstance(value, list | np.ndarray):
        return f"{_KINDS[type(value)]} ({len(value)})"
    return shorten(value)


class _Cursor:
    """Reads from a file of `size` bytes; asks for no byte that it does not have."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self.size = size
        self.position = 0
        self.n_strings = 0

    def take(self, n: int, what: str) -> bytes:
        if n > self.size - self.position:
            left = self.size - self.position
            raise FormatError(f"{what} needs {n:,} bytes, and {left:,} are left: the file is cut off or damaged")
        if n > _MAX_HEAD - self.position:
            raise FormatError(f"its head has more than {_MAX_HEAD:,} bytes; gollm reads no such file")
        data = self._file.read(n)
        if len(data) != n:
            raise OSError(_SHORTER)
        self.position += n
        return data

    def number(self, dtype: str, what: str) -> Any:
        kind = np.dtype(dtype)
        value = np.frombuffer(self.take(kind.itemsize, what), kind)[0]
        # The shortest decimal that is this float32: 1e-05, not 9.999999747378752e-06.
        return float(str(value)) if dtype == "<f4" else value.item()

    def u32(self, what: str) -> int:
        return int.from_bytes(self.take(4, what), "little")

    def u64(self, what: str) -> int:
        return int.from_bytes(self.take(8, what), "little")

    def text(self, what: str) -> str | bytes:
        """Bytes where it is not UTF-8: nothing may depend on it."""
        data = self.take(self.u64(what), what)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return data

    def texts(self, n: int, what: str) -> list[str | bytes]:
        """text() n times. A vocabulary has so many that the calls below it would take most of the time."""
        read, end, position = self._file.read, min(self.size, _MAX_HEAD), self.position
        found: list[str | bytes] = []
        for _ in range(n):
            length = int.from_bytes(read(8), "little")
            if 8 + length > end - position:
                self._file.seek(position)
                self.position = position
                self.text(what)  # says what is wrong
            data = read(length)
            if len(data) != length:
                raise OSError(_SHORTER)
            position += 8 + length
            try:
                found.append(data.decode())
            except UnicodeDecodeError:
                found.append(data)
        self.position = position
        return found

    def name(self, what: str) -> str:
        name = self.text(f"the name of {what}")
        if isinstance(name, bytes):
            raise FormatError(f"the name of {what} is not UTF-8")
        if not name or len(name) > _MAX_NAME:
            raise FormatError(f"{what} has a name of {len(name):,} characters; 1 to {_MAX_NAME:,} are possible")
        return name

    def value(self, kind: int, what: str) -> Any:
        if kind == _STRING:
            return self.text(what)
        if kind == _BOOL:
            value = self.take(1, what)[0]
            if value > 1:
                raise FormatError(f"{what} is the boolean {value}; it must be 0 or 1")
            return bool(value)
        if kind == _ARRAY:
            return self.array(what)
        if kind not in _SCALARS:
            raise FormatError(f"{what} has the unknown value type {kind}; the known ones are 0 to 12")
        return self.number(_SCALARS[kind], what)

    def array(self, what: str) -> list[str | bytes] | npt.NDArray[Any]:
        kind, n = self.u32(what), self.u64(what)
        if kind == _STRING:
            self.n_strings += n
            if self.n_strings > _MAX_STRINGS:
                raise FormatError(f"{what} has {n:,} texts; gollm reads up to {_MAX_STRINGS:,} in all")
            if 8 * n > self.size - self.position:
                raise FormatError(f"{what} has {n:,} texts, more than the file's bytes can hold: it is damaged")
            return self.texts(n, what)
        if kind != _BOOL and kind not in _SCALARS:
            raise FormatError(f"{what} is an array of the type {kind}; gollm reads arrays of numbers and of texts")
        dtype = np.dtype("u1" if kind == _BOOL else _SCALARS[kind])
        return np.frombuffer(self.take(n * dtype.itemsize, what), dtype)


def read_header(file: BinaryIO, size: int, where: str) -> GGUFHeader:
    """The head of a file of `size` bytes that stands at its start; `where` is its name. Raises FormatError, OSError."""
    cursor = _Cursor(file, size)
    if cursor.take(4, "its magic number") != MAGIC:
        raise FormatError("it does not begin with GGUF")
    version = cursor.u32("its version")
    if version and not version & 0xFFFF:
        raise FormatError("it is big-endian, and gollm reads little-endian files: convert it with gguf_convert_endian")
    if version not in (2, 3):
        raise FormatError(f"its version is {version}; gollm reads 2 and 3")
    n_tensors, n_keys = cursor.u64("its number of tensors"), cursor.u64("its number of keys")
    if n_tensors > _MAX_TENSORS or n_keys > _MAX_KEYS:
        raise FormatError(
            f"it has {n_tensors:,} tensors and {n_keys:,} keys; gollm reads up to {_MAX_TENSORS:,} and {_MAX_KEYS:,}"
        )
    values: dict[str, Any] = {}
    for i in range(n_keys):
        key = cursor.name(f"key {i}")
        if key in values:
            raise FormatError(f"it has the key {shorten(key)} twice")
        values[key] = cursor.value(cursor.u32(f"the type of {shorten(key)}"), shorten(key))
    header = GGUFHeader(values, {}, where)
    alignment = header.get("general.alignment", int, ALIGNMENT)
    if alignment < 1 or alignment & (alignment - 1) or alignment > 1 << 20:
        raise FormatError(f"its general.alignment is {alignment}; it must be a power of two up to {1 << 20:,}")
    infos = [_tensor_info(cursor, i) for i in range(n_tensors)]
    at = _aligned(cursor.position, alignment)
    expected = 0  # the next tensor's place, counted from where the first one lies
    for name, shape, kind, offset in infos:
        if name in header.tensors:
            raise FormatError(f"it has the tensor {shorten(name)} twice")
        if offset != expected:
            raise FormatError(f"tensor {shorten(name)} is at {offset:,}; behind the one before it comes {expected:,}")
        tensor = GGUFTensor(shape, kind, at + offset)
        if tensor.n_bytes > size - tensor.offset:
            left = max(0, size - tensor.offset)
            raise FormatError(
                f"tensor {shorten(name)} needs {tensor.n_bytes:,} bytes, and {left:,} are left: the file is cut off or "
                "damaged"
            )
        header.tensors[name] = tensor
        expected = _aligned(offset + tensor.n_bytes, alignment)
    return header


def _aligned(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment


def _tensor_info(cursor: _Cursor, i: int) -> tuple[str, tuple[int, ...], BlockType, int]:
    """(name, shape, type, offset) of the next entry of the table."""
    name = cursor.name(f"tensor {i}")
    what = f"the entry of tensor {shorten(name)}"
    n_dims = cursor.u32(what)
    if not 1 <= n_dims <= 4:
        raise FormatError(f"tensor {shorten(name)} has {n_dims} dimensions; 1 to 4 are possible")
    *dims, number, offset = struct.unpack(f"<{n_dims}QIQ", cursor.take(8 * n_dims + 12, what))
    if number not in TYPES:
        known = ", ".join(kind.name for kind in TYPES.values())
        raise FormatError(f"tensor {shorten(name)} is of the type {OTHERS.get(number, number)}; gollm reads {known}")
    kind = TYPES[number]
    if dims[0] % kind.K:
        raise FormatError(
            f"tensor {shorten(name)} has rows of {dims[0]:,}, which {kind.name} cannot hold: {kind.K} at a time"
        )
    return name, without_ones(tuple(reversed(dims))), kind, offset


def without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape as ggml's own writer has it, which does not count slow dimensions of 1.  (1, 1, 4) -> (4,)"""
    while len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    return shape
