"""What a tokenizer learns from, and where its text may be cut."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator

from gollm.errors import TokenizerError

# White_Space of Unicode, which is what the C splitter calls white space; str.isspace has four more.
_WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))

_SAFE = re.compile(f"(?<=[^{_WHITE_SPACE}])[ \\t]|(?<=[A-Za-z0-9])[\\r\\n]")
SAFE_BEFORE = " \t\r\n"


def texts_of(texts: str | Iterable[str]) -> Iterator[str]:
    """The texts, one by one; a single str is one text. Raises TokenizerError for anything that is no str."""
    if isinstance(texts, os.PathLike):
        raise TokenizerError(
            f"train learns from text; to learn from the file {texts} open it: gollm.data.open_source(path).iter_text()"
        )
    for text in [texts] if isinstance(texts, str) else texts:
        if not isinstance(text, str):
            raise TokenizerError(f"train learns from texts of type str, not {type(text).__name__}")
        yield text


def safe_cut(text: str, *, before: str = SAFE_BEFORE) -> int:
    """The last place, or 0, where a text can be cut so that both parts are split into pieces as the whole is.

    Every pattern that the C core knows ends a piece in front of a space or tab that follows something else than white
    space, and in front of a newline that follows an ASCII letter or digit. The second part gets the white space, which
    is one of `before`.
    """
    window = 1 << 12
    while True:
        start = max(0, len(text) - window)
        cuts = [match.start() for match in _SAFE.finditer(text, start) if match.group() in before]
        if cuts or start == 0:
            return cuts[-1] if cuts else 0
        window *= 8


def divide(text: str, size: int) -> list[str]:
    """A text in parts of `size` characters, and as many more as it takes to the next place where a cut is safe."""
    parts: list[str] = []
    start = 0
    while match := _SAFE.search(text, start + size):
        parts.append(text[start : match.start()])
        start = match.start()
    parts.append(text[start:])
    return parts
