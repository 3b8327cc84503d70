"""Normalization form C, in linear time on any text.

Python's unicodedata sorts the marks behind a letter by insertion, which takes quadratic time where thousands of marks
follow each other. Long runs of marks are put into their order before it sees them; that changes no result, since it is
the order that the normalization asks for.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

_LONG = 32


@cache
def _long_runs() -> re.Pattern[str]:
    marks = [chr(code) for code in range(0x300, 0x1F000) if _is_mark(chr(code))]
    return re.compile(f"[{''.join(marks)}]{{{_LONG},}}")


def _is_mark(character: str) -> bool:
    """Also the few that are none, but decompose into marks."""
    return unicodedata.combining(unicodedata.normalize("NFD", character)[0]) != 0


def _in_order(run: re.Match[str]) -> str:
    marks = (part for mark in run.group() for part in unicodedata.normalize("NFD", mark))
    return "".join(sorted(marks, key=unicodedata.combining))


def nfc(text: str) -> str:
    """The text in normalization form C, by the Unicode version of the running Python."""
    if text.isascii():
        return text
    return unicodedata.normalize("NFC", _long_runs().sub(_in_order, text))
