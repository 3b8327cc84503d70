"""Models in one flat file, as llama2.c and llm.c have them: a header, then every weight at a place that follows from
the sizes alone.

`Layout` says where each parameter lies, and how large the file must be: nothing is read or allocated before that is
compared with the size that the file has. Numbers then go straight from the file into the parameter's own memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gollm.errors import FormatError
from gollm.formats.encodings import Encoding
from gollm.formats.opening import opened, reading, refusing
from gollm.formats.source import Source
from gollm.kernels import Array
from gollm.model.config import ModelConfig


@dataclass(frozen=True)
class _Run:
    """One piece of a parameter of every block (or of the one there is), `stride` bytes from one block's to the next."""

    offset: int
    n: int
    stride: int
    encoding: Encoding


class Layout:
    """Where a file of this kind has the parameters, in the order in which they are added; `size` is the file's, `dtype`
    what its matrices are, in words."""

    def __init__(self, start: int, dtype: str) -> None:
        self.size = start
        self.dtype = dtype
        self._runs: dict[str, list[_Run]] = {}

    def add(self, part: str, n: int, encoding: Encoding, layers: int = 1) -> None:
        """n numbers of the parameter `part`, or of blocks.{i}.`part` for every i below `layers`.

        What is added again for the same parameter is its next piece along the first axis."""
        stride = encoding.n_bytes(n)
        self._runs.setdefault(part, []).append(_Run(self.size, n, stride, encoding))
        self.size += stride * layers

    def skip(self, n_bytes: int) -> None:
        """Bytes that are no parameter's; they are written as zeros."""
        self.size += n_bytes

    def _pieces(self, name: str, flat: Array) -> Iterator[tuple[int, Encoding, Array]]:
        """(where it lies, how it is held, its part of the parameter) for each piece of a parameter."""
        block, part = 0, name
        if name.startswith("blocks."):
            _, number, part = name.split(".", 2)
            block = int(number)
        start = 0
        for run in self._runs[part]:
            yield run.offset + block * run.stride, run.encoding, flat[start : start + run.n]
            start += run.n

    def read(self, file: BinaryIO, name: str, out: Array) -> None:
        """Fills `out`, a contiguous float32 array, with a parameter."""
        for offset, encoding, piece in self._pieces(name, out.reshape(-1)):
            file.seek(offset)
            encoding.read(file, piece)

    def write(self, file: BinaryIO, source: Source) -> None:
        """Stores all parameters of a model, one after the other."""
        file.truncate(self.size)
        for parameter, values in source.parameters(source.config):
            for offset, encoding, piece in self._pieces(parameter.name, values.reshape(-1)):
                file.seek(offset)
                encoding.write(file, piece)


def open_flat(path: Path, kind: str, header_size: int, parse: Callable[[bytes], tuple[ModelConfig, Layout]]) -> Source:
    """The model in a flat file. `parse` makes a configuration and a layout of its first header_size bytes.

    Raises FormatError for a header that is refused, and for a file of another size than the header asks for."""
    with opened(path) as file, refusing(path, kind):
        size = os.fstat(file.fileno()).st_size
        config, layout = parse(file.read(header_size) or b"")
        if layout.size != size:
            raise FormatError(
                f"its header asks for {layout.size:,} bytes, but it has {size:,}: it is cut off or damaged"
            )

    def read(name: str, out: Array) -> None:
        with reading(path):
            layout.read(file, name, out)

    return Source(config, read, close=file.close, dtype=layout.dtype)
