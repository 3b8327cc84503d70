"""The pre-tokenizers: patterns that cut a text into pieces, inside which byte pairs are merged.

A pattern is one of the names in PATTERNS, which the C core knows (csrc/tokenizer/split.h), or a regular expression of
one's own, for which the `regex` package is needed; or several of these, each cutting the pieces of the one before it.
What lies between two matches of a regular expression is a piece too, so that no text is lost.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeAlias

from gollm import _native
from gollm.errors import TokenizerError
from gollm.system.strict_json import shorten

__all__ = ["PATTERNS", "REGEXES", "cut"]

Pattern: TypeAlias = str | tuple[str, ...]

PATTERNS = _native.SPLIT_PATTERNS
"""gpt2, cl100k, o200k, llama3, qwen2, smollm."""

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+"
_SPACES = r"\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"

REGEXES: dict[str, str] = {
    "gpt2": rf"'s|'t|'re|'ve|'m|'ll|'d| ?\p{{L}}+| ?\p{{N}}+|{_SIGNS}|{_SPACES}",
    "llama3": rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_SIGNS}[\r\n]*|\s*[\r\n]+|{_SPACES}",
    "qwen2": rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}|{_SIGNS}[\r\n]*|\s*[\r\n]+|{_SPACES}",
    "cl100k": rf"{_CONTRACTIONS}|{_WORDS}|\p{{N}}{{1,3}}|{_SIGNS}[\r\n]*|\s+\z|\s*[\r\n]+|{_SPACES}",
    "o200k": (
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
        rf"{_CONTRACTIONS}?|\p{{N}}{{1,3}}|{_SIGNS}[\r\n/]*|\s*[\r\n]+|{_SPACES}"
    ),
    "smollm": rf"'s|'t|'re|'ve|'m|'ll|'d| ?\p{{L}}+|\p{{N}}|{_SIGNS}|\s+(?=\p{{N}})|{_SPACES}",
}
"""The patterns as regular expressions: for tiktoken's pat_str, and in tokenizer.json."""

_SPELLINGS = {regex: name for name, regex in REGEXES.items()} | {
    # as tiktoken spells them; cl100k's also as it was before white space at the end became one piece
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s": "gpt2",
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": "gpt2",
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|"
    r"\s+(?!\S)|\s": "cl100k",
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|"
    r"\s+": "llama3",
}

_MAX_LENGTH = 10_000  # characters of a regular expression
_SECONDS, _SECONDS_PER_CHARACTER = 5.0, 1e-5  # what cutting a text may take; usual patterns take 2e-7 a character


def named(regex: str) -> str:
    """The name of the pattern that a regular expression spells, or the expression itself."""
    return _SPELLINGS.get(regex, regex)


def checked(pattern: str | Sequence[str]) -> Pattern:
    """The pattern, its names and expressions looked at. Raises TokenizerError for one that can't be used."""
    if isinstance(pattern, str):
        return _checked_one(pattern)
    if not isinstance(pattern, list | tuple) or not 1 <= len(pattern) <= 16:
        raise TokenizerError(
            f"pattern is {shorten(pattern)}; it must be a name, a regular expression, or up to 16 of these"
        )
    steps = tuple(_checked_one(step) for step in pattern)
    return steps[0] if len(steps) == 1 else steps


def _checked_one(pattern: str) -> str:
    if not isinstance(pattern, str) or not pattern or re.fullmatch(r"[\w-]*", pattern):
        if pattern in PATTERNS:
            return pattern
        raise TokenizerError(
            f"unknown pre-tokenizer pattern {shorten(pattern)}; known are {', '.join(PATTERNS)}, and "
            "regular expressions"
        )
    if named(pattern) in PATTERNS:
        return named(pattern)
    compiled(pattern)
    return pattern


@lru_cache(maxsize=64)
def compiled(expression: str) -> Any:
    """A regular expression, ready to be used. Raises TokenizerError."""
    try:
        import regex
    except ImportError:
        raise TokenizerError(
            f"the pattern {expression[:80]!r} is none that gollm knows by name; for a regular expression of one's own "
            "install the regex package: pip install 'gollm[tokenizers]'"
        ) from None
    if len(expression) > _MAX_LENGTH:
        raise TokenizerError(f"a pattern of {len(expression)} characters; at most {_MAX_LENGTH} are allowed")
    try:
        return regex.compile(expression, regex.VERSION1)  # sets as other engines have them, nested too
    except (regex.error, RecursionError, MemoryError, OverflowError, ValueError) as error:
        raise TokenizerError(f"the pattern {expression[:80]!r} is no regular expression: {error}") from None


def cut(text: str, pattern: Pattern) -> list[str]:
    """The pieces of a text. Raises TokenizerError if a regular expression takes too long.

    >>> cut("ab12  c", "llama3")
    ['ab', '12', ' ', ' c']
    >>> cut("ab12  c", ("llama3", r"[ab]"))
    ['a', 'b', '12', ' ', ' c']
    """
    pieces = [text]
    for step in [pattern] if isinstance(pattern, str) else pattern:
        if step in PATTERNS:
            pieces = [part for piece in pieces for part in _native.split_text(piece, step)]
        else:
            pieces = _cut_by_regex(pieces, step, _SECONDS + _SECONDS_PER_CHARACTER * len(text))
    return pieces


def _cut_by_regex(pieces: list[str], expression: str, limit: float) -> list[str]:
    finder = compiled(expression)
    parts: list[str] = []
    deadline = time.monotonic() + limit
    for piece in pieces:
        at = 0
        try:
            for match in finder.finditer(piece, timeout=max(deadline - time.monotonic(), 1e-3)):
                start, end = match.span()
                if start > at:
                    parts.append(piece[at:start])
                if end > start:
                    parts.append(piece[start:end])
                at = end
        except TimeoutError:
            raise TokenizerError(
                f"the pattern {expression[:80]!r} took longer than {limit:.0f} s to cut a text of "
                f"{sum(map(len, pieces))} characters; it backtracks too much: use possessive quantifiers (a++) or "
                "atomic groups"
            ) from None
        if at < len(piece):
            parts.append(piece[at:])
    return parts
