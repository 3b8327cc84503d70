"""A list of words as a tokenizer, and a tokenizer as a list of words: what plain JSON models have."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from gollm.errors import FormatError, TokenizerError
from gollm.strict_json import shorten
from gollm.tokenizers import CharacterTokenizer, Tokenizer, Vocabulary, WordTokenizer

UNKNOWN = ("<unk>", "<UNK>", "[UNK]", "<|unk|>")
_SPECIAL = re.compile(r"<[^<> ]+>|\[[A-Z]+\]")  # <unk>, <|endoftext|>, [PAD]


def tokenizer_of(words: Sequence[Any]) -> tuple[Tokenizer | None, str]:
    """The tokenizer whose tokens are these words, or None and why there is none.

    Of characters where every word is one; of words, with the spaces before them, where one of them is the space. What
    looks like <unk> or [PAD] is a special token. Raises FormatError for a list with a word twice, or with
    something else than words."""
    seen: dict[str, int] = {}
    for i, word in enumerate(words):
        if not isinstance(word, str) or not word:
            raise FormatError(f"vocab[{i}] is {shorten(word)}; it must be a word")
        if seen.setdefault(word, i) != i:
            raise FormatError(f"vocab has the word {shorten(word)} twice, at {seen[word]} and at {i}")
    special = {word: i for word, i in seen.items() if len(word) > 1 and _SPECIAL.fullmatch(word)}
    unknown = next((word for word in UNKNOWN if word in special), None)
    try:
        vocabulary = Vocabulary.of(word.encode() for word in words)
        if all(len(word) == 1 or word in special for word in words):
            return CharacterTokenizer(vocabulary, special, unknown), ""
        if " " in seen:
            return WordTokenizer(vocabulary, special, unknown or UNKNOWN[0]), ""
        return None, "its vocabulary is neither of characters nor of words and spaces"
    except (TokenizerError, UnicodeEncodeError) as error:
        return None, str(error)


def words_of(tokenizer: Tokenizer) -> list[str]:
    """The words of a tokenizer that `tokenizer_of` gives back. Raises FormatError for one of another kind."""
    if not isinstance(tokenizer, CharacterTokenizer | WordTokenizer):
        raise FormatError(
            f"the tokenizer is of the kind {tokenizer.kind!r}, and a list of words holds character and word "
            "tokenizers only"
        )
    words = [token.decode() for token in tokenizer.vocabulary]
    again, why = tokenizer_of(words)
    if again is None or again.to_state()[0] != tokenizer.to_state()[0]:
        raise FormatError(
            f"the tokenizer's special tokens ({', '.join(tokenizer.special_tokens)}) are not told from words: "
            f"they must look like <unk> or [PAD]{' (' + why + ')' if why else ''}"
        )
    return words
