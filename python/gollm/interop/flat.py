"""Models in one flat file, as llama2.c and llm.c have them: a header, then every weight at a place that follows from
the sizes alone.

`Layout` says where each parameter lies, and how large the file must be: nothing is read or allocated before that is
compared with the size that the file has. Numbers then go straight from the file into the parameter's own memory.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from gollm import _native as kernels
from gollm.config import ModelConfig
from gollm.errors import ConfigError, FormatError
from gollm.files import reason
from gollm.interop.source import Source
from gollm.specs import parameter_specs
from gollm.tensor import Array

# No model has more, and every one costs some Python objects whatever its width: a file may not ask for millions.
MAX_LAYERS = 4096

CHUNK = 1 << 20  # numbers that are converted at a time


def head(path: Path, n: int) -> bytes:
    """The first n bytes of a regular file, fewer where it is shorter, none where it cannot be read."""
    try:
        with _open(path) as file:
            return file.read(n) or b""
    except OSError:
        return b""


def _open(path: Path) -> BinaryIO:
    # O_NONBLOCK: opening a named pipe must not wait for somebody to write into it.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    file = os.fdopen(descriptor, "rb", buffering=0)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise OSError("it is not a regular file")
    return file


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


def read_into(file: BinaryIO, out: Array) -> None:
    """Fills a contiguous array with the bytes at the file's position."""
    view = out.view(np.uint8).data
    while view:
        n = file.readinto(view)  # type: ignore[attr-defined]
        if not n:
            raise OSError("it has become shorter while it was read")
        view = view[n:]


@dataclass(frozen=True)
class _Run:
    """One piece of a parameter of every block (or of the one there is), `stride` bytes from one block's to the next."""

    offset: int
    n: int
    stride: int
    storage: Storage


class Layout:
    """Where a file of this kind has the parameters, in the order in which they are added; `size` is the file's."""

    def __init__(self, start: int) -> None:
        self.size = start
        self._runs: dict[str, list[_Run]] = {}

    def add(self, part: str, n: int, storage: Storage, layers: int = 1) -> None:
        """n numbers of the parameter `part`, or of blocks.{i}.`part` for every i below `layers`.

        What is added again for the same parameter is its next piece along the first axis."""
        stride = storage.n_bytes(n)
        self._runs.setdefault(part, []).append(_Run(self.size, n, stride, storage))
        self.size += stride * layers

    def skip(self, n_bytes: int) -> None:
        """Bytes that are no parameter's; they are written as zeros."""
        self.size += n_bytes

    def _pieces(self, name: str, flat: Array) -> Iterator[tuple[int, Storage, Array]]:
        """(where it lies, how it is held, its part of the parameter) for each piece of a parameter."""
        block, part = 0, name
        if name.startswith("blocks."):
            _, number, part = name.split(".", 2)
            block = int(number)
        start = 0
        for run in self._runs[part]:
            yield run.offset + block * run.stride, run.storage, flat[start : start + run.n]
            start += run.n

    def read(self, file: BinaryIO, name: str, out: Array) -> None:
        """Fills `out`, a contiguous float32 array, with a parameter."""
        for offset, storage, piece in self._pieces(name, out.reshape(-1)):
            file.seek(offset)
            storage.read(file, piece)

    def write(self, file: BinaryIO, source: Source) -> None:
        """Stores all parameters of a model, one after the other."""
        file.truncate(self.size)
        for spec in parameter_specs(source.config):
            values = source.array(spec.name, spec.shape).reshape(-1)
            for offset, storage, piece in self._pieces(spec.name, values):
                file.seek(offset)
                storage.write(file, piece)


def open_flat(path: Path, kind: str, header_size: int, parse: Callable[[bytes], tuple[ModelConfig, Layout]]) -> Source:
    """The model in a flat file. `parse` makes a configuration and a layout of its first header_size bytes.

    Raises FormatError for a header that is refused, and for a file of another size than the header asks for."""
    try:
        file = _open(path)
    except OSError as failure:
        raise FormatError(f"cannot open {path}: {reason(failure)}") from None
    try:
        size = os.fstat(file.fileno()).st_size
        config, layout = parse(file.read(header_size) or b"")
        if layout.size != size:
            raise FormatError(
                f"its header asks for {layout.size:,} bytes, but it has {size:,}: it is cut off or damaged"
            )
    except (ConfigError, FormatError) as failure:
        file.close()
        raise FormatError(f"{path} is no {kind} that gollm can use: {failure}") from None
    except OSError as failure:
        file.close()
        raise FormatError(f"cannot read {path}: {reason(failure)}") from None

    def read(name: str, out: Array) -> None:
        try:
            layout.read(file, name, out)
        except OSError as failure:
            raise FormatError(f"cannot read {path}: {reason(failure)}") from None

    return Source(config, read, close=file.close)
