"""Byte-pair encoding on bytes, as GPT-2, LLaMA-3 and tiktoken have it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from gollm import _native
from gollm.errors import TokenizerError
from gollm.system.strict_json import shorten
from gollm.tokenizers import patterns
from gollm.tokenizers.added_tokens import AddedToken
from gollm.tokenizers.alphabet import from_alphabet
from gollm.tokenizers.base import Ids, Tokenizer
from gollm.tokenizers.corpus import SAFE_BEFORE, divide, safe_cut, texts_of
from gollm.tokenizers.normalize import nfc
from gollm.tokenizers.state import State, arguments_of
from gollm.tokenizers.vocabulary import Vocabulary, check_vocab_size, with_special_tokens

_MERGES_AT_ONCE = 512  # between two looks at Ctrl-C and the progress bar


class BPETokenizer(Tokenizer):
    """Byte-pair encoding: any text has ids, and decoding gives its bytes back.

    The text is cut into pieces by `pattern` (gollm.tokenizers.patterns); a piece begins as its bytes, and the pairs
    that `merges` lists are joined, the earliest listed first. A trained tokenizer has the byte values as ids 0 to 255,
    then the merges in the order in which they were learned, then the special tokens.

    >>> tokenizer = BPETokenizer.train("aaabdaaabac", 259)
    >>> tokenizer.encode("aaabdaaabac").tolist()
    [258, 100, 258, 97, 99]
    >>> [tokenizer.vocabulary[token] for token in (256, 257, 258)]
    [b'aa', b'ab', b'aaab']
    """

    kind = "bpe"
    title = "byte-level BPE"
    rules = ("pattern", "normalizer", "add_prefix_space", "ignore_merges", "lowest_id_first", "unknown_token")

    def __init__(
        self,
        vocabulary: Vocabulary,
        merges: npt.NDArray[np.int32],
        special_tokens: Mapping[str, int] | None = None,
        pattern: str | Sequence[str] = "gpt2",
        *,
        normalizer: str | None = None,
        add_prefix_space: bool = False,
        ignore_merges: bool = False,
        lowest_id_first: bool = False,
        unknown_token: str | None = None,
        added_tokens: Iterable[AddedToken] = (),
        prefix: Sequence[int] = (),
        suffix: Sequence[int] = (),
    ) -> None:
        """merges (M, 3): left, right, resulting id. Whether they fit the vocabulary is checked when text is first
        encoded, so that a tokenizer in a checkpoint costs nothing to open; `check` does it now.

        normalizer: "NFC", or none. add_prefix_space: a text that begins with no space gets one. ignore_merges: a piece
        that is a token is not merged. lowest_id_first: the pair that makes the lowest id is joined first, wherever its
        merge is listed. unknown_token: what stands for a byte without a token; without it such a byte is left out.
        """
        super().__init__(vocabulary, special_tokens or {}, added_tokens=added_tokens, prefix=prefix, suffix=suffix)
        if merges.ndim != 2 or merges.shape[1] != 3:
            raise TokenizerError(f"merges of shape {merges.shape}; they must be (n, 3): left, right and resulting id")
        if normalizer not in (None, "NFC"):
            raise TokenizerError(f'unknown normalizer {shorten(normalizer)}; it must be "NFC" or none')
        self.merges = merges
        self.pattern = patterns.checked(pattern)
        self.normalizer = normalizer
        self.add_prefix_space = add_prefix_space
        self.ignore_merges = ignore_merges
        self.lowest_id_first = lowest_id_first
        self.unknown_token = unknown_token
        self._check_switches("add_prefix_space", "ignore_merges", "lowest_id_first")
        if unknown_token is not None:
            self._check_unknown_token(unknown_token)

    @classmethod
    def train(
        cls,
        texts: str | Iterable[str],
        vocab_size: int,
        *,
        pattern: str | Sequence[str] = "gpt2",
        special_tokens: Iterable[str] = (),
        min_frequency: int = 2,
        progress: Callable[[int, int], None] | None = None,
    ) -> BPETokenizer:
        """Learns merges until there are `vocab_size` tokens: 256 bytes, merges, special tokens.

        `pattern` is a name from gollm.tokenizers.patterns, or a regular expression that finds the pieces of a text.
        Fewer tokens if no pair is left that occurs `min_frequency` times. Each text stands for itself: nothing merges
        across two. Special tokens are not looked for in the texts. The same merges as Hugging Face's BpeTrainer with
        its byte alphabet. `progress` is called with the tokens learned and wanted. Memory grows with the distinct
        words, not with the corpus; with a regular expression of one's own also with the largest text.

        Raises TokenizerError if there is nothing to learn, or no room for 256 bytes and the special tokens.
        """
        pattern = patterns.checked(pattern)
        special = list(with_special_tokens([], special_tokens)[1])  # a bad one is refused before the work, not after it
        check_vocab_size("bpe", vocab_size, len(special))
        n_tokens = vocab_size - len(special)
        name = pattern if isinstance(pattern, str) and pattern in patterns.PATTERNS else None
        counter = _native.PieceCounter(name or "gpt2")
        empty = True
        for text in texts_of(texts):
            if name:
                counter.add(text)
            else:
                counter.add_pieces(patterns.cut(text, pattern))
            empty = empty and not text
        if empty:
            raise TokenizerError("there is no text to learn merges from")
        trainer = _native.BpeTrainer(counter)
        del counter
        while trainer.run(n_tokens, _MERGES_AT_ONCE, max(1, min_frequency)):
            if progress is not None:
                progress(trainer.n_tokens, n_tokens)
        tokens, offsets, merges = trainer.result()
        everything, ids = with_special_tokens(list(Vocabulary(tokens, offsets)), special)
        return cls(Vocabulary.of(everything), merges, ids, pattern)

    @cached_property
    def _encoder(self) -> _native.BpeEncoder:
        return _native.BpeEncoder(
            self.vocabulary.tokens,
            self.vocabulary.offsets,
            self.merges,
            self._name or "gpt2",
            np.array(self._outside, np.int32),
            self.lowest_id_first,
            self.ignore_merges,
            -1 if self.unknown_token is None else self.special_tokens[self.unknown_token],
        )

    def _bytes_of(self, token: AddedToken) -> bytes | None:
        if not token.ordinary:
            return super()._bytes_of(token)
        try:
            return from_alphabet(token.spelling)
        except KeyError:
            return None

    @property
    def _name(self) -> str | None:
        """The pattern's name, if the C core knows it."""
        return self.pattern if isinstance(self.pattern, str) and self.pattern in patterns.PATTERNS else None

    def check(self) -> None:
        """Raises TokenizerError if the merges don't fit the vocabulary, or a byte has no token; so does encoding."""
        self._encoder  # noqa: B018

    def unreached(self) -> list[int]:
        """The ordinary tokens that merging does not make of their own bytes: `ignore_merges` gives them, or nothing."""
        outside = set(self._outside)
        found = self._encoder.unreached(self.vocabulary.tokens, self.vocabulary.offsets)
        return [token for token in found.tolist() if token not in outside]

    def _normalize(self, text: str) -> str:
        return nfc(text) if self.normalizer else text

    def _prepare(self, text: str) -> str:
        return f" {text}" if self.add_prefix_space and text and not text.startswith(" ") else text

    def _cut(self, text: str) -> int:
        if not self._name:
            return 0
        return safe_cut(text, before=" " if self.add_prefix_space else SAFE_BEFORE)

    def _divide(self, text: str, size: int) -> list[str]:
        return divide(text, size) if self._name else [text]

    def _encode(self, text: str) -> Ids:
        if self._name:
            return self._encoder.encode(text)
        return self._encoder.encode_pieces(patterns.cut(text, self.pattern))

    def _encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        if self._name:
            return self._encoder.encode_batch(texts)
        return [self._encode(text) for text in texts]

    # states

    def _header(self) -> dict[str, Any]:
        header = {name: value for name, value in super()._header().items() if value}
        return header if isinstance(self.pattern, str) else {**header, "pattern": list(self.pattern)}

    def to_state(self) -> State:
        header, arrays = super().to_state()
        return header, {**arrays, "merges": self.merges}

    @classmethod
    def from_state(cls, header: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> BPETokenizer:
        off = dict.fromkeys(("add_prefix_space", "ignore_merges", "lowest_id_first"), False)
        return cls(**arguments_of({**off, **header}, arrays, cls.rules, merges="int32"))
