"""A token for every word."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy.typing as npt

from gollm import _native
from gollm.errors import TokenizerError
from gollm.system.strict_json import shorten
from gollm.tokenizers.added_tokens import AddedToken
from gollm.tokenizers.base import Ids, Tokenizer
from gollm.tokenizers.corpus import safe_cut, texts_of
from gollm.tokenizers.vocabulary import Vocabulary, room_beside, with_special_tokens

_PATTERN = "gpt2"


class WordTokenizer(Tokenizer):
    """A token for every word of the corpus, the most frequent first.

    Words are the pieces that GPT-2's pattern cuts a text into: letters, numbers, punctuation or white space, where the
    space before a word belongs to it, so that decoding puts a text of known words together again, byte for byte. A word
    that is unknown with its space is looked up without it, the space becoming a token of its own; if it is still
    unknown it is the unknown token, "<unk>".

    >>> tokenizer = WordTokenizer.train("to be or not to be")
    >>> tokenizer.decode(tokenizer.encode("to be or not to dream"))
    'to be or not to <unk>'
    """

    kind = "word"
    title = "word"
    rules = ("unknown_token",)

    def __init__(
        self,
        vocabulary: Vocabulary,
        special_tokens: Mapping[str, int],
        unknown_token: str = "<unk>",
        *,
        added_tokens: Iterable[AddedToken] = (),
        prefix: Sequence[int] = (),
        suffix: Sequence[int] = (),
    ) -> None:
        super().__init__(vocabulary, special_tokens, added_tokens=added_tokens, prefix=prefix, suffix=suffix)
        self._check_unknown_token(unknown_token)
        self.unknown_token = unknown_token
        n_words = len(vocabulary) - len(self.special_tokens)
        if set(self.special_tokens.values()) != set(range(n_words, len(vocabulary))):
            raise TokenizerError("the special tokens of a word tokenizer must be the last ones of its vocabulary")

    @classmethod
    def train(
        cls,
        texts: str | Iterable[str],
        vocab_size: int | None = None,
        *,
        special_tokens: Iterable[str] = (),
        unknown_token: str = "<unk>",
    ) -> WordTokenizer:
        """Learns the words of the texts.

        All of them, or the most frequent ones that fit into `vocab_size` (special tokens included). Each text stands
        for itself: no word goes across two. Raises TokenizerError for no text or no room.
        """
        counter = _native.PieceCounter(_PATTERN)
        for text in texts_of(texts):
            counter.add(text)
        counts = dict(counter.items())
        if not counts:
            raise TokenizerError("there is no text to learn words from")
        special = [unknown_token, *(s for s in special_tokens if s != unknown_token)]
        room = room_beside(special, vocab_size)
        counts.setdefault(b" ", 0)
        for spelling in special:  # the spelling of a special token is not a word
            counts.pop(spelling.encode(), None)
        # The single space always has a place: it keeps the space before an unknown word.
        words = sorted(counts, key=lambda word: (word != b" ", -counts[word], word))[:room]
        words.sort(key=lambda word: (-counts[word], word))
        tokens, ids = with_special_tokens(words, special)
        return cls(Vocabulary.of(tokens), ids, unknown_token)

    @cached_property
    def _encoder(self) -> _native.WordEncoder:
        n_words = self.vocab_size - len(self.special_tokens)
        unknown = self.special_tokens[self.unknown_token]
        return _native.WordEncoder(self.vocabulary.tokens, self.vocabulary.offsets, n_words, unknown, _PATTERN)

    def _cut(self, text: str) -> int:
        return safe_cut(text)

    def _encode(self, text: str) -> Ids:
        return self._encoder.encode(text)

    def _encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        return self._encoder.encode_batch(texts)

    def _header(self) -> dict[str, Any]:
        return {"pattern": _PATTERN, **super()._header()}

    @classmethod
    def from_state(cls, header: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Tokenizer:
        if header.get("pattern") != _PATTERN:
            raise TokenizerError(
                f"tokenizer state: pattern is {shorten(header.get('pattern'))}; a word tokenizer has {_PATTERN!r}"
            )
        return super().from_state(header, arrays)
