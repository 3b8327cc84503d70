"""A token for every character."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gollm.errors import TokenizerError
from gollm.system.strict_json import shorten
from gollm.tokenizers.added_tokens import AddedToken
from gollm.tokenizers.base import Ids, Tokenizer
from gollm.tokenizers.corpus import texts_of
from gollm.tokenizers.vocabulary import MAX_VOCAB_SIZE, Vocabulary, room_beside, with_special_tokens

_NONE = -1


class CharacterTokenizer(Tokenizer):
    """A token for every character (Unicode code point) of the corpus, in the order of the code points.

    A character outside the vocabulary raises TokenizerError, naming it and where it stands; a tokenizer with an
    `unknown_token` encodes it as that one instead.

    >>> tokenizer = CharacterTokenizer.train("hello")
    >>> tokenizer.encode("hole").tolist()
    [1, 3, 2, 0]
    >>> tokenizer.decode([1, 3, 2, 0])
    'hole'
    """

    kind = "character"
    title = "character"
    rules = ("unknown_token",)

    def __init__(
        self,
        vocabulary: Vocabulary,
        special_tokens: Mapping[str, int] | None = None,
        unknown_token: str | None = None,
        *,
        added_tokens: Iterable[AddedToken] = (),
        prefix: Sequence[int] = (),
        suffix: Sequence[int] = (),
    ) -> None:
        super().__init__(vocabulary, special_tokens or {}, added_tokens=added_tokens, prefix=prefix, suffix=suffix)
        if unknown_token is not None:
            self._check_unknown_token(unknown_token)
        self.unknown_token = unknown_token
        self._id_of_code = self._code_table()

    @classmethod
    def train(
        cls,
        texts: str | Iterable[str],
        vocab_size: int | None = None,
        *,
        special_tokens: Iterable[str] = (),
        unknown_token: str | None = None,
    ) -> CharacterTokenizer:
        """Learns the characters of the texts.

        All of them, or with a `vocab_size` (special tokens included) that is too small for all, the most frequent ones;
        then `unknown_token` is "<unk>" if it isn't given. Raises TokenizerError for no text or no room.
        """
        counts = np.zeros(0, np.int64)
        for text in texts_of(texts):
            new = np.bincount(_codes(text))
            short, long = sorted((counts, new), key=len)
            long[: len(short)] += short
            counts = long
        codes = np.flatnonzero(counts)
        if not len(codes):
            raise TokenizerError("there is no text to learn characters from")
        special = [unknown_token] if unknown_token is not None else []
        special += [s for s in special_tokens if s != unknown_token]
        if len(codes) + len(special) > (MAX_VOCAB_SIZE if vocab_size is None else vocab_size):
            if unknown_token is None:
                unknown_token = "<unk>"
                special = [unknown_token, *(s for s in special if s != unknown_token)]
            room = room_beside(special, vocab_size)
            frequent_first = np.argsort(-counts[codes], kind="stable")
            codes = np.sort(codes[frequent_first[:room]])
        tokens, ids = with_special_tokens([chr(code).encode() for code in codes], special)
        return cls(Vocabulary.of(tokens), ids, unknown_token)

    def _code_table(self) -> Ids:
        """(highest code + 2): code point -> id, _NONE for those in between and for all beyond."""
        special = set(self.special_tokens.values())
        codes: dict[int, int] = {}
        for token, spelling in enumerate(self.vocabulary):
            if token in special:
                continue
            try:
                code = ord(spelling.decode())
            except (UnicodeDecodeError, TypeError):
                raise TokenizerError(
                    f"token {token} of a character tokenizer is {shorten(spelling)}, which is not one character"
                ) from None
            if codes.setdefault(code, token) != token:
                raise TokenizerError(f"tokens {codes[code]} and {token} are the same character {shorten(chr(code))}")
        table = np.full(max(codes, default=0) + 2, _NONE, np.int32)
        table[list(codes)] = list(codes.values())
        return table

    def _cut(self, text: str) -> int:
        return len(text)

    def _encode(self, text: str) -> Ids:
        table = self._id_of_code
        codes = _codes(text)
        ids = table.take(codes, mode="clip")
        unknown = ids == _NONE
        if unknown.any():
            if self.unknown_token is None:
                position = int(np.argmax(unknown))
                raise TokenizerError(
                    f"the character {shorten(text[position])} (U+{ord(text[position]):04X}) at position {position} is "
                    f"not in the vocabulary of {self.vocab_size} characters; remove it, or train on text that has it"
                )
            ids[unknown] = self.special_tokens[self.unknown_token]
        return ids


def _codes(text: str) -> npt.NDArray[Any]:
    """The code points (n) of a text."""
    if not isinstance(text, str):
        raise TypeError(f"text must be a str, not {type(text).__name__}")
    if text.isascii():
        return np.frombuffer(text.encode(), np.uint8)
    try:
        return np.frombuffer(text.encode("utf-32-le"), "<u4")
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"the text has a lone surrogate U+{ord(text[error.start]):04X} at position {error.start}, which is no "
            "character; decode your input with errors='replace' or remove it"
        ) from None
