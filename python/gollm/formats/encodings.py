"""How files encode numbers: float32 arrays, read from and written as the floating-point types of other formats."""

from __future__ import annotations

from typing import Any, BinaryIO, ClassVar, Protocol

import numpy as np

from gollm.errors import FormatError
from gollm.kernels import Array, cpu

CHUNK = 1 << 20  # numbers that are converted at a time


class Encoding(Protocol):
    """How a file holds numbers, from its position on."""

    def n_bytes(self, n: int) -> int:
        """The bytes of n numbers."""

    def read(self, file: BinaryIO, out: Array) -> None:
        """Fills out (n,) float32."""

    def write(self, file: BinaryIO, values: Array) -> None:
        """Stores values (n,) float32."""


class Float32:
    def n_bytes(self, n: int) -> int:
        return 4 * n

    def read(self, file: BinaryIO, out: Array) -> None:
        read_into(file, out)

    def write(self, file: BinaryIO, values: Array) -> None:
        for start in range(0, values.size, CHUNK):
            file.write(values[start : start + CHUNK].data)


class _Converted:
    """Numbers of another type, a chunk at a time. `dtype` is the array's that holds them."""

    dtype: ClassVar[np.dtype[Any]]

    def decode(self, stored: Array, out: Array) -> None:
        raise NotImplementedError

    def encode(self, values: Array) -> Array:
        raise NotImplementedError

    def n_bytes(self, n: int) -> int:
        return n * self.dtype.itemsize

    def read(self, file: BinaryIO, out: Array) -> None:
        for start in range(0, out.size, CHUNK):
            part = out[start : start + CHUNK]
            stored = np.empty(part.size, self.dtype)
            read_into(file, stored)
            self.decode(stored, part)

    def write(self, file: BinaryIO, values: Array) -> None:
        for start in range(0, values.size, CHUNK):
            file.write(self.encode(values[start : start + CHUNK]).data)


class BFloat16(_Converted):
    dtype = np.dtype("<u2")

    def decode(self, stored: Array, out: Array) -> None:
        cpu.from_bf16(y=out, x=stored)

    def encode(self, values: Array) -> Array:
        bits = np.empty(values.size, self.dtype)
        cpu.to_bf16(y=bits, x=values)
        return bits


class Float16(_Converted):
    """Refuses a value that it cannot hold, as Float64 does one that float32 cannot."""

    dtype = np.dtype("<f2")

    def decode(self, stored: Array, out: Array) -> None:
        out[:] = stored

    def encode(self, values: Array) -> Array:
        return _narrowed(values, self.dtype, "65504, the largest number in float16; use bf16 or f32")


class Float64(_Converted):
    dtype = np.dtype("<f8")

    def decode(self, stored: Array, out: Array) -> None:
        out[:] = _narrowed(stored, out.dtype, "3.4e38, the largest number in float32, in which gollm computes")

    def encode(self, values: Array) -> Array:
        return values.astype(self.dtype)


def _narrowed(values: Array, dtype: np.dtype[Any], limit: str) -> Array:
    """Raises FormatError for a finite value that becomes infinite."""
    with np.errstate(over="ignore"):
        narrow: Array = values.astype(dtype)
    if not np.array_equal(np.isinf(narrow), np.isinf(values)):
        raise FormatError(f"a weight is beyond {limit}")
    return narrow


def read_into(file: BinaryIO, out: Array) -> None:
    """Fills a contiguous array with the bytes at the file's position."""
    view = out.view(np.uint8).data
    while view:
        n = file.readinto(view)  # type: ignore[attr-defined]
        if not n:
            raise OSError("it has become shorter while it was read")
        view = view[n:]
