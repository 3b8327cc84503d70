"""Added tokens in Hugging Face's files: the ids that they get, and their list in a tokenizer.json."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from gollm.errors import TokenizerError, warn
from gollm.system.strict_json import shorten
from gollm.tokenizers.added_tokens import MAX_ADDED_TOKENS, AddedToken
from gollm.tokenizers.base import Tokenizer

FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def place(added: Iterable[AddedToken], vocab: dict[str, int], path: Path) -> list[AddedToken]:
    """Added tokens with the ids that Hugging Face's tokenizers give them: that of the model's vocabulary, or the next
    one behind all others, unless only the token's own is free. Those that the vocabulary leaves out are put into
    `vocab`; the others are marked as ordinary. A token with the id -1 has none of its own."""
    tokens: dict[str, AddedToken] = {}
    in_model = frozenset(vocab)
    taken, behind = set(vocab.values()), len(vocab)
    for token in added:
        spelling, index = token.spelling, token.id
        if not spelling:
            continue
        given = vocab.setdefault(spelling, index if behind in taken and index >= 0 else behind)
        if given != index >= 0:
            warn(
                f"{path}: the added token {shorten(spelling)} has id {index}; Hugging Face's tokenizers take it as "
                f"{given}, and so does gollm"
            )
        taken.add(given)
        behind = max(behind, given + 1)
        # Of one that comes twice the last counts, and special it stays.
        special = token.special or (spelling in tokens and tokens[spelling].special)
        tokens[spelling] = replace(token, id=given, special=special, ordinary=spelling in in_model)
    return list(tokens.values())


def read_list(added: Any, vocab: dict[str, int], path: Path) -> list[AddedToken]:
    """The added tokens of a tokenizer.json, with their ids (`place`)."""
    tokens: list[AddedToken] = []
    if not isinstance(added, list) or len(added) > MAX_ADDED_TOKENS:
        raise TokenizerError(f"{path}: added_tokens must be a list of up to {MAX_ADDED_TOKENS}")
    for token in added:
        spelling, index = (token.get("content"), token.get("id")) if isinstance(token, dict) else (None, None)
        if not isinstance(spelling, str) or type(index) is not int:
            raise TokenizerError(f"{path}: an added token is {json.dumps(token)[:80]}; it needs content and id")
        flags = {key: token.get(key, False) for key in FLAGS}
        if not all(type(flag) is bool for flag in flags.values()):
            raise TokenizerError(
                f"{path}: the added token {shorten(spelling)} has a flag that is neither true nor false"
            )
        tokens.append(AddedToken(spelling, index, **flags))
    return place(tokens, vocab, path)


def entry(spelling: str, index: int, **flags: bool) -> dict[str, Any]:
    """One of the list."""
    return {"id": index, "content": spelling, **dict.fromkeys(FLAGS, False), **flags}


def write_list(tokenizer: Tokenizer) -> list[dict[str, Any]]:
    return [
        entry(token.spelling, token.id, **{flag: getattr(token, flag) for flag in FLAGS})
        for token in tokenizer.added_tokens
    ]


def without_added(vocab: dict[str, int], tokenizer: Tokenizer, unknown: str | None) -> dict[str, int]:
    """A vocabulary without the added tokens at its end, which their own list gives the same ids.

    Where a word that is a whole token is that token, text could otherwise spell one that only the list recognises."""
    added = {token.id for token in tokenizer.added_tokens if not token.ordinary and token.spelling != unknown}
    end = tokenizer.vocab_size
    while end - 1 in added:
        end -= 1
    rest = {name: i for name, i in vocab.items() if i < end}
    return rest if len(rest) == end else vocab  # with gaps, the list would begin in the first
