"""A list of words as a tokenizer, and a tokenizer as a list of words: what plain JSON models have."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from gollm.errors import FormatError, TokenizerError
from gollm.system.strict_json import shorten
from gollm.tokenizers import CharacterTokenizer, Tokenizer, Vocabulary, WordPieceTokenizer, WordTokenizer

UNKNOWN_WORDS = ("<unk>", "<UNK>", "[UNK]", "<|unk|>")
_SPECIAL = re.compile(r"<[^<> ]+>|\[[A-Z]+\]")  # <unk>, <|endoftext|>, [PAD]


def tokenizer_of(words: Sequence[Any]) -> tuple[Tokenizer | None, str]:
    """The tokenizer whose tokens are these words, or None and why there is none.

    Of characters where every word is one; of words and the spaces before them where one of them is the space; else of
    words that stand between spaces, for which there must be an unknown token. What looks like <unk> or [PAD] is a
    special token. Raises FormatError for a list with a word twice, or with
    something else than words."""
    seen: dict[str, int] = {}
    for i, word in enumerate(words):
        if not isinstance(word, str) or not word:
            raise FormatError(f"vocab[{i}] is {shorten(word)}; it must be a word")
        if seen.setdefault(word, i) != i:
            raise FormatError(f"vocab has the word {shorten(word)} twice, at {seen[word]} and at {i}")
    special = {word: i for word, i in seen.items() if len(word) > 1 and _SPECIAL.fullmatch(word)}
    unknown = next((word for word in UNKNOWN_WORDS if word in special), None)
    try:
        vocabulary = Vocabulary.of(word.encode() for word in words)
        if all(len(word) == 1 or word in special for word in words):
            return CharacterTokenizer(vocabulary, special, unknown), ""
        if " " in seen:
            return WordTokenizer(vocabulary, special, unknown or UNKNOWN_WORDS[0]), ""
        if unknown is None:
            return None, f"its vocabulary of words has no token for unknown ones, such as {UNKNOWN_WORDS[0]}"
        return WordPieceTokenizer(vocabulary, special, unknown, lowercase=False, strip_accents=False), ""
    except (TokenizerError, UnicodeEncodeError) as error:
        return None, str(error)


def words_of(tokenizer: Tokenizer) -> list[str]:
    """The words of a tokenizer that `tokenizer_of` gives back. Raises TokenizerError for one that it would not."""
    if not isinstance(tokenizer, CharacterTokenizer | WordTokenizer | WordPieceTokenizer):
        raise TokenizerError(f"a list of words holds no tokenizer of the kind {tokenizer.kind!r}")
    try:
        words = [token.decode() for token in tokenizer.vocabulary]
        again, _ = tokenizer_of(words)
    except (UnicodeDecodeError, FormatError) as error:
        raise TokenizerError(f"its tokens are no list of words: {error}") from None
    if again is None or again.to_state()[0] != tokenizer.to_state()[0]:
        raise TokenizerError(
            "its tokenizer does more than a list of words says, or has special tokens that do not look like <unk> or "
            f"[PAD]: {', '.join(tokenizer.special_tokens)}"
        )
    return words
