"""Tokenizers in a file of their own, beside the model's."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from gollm.errors import FormatError, TokenizerError
from gollm.formats.source import Source
from gollm.system.files import read_regular, replacing
from gollm.tokenizers import Tokenizer
from gollm.tokenizers.files.format import TokenizerFile, TokenizerFormat


def read_beside(source: Source, path: Path, names: Iterable[str], read: Callable[[TokenizerFile], Tokenizer]) -> None:
    """Gives the model at `path` the tokenizer in the first of these files that is one of its own, or says why none."""
    for name in names:
        if os.path.isfile(path.with_name(name)):
            try:
                source.tokenizer, source.without_tokenizer = read(TokenizerFile(path.with_name(name))), ""
                return
            except TokenizerError as error:
                source.without_tokenizer = str(error)


class TokenizerBeside:
    """What is to be written beside the model at `path`: nothing where the format has no such tokenizer, which the
    source is told. Raises FormatError where another one lies there already."""

    def __init__(self, source: Source, path: Path, name: str, to: TokenizerFormat) -> None:
        self._path = path.with_name(name)
        self._data: bytes | None = None
        if source.tokenizer is None:
            return
        try:
            data = to.files_of(source.tokenizer, self._path)[self._path]
            n, rows = source.tokenizer.vocab_size, source.config.vocab_size
            if n > rows:
                raise TokenizerError(f"cannot write {self._path}: it has {n} tokens, and the model has only {rows}")
        except TokenizerError as error:
            source.without_tokenizer = str(error)
            return
        self._data = data
        try:
            other = os.path.lexists(self._path) and read_regular(self._path, len(data) + 1) != data
        except OSError:
            other = True
        if other:
            raise FormatError(
                f"{self._path} is another model's tokenizer, and this one's goes there; write to another folder"
            )

    def write(self) -> None:
        if self._data is not None:
            with replacing(self._path, FormatError) as file:
                file.write(self._data)
