"""What a tokenizer learns from: texts, or files of text, read a piece at a time."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from gollm.errors import TokenizerError

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]

_CHUNK = 1 << 20  # characters

# White_Space of Unicode, which is what the C splitter calls white space; str.isspace has four more.
_WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))


def texts_of(texts: str | Iterable[str]) -> Iterator[str]:
    """The texts, one by one; a single str is one text. Raises TokenizerError for anything that is no str."""
    if isinstance(texts, os.PathLike):
        raise TokenizerError(f"train learns from text; to learn from the file {texts} use train_from_files")
    for text in [texts] if isinstance(texts, str) else texts:
        if not isinstance(text, str):
            raise TokenizerError(f"train learns from texts of type str, not {type(text).__name__}")
        yield text


def texts_of_files(paths: Paths) -> Iterator[str]:
    """The text of UTF-8 files in chunks, line ends as they are. No word is cut in two: see safe_cut.

    Raises TokenizerError for a file that can't be read or is not UTF-8.
    """
    for path in [paths] if isinstance(paths, str | os.PathLike) else paths:
        rest = ""
        try:
            with Path(path).open(encoding="utf-8", newline="") as file:
                while chunk := file.read(_CHUNK):
                    rest += chunk
                    if cut := safe_cut(rest):
                        yield rest[:cut]
                        rest = rest[cut:]
        except OSError as error:
            raise TokenizerError(f"cannot read {path}: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise TokenizerError(f"{path} is not UTF-8 text ({error.reason}); convert it to UTF-8 first") from None
        if rest:
            yield rest


def safe_cut(text: str) -> int:
    """The last place, or 0, where a text can be cut so that both parts are split into pieces as the whole is.

    That is where white space follows something else: every pattern ends a piece there. The second part gets the space.
    """
    cut = max(text.rfind(space) for space in " \n\t\r")
    while cut > 0 and text[cut - 1] in _WHITE_SPACE:
        cut -= 1
    return max(cut, 0)
