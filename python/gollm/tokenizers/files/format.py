"""What a file format of tokenizers is, and how its files are read: with a limit of size, and errors that name them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gollm.errors import TokenizerError
from gollm.system.files import read_regular, reason, refuse_pointer
from gollm.tokenizers.base import Tokenizer

_MAX_BYTES = 256 << 20


class TokenizerFile:
    """A file that may hold a tokenizer; what several formats look at is read once."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def first_bytes(self) -> bytes:
        """The first bytes. Raises TokenizerError if the file can't be read."""
        return _read(self.path, 256)

    @cached_property
    def document(self) -> Any:
        """The value of a JSON file. Raises TokenizerError if it isn't one."""
        return read_json(self.path)


@dataclass(frozen=True)
class TokenizerFormat:
    """A row of the registry (gollm.tokenizers.files)."""

    name: str  # for `save`, and in messages
    recognises: Callable[[TokenizerFile], bool]
    read: Callable[..., Tokenizer]  # (TokenizerFile, options of `load` that are of this format)
    kinds: tuple[type[Tokenizer], ...]  # those that it holds
    to_files: Callable[[Any, Path], Mapping[Path, bytes]]  # (tokenizer, target) -> the files to write
    endings: tuple[str, ...] = ()  # of names that are this format's only

    def files_of(self, tokenizer: Tokenizer, path: Path) -> Mapping[Path, bytes]:
        """What is to be written. Raises TokenizerError for a tokenizer that would not come back as it is."""
        if not isinstance(tokenizer, self.kinds):
            titles = ", ".join(kind.title for kind in self.kinds)
            raise TokenizerError(f"cannot write {path}: {self.name} has {titles} tokenizers only")
        return self.to_files(tokenizer, path)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """A TokenizerError from within names the file, too."""
    try:
        yield
    except TokenizerError as error:
        message = str(error)
        raise TokenizerError(message if str(path) in message else f"{path}: {message}") from None


def _read(path: Path, size: int) -> bytes:
    try:
        data = read_regular(path, size)
    except OSError as error:
        raise TokenizerError(f"cannot read {path}: {reason(error)}") from None
    refuse_pointer(path, data, TokenizerError)
    return data


def read_bytes(path: Path) -> bytes:
    """The bytes of a file. Raises TokenizerError if it can't be read or is too long."""
    data = _read(path, _MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise TokenizerError(f"{path} is longer than {_MAX_BYTES >> 20} MB; no tokenizer is that large")
    return data


def read_text(path: Path) -> str:
    """The text of a file. Raises TokenizerError as read_bytes does, and if it is not UTF-8."""
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path} is not UTF-8 text (byte {error.start})") from None


def read_json(path: Path) -> Any:
    """The value of a JSON file. Raises TokenizerError if it isn't one."""
    text = read_text(path)
    try:
        return json.loads(text)
    except RecursionError:
        raise TokenizerError(f"{path}: nested too deeply for a tokenizer") from None
    except ValueError as error:
        raise TokenizerError(f"{path} is not JSON: {error}") from None
