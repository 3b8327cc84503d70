"""Opening the files of models: nothing stays open when reading fails, and every error names the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from gollm.errors import ConfigError, FormatError, TokenizerError
from gollm.system.files import open_regular, reason


def first_bytes(path: Path, n: int) -> bytes:
    """The first n bytes of a regular file, fewer where it is shorter, none where it cannot be read."""
    try:
        with open_regular(path) as file:
            return file.read(n) or b""
    except OSError:
        return b""


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A regular file, which stays open when the block ends well. An OSError becomes a FormatError."""
    try:
        file = open_regular(path)
    except OSError as failure:
        raise FormatError(f"cannot open {path}: {reason(failure)}") from None
    with ExitStack() as stack:
        stack.enter_context(file)
        with reading(path):
            yield file
        stack.pop_all()


@contextmanager
def reading(what: Path | str) -> Iterator[None]:
    """An OSError in the block becomes a FormatError: "cannot read WHAT: …"."""
    try:
        yield
    except OSError as failure:
        raise FormatError(f"cannot read {what}: {reason(failure)}") from None


@contextmanager
def refusing(path: Path, kind: str) -> Iterator[None]:
    """What the block refuses becomes a FormatError: "PATH is no KIND that gollm can use: …"."""
    try:
        yield
    except (ConfigError, FormatError, TokenizerError) as failure:
        raise FormatError(f"{path} is no {kind} that gollm can use: {failure}") from None
