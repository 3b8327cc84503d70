"""Added tokens: spellings that are looked for in a text before it is cut into pieces.

The rules are those of Hugging Face's tokenizers: the longest of the tokens that begin at the leftmost place is found,
tokens that are `normalized` are looked for behind the normalizer, the others before it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from gollm.errors import TokenizerError
from gollm.system.strict_json import shorten

MAX_ADDED_TOKENS = 1 << 16

# Joiners and circled letters, as Unicode's Join_Control and Other_Alphabetic have them.
_MORE_OF_WORDS = frozenset(
    map(chr, [0x200C, 0x200D, *range(0x24B6, 0x24EA), *range(0x1F130, 0x1F14A), *range(0x1F150, 0x1F16A),
              *range(0x1F170, 0x1F18A)])
)  # fmt: skip


@dataclass(frozen=True)
class AddedToken:
    """A token that is looked for in a text before the text is cut, and the rules for that."""

    spelling: str
    id: int
    special: bool = True  # recognised only where the caller allows it; others always are
    normalized: bool = False  # looked for in the normalized text
    lstrip: bool = False  # takes the white space before it
    rstrip: bool = False  # takes the white space behind it
    single_word: bool = False  # not inside a word
    ordinary: bool = False  # also a token that text is encoded to without looking for it

    @property
    def plain(self) -> bool:
        """Nothing but a special token."""
        return self == AddedToken(self.spelling, self.id)

    def to_header(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if value is not False}

    @classmethod
    def from_header(cls, value: Any) -> AddedToken:
        """Raises TokenizerError."""
        names = {field.name for field in fields(cls)}
        if not isinstance(value, dict) or not {"spelling", "id"} <= value.keys() <= names:
            raise TokenizerError(f"an added token is {str(value)[:80]}; it needs a spelling and an id")
        flags = {name: value.get(name, False) for name in sorted(names - {"spelling", "id"})}
        if not all(type(flag) is bool for flag in flags.values()):
            raise TokenizerError(f"the added token {str(value)[:80]} has a flag that is neither true nor false")
        return cls(value["spelling"], value["id"], **flags)


def added_tokens_of(special: Iterable[tuple[str, int]], others: Iterable[AddedToken]) -> tuple[AddedToken, ...]:
    """All added tokens by their ids. Raises TokenizerError for two of the same spelling, or too many."""
    tokens = {token.spelling: token for token in others}
    for spelling, index in special:
        if tokens.setdefault(spelling, AddedToken(spelling, index)).id != index:
            raise TokenizerError(f"the added token {shorten(spelling)} has the ids {index} and {tokens[spelling].id}")
    for token in tokens.values():
        if not isinstance(token.spelling, str) or not token.spelling or type(token.id) is not int:
            raise TokenizerError(
                f"special token {shorten(token.spelling)} has id {shorten(token.id)}; it must be text with a number"
            )
    if len(tokens) > MAX_ADDED_TOKENS:
        raise TokenizerError(f"{len(tokens)} added tokens; at most {MAX_ADDED_TOKENS} are possible")
    return tuple(sorted(tokens.values(), key=lambda token: token.id))


class Finder:
    """Cuts a text at the given tokens."""

    def __init__(self, tokens: Sequence[AddedToken], spellings: Sequence[str]) -> None:
        """spellings: how each token is spelled in the text that is looked at."""
        self._tokens = dict(zip(spellings, tokens, strict=True))
        try:
            self._pattern = re.compile(_alternatives(sorted(self._tokens)))
        except RecursionError:
            raise TokenizerError("the added tokens share too many beginnings with each other") from None

    def split(self, text: str) -> list[str | int]:
        """Text, id, text, id, ...: no empty texts."""
        parts: list[str | int] = []
        at = 0  # what lies before has been taken
        space = 0  # where the white space ends that was looked at last
        for match in self._pattern.finditer(text):
            token = self._tokens[match.group()]
            start, end = match.span()
            if token.single_word and (_is_word(text, start - 1) or _is_word(text, end)):
                continue
            if token.lstrip:
                start = max(start, at)
                while start > at and _is_space(text[start - 1]):
                    start -= 1
            if token.rstrip:
                space = max(space, end)
                while space < len(text) and _is_space(text[space]):
                    space += 1
                end = space
            if start >= end:  # the token before it has taken the white space that it consists of
                continue
            if start > at:
                parts.append(text[at:start])
            parts.append(token.id)
            at = end
        if at < len(text):
            parts.append(text[at:])
        return parts


def _alternatives(spellings: list[str]) -> str:
    """A regular expression for the longest of sorted spellings: [a, ab, abc, b] -> (?:a(?:b(?:c)?)?|b)

    What spellings have in common is looked at once, however many there are.
    """
    groups: list[str] = []
    optional = ""
    i = 0
    while i < len(spellings):
        first = spellings[i][:1]
        if not first:
            optional = "?"
            i += 1
            continue
        j = i
        while j < len(spellings) and spellings[j][:1] == first:
            j += 1
        one, other = spellings[i], spellings[j - 1]  # what these two begin with, all between them do
        n = next((k for k, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), len(one))
        rest = [spelling[n:] for spelling in spellings[i:j]]
        groups.append(re.escape(one[:n]) + (_alternatives(rest) if len(rest) > 1 else ""))
        i = j
    return f"(?:{'|'.join(groups)}){optional}"


def _is_space(character: str) -> bool:
    return character.isspace() and character not in "\x1c\x1d\x1e\x1f"  # Unicode's White_Space, not Python's


def _is_word(text: str, at: int) -> bool:
    """Whether a character of a word is there: Unicode's \\w, which has marks too."""
    if not 0 <= at < len(text):
        return False
    category = unicodedata.category(text[at])
    return category[0] in "LM" or category in ("Nd", "Nl", "Pc") or text[at] in _MORE_OF_WORDS
