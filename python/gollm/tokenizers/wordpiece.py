"""WordPiece, BERT's tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from gollm import _native
from gollm.errors import TokenizerError
from gollm.system.strict_json import shorten
from gollm.tokenizers.added_tokens import AddedToken
from gollm.tokenizers.base import Ids, StreamDecoder, Tokenizer
from gollm.tokenizers.corpus import safe_cut, texts_of
from gollm.tokenizers.vocabulary import Vocabulary
from gollm.tokenizers.wordpiece_train import learn

CONTINUING = "##"
"""How a token begins that does not begin a word."""

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""BERT's."""

_SWITCHES = ("lowercase", "strip_accents", "clean_text", "space_chinese", "cleanup")
# What tokenizers' decoder tidies up, in its order.
_TIDY = [(" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"),
         (" do not", " don't"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re")]  # fmt: skip


class WordPieceTokenizer(Tokenizer):
    """BERT's tokenizer: words, cut into the longest tokens that the vocabulary has.

    Text is cleaned of control characters, in the uncased form also of accents and upper case; words are what stands
    between white space, and every punctuation and Chinese character is one. A word begins with the longest token that
    fits, and goes on with the longest one for the rest, which is spelled with "##" before it. A word that can't be put
    together is the unknown token. Decoding joins words with spaces: it does not give the text back.

    >>> tokenizer = WordPieceTokenizer.train("low lower lowest newer newest wider " * 9, 40)
    >>> [tokenizer.vocabulary[i] for i in tokenizer.encode("Newest, lower!")]
    [b'newest', b'[UNK]', b'lower', b'[UNK]']
    """

    kind = "wordpiece"
    title = "WordPiece"
    rules = ("unknown_token", "max_word", *_SWITCHES)

    def __init__(
        self,
        vocabulary: Vocabulary,
        special_tokens: Mapping[str, int],
        unknown_token: str = "[UNK]",
        *,
        lowercase: bool = True,
        strip_accents: bool = True,
        clean_text: bool = True,
        space_chinese: bool = True,
        cleanup: bool = True,
        max_word: int = 100,
        added_tokens: Iterable[AddedToken] = (),
        prefix: Sequence[int] = (),
        suffix: Sequence[int] = (),
    ) -> None:
        """lowercase, strip_accents, clean_text, space_chinese: the steps of the normalisation. cleanup: decoding puts
        no space before punctuation. max_word: a word of more characters is unknown. Whether a token comes twice is
        checked when text is first encoded; `check` does it now."""
        super().__init__(vocabulary, special_tokens, added_tokens=added_tokens, prefix=prefix, suffix=suffix)
        self._check_unknown_token(unknown_token)
        if type(max_word) is not int or max_word < 1:
            raise TokenizerError(f"max_word is {shorten(max_word)}; it must be 1 or more")
        self.unknown_token = unknown_token
        self.lowercase = lowercase
        self.strip_accents = strip_accents
        self.clean_text = clean_text
        self.space_chinese = space_chinese
        self.cleanup = cleanup
        self.max_word = max_word
        self._check_switches(*_SWITCHES)

    @classmethod
    def train(
        cls,
        texts: str | Iterable[str],
        vocab_size: int,
        *,
        lowercase: bool = True,
        special_tokens: Iterable[str] = SPECIAL_TOKENS,
        min_frequency: int = 2,
        progress: Callable[[int, int], None] | None = None,
    ) -> WordPieceTokenizer:
        """Learns tokens until there are `vocab_size`: special ones, characters, alone and with "##" before
        them, and then, again and again, the two neighbours that occur most often joined.

        As Hugging Face's WordPieceTrainer does it, except that of pairs that are equally frequent the one with the
        smaller ids comes first, so that the result is the same each time. Fewer tokens if no pair is left that occurs
        `min_frequency` times. `lowercase` also removes accents. "[UNK]" must be among the special tokens; "[CLS]" and
        "[SEP]" become the template. Raises TokenizerError for no text or no room.
        """

        def words_of(text: str) -> list[str]:
            return _native.bert_words(text, True, True, lowercase, lowercase)

        tokens, special = learn(map(words_of, texts_of(texts)), vocab_size, special_tokens, min_frequency, progress)
        return cls(
            Vocabulary.of(token.encode() for token in tokens),
            special,
            lowercase=lowercase,
            strip_accents=lowercase,
            **template_of(special),
        )

    def check(self) -> None:
        """Raises TokenizerError if a token comes twice, or there are too many."""
        self._encoder  # noqa: B018

    # text -> ids

    @cached_property
    def _encoder(self) -> _native.WordPieceEncoder:
        special = np.zeros(self.vocab_size, np.uint8)
        special[self._outside] = 1
        return _native.WordPieceEncoder(
            self.vocabulary.tokens,
            self.vocabulary.offsets,
            special,
            self.special_tokens[self.unknown_token],
            self.max_word,
            *((False,) * 4 if self._normalizes_early else self._steps),
        )

    @property
    def _steps(self) -> tuple[bool, bool, bool, bool]:
        """The steps of the normalisation, in the order of the core's arguments."""
        return self.clean_text, self.space_chinese, self.strip_accents, self.lowercase

    @cached_property
    def _normalizes_early(self) -> bool:
        """`normalized` added tokens are looked for in the normalized text."""
        return any(token.normalized for token in self.added_tokens)

    def _normalize(self, text: str) -> str:
        return _native.bert_normalize(text, *self._steps) if self._normalizes_early else text

    def _cut(self, text: str) -> int:
        return safe_cut(text)

    def _encode(self, text: str) -> Ids:
        return self._encoder.encode(text)

    def _encode_batch(self, texts: Sequence[str]) -> list[Ids]:
        return self._encoder.encode_batch(texts)

    # ids -> text

    def decode_bytes(self, ids: Sequence[int] | npt.NDArray[Any]) -> bytes:
        """The tokens, those that begin a word with a space before them. Raises TokenizerError for an id outside the
        vocabulary."""
        if not self.vocabulary.decode(ids):  # refuses what is no id
            return b""
        first, *others = np.asarray(ids).tolist()
        return self._tidied(self.vocabulary[first].decode("utf-8", "replace")) + b"".join(
            [self.written[token] for token in others]
        )

    def _stream_decoder(self) -> _Decoder:
        return _Decoder(self)

    @cached_property
    def written(self) -> list[bytes]:
        texts = [token.decode("utf-8", "replace") for token in self.vocabulary]
        mark = len(CONTINUING)
        return [self._tidied(text[mark:] if text.startswith(CONTINUING) else " " + text) for text in texts]

    def _tidied(self, text: str) -> bytes:
        for untidy, tidy in _TIDY if self.cleanup else ():
            text = text.replace(untidy, tidy)
        return text.encode()


def template_of(special_tokens: Mapping[str, int]) -> dict[str, Any]:
    """BERT's template, where its two tokens are there: [CLS] text [SEP]"""
    if not {"[CLS]", "[SEP]"} <= special_tokens.keys():
        return {}
    return {"prefix": (special_tokens["[CLS]"],), "suffix": (special_tokens["[SEP]"],)}


class _Decoder(StreamDecoder):
    def __init__(self, tokenizer: WordPieceTokenizer) -> None:
        super().__init__(tokenizer.vocabulary)
        self._tokenizer = tokenizer
        self._first = True

    def _bytes(self, token: int) -> bytes:
        self._vocabulary[token]  # refuses what is no id
        if not self._first:
            return self._tokenizer.written[token]
        self._first = False
        return self._tokenizer.decode_bytes([token])
