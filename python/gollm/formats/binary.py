"""Numbers in binary files: float32 arrays, read from and written to the floating-point types of other formats."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from gollm import _native as kernels
from gollm.errors import FormatError
from gollm.kernels import Array
from gollm.system.files import open_regular

CHUNK = 1 << 20  # numbers that are converted at a time


def head(path: Path, n: int) -> bytes:
    """The first n bytes of a regular file, fewer where it is shorter, none where it cannot be read."""
    try:
        with open_regular(path) as file:
            return file.read(n) or b""
    except OSError:
        return b""


class Storage(Protocol):
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


class BFloat16:
    def n_bytes(self, n: int) -> int:
        return 2 * n

    def read(self, file: BinaryIO, out: Array) -> None:
        for start in range(0, out.size, CHUNK):
            part = out[start : start + CHUNK]
            bits = np.empty(part.size, np.uint16)
            read_into(file, bits)
            kernels.from_bf16(y=part, x=bits)

    def write(self, file: BinaryIO, values: Array) -> None:
        for start in range(0, values.size, CHUNK):
            part = values[start : start + CHUNK]
            bits = np.empty(part.size, np.uint16)
            kernels.to_bf16(y=bits, x=part)
            file.write(bits.data)


class Float16:
    """Raises FormatError for a value that it cannot hold."""

    def n_bytes(self, n: int) -> int:
        return 2 * n

    def read(self, file: BinaryIO, out: Array) -> None:
        for start in range(0, out.size, CHUNK):
            part = out[start : start + CHUNK]
            half = np.empty(part.size, "<f2")
            read_into(file, half)
            part[:] = half

    def write(self, file: BinaryIO, values: Array) -> None:
        for start in range(0, values.size, CHUNK):
            part = values[start : start + CHUNK]
            with np.errstate(over="ignore"):
                half = part.astype("<f2")
            if not np.array_equal(np.isinf(half), np.isinf(part)):
                raise FormatError("a weight is beyond 65504, the largest number in float16; use bf16 or f32")
            file.write(half.data)


def read_into(file: BinaryIO, out: Array) -> None:
    """Fills a contiguous array with the bytes at the file's position."""
    view = out.view(np.uint8).data
    while view:
        n = file.readinto(view)  # type: ignore[attr-defined]
        if not n:
            raise OSError("it has become shorter while it was read")
        view = view[n:]
