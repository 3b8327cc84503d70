"""GPT-2's two files: vocab.json (encoder.json) maps tokens to ids, merges.txt (vocab.bpe) lists the merges.

Bytes are written in GPT-2's alphabet (alphabet.py). Special tokens stand in vocab.json as
they are spelled; nothing marks them but that no merge makes them, and so are they told apart here, unless files
beside them say more (side_files.py).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gollm.errors import TokenizerError, warn
from gollm.system.strict_json import shorten
from gollm.tokenizers import patterns
from gollm.tokenizers.added_tokens import AddedToken
from gollm.tokenizers.alphabet import BYTE_OF_CHARACTER, from_alphabet, to_alphabet
from gollm.tokenizers.bpe import BPETokenizer
from gollm.tokenizers.files import side_files
from gollm.tokenizers.files.added_tokens import place
from gollm.tokenizers.files.format import TokenizerFile, TokenizerFormat, naming, read_json, read_text
from gollm.tokenizers.patterns import Pattern
from gollm.tokenizers.vocabulary import MAX_VOCAB_SIZE, Vocabulary

PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
"""How the two files are called, in folders and behind a prefix (gpt2-encoder.json, gpt2-vocab.bpe)."""

GPT2_END_OF_TEXT = "<|endoftext|>"

_INSTEAD = 'save it as tokenizer.json with to="huggingface"'

# What the classes of transformers do to text that have these two files.
_RULES: dict[str, dict[str, Any]] = {
    **{kind: {} for kind in ("", "GPT2Tokenizer", "PreTrainedTokenizer", "TokenizersBackend")},
    "Qwen2Tokenizer": {"pattern": "qwen2", "normalizer": "NFC"},
}
_DEFAULTS = {
    **{
        kind: dict.fromkeys(("bos_token", "eos_token", "unk_token"), GPT2_END_OF_TEXT) for kind in ("", "GPT2Tokenizer")
    },
    "Qwen2Tokenizer": dict.fromkeys(("eos_token", "unk_token", "pad_token"), GPT2_END_OF_TEXT),
}


def bpe_tokenizer(
    vocab: Mapping[str, int],
    merges: Iterable[tuple[str, str]],
    added: Iterable[AddedToken],
    path: Path,
    **rules: Any,
) -> BPETokenizer:
    """A tokenizer from tokens and merges in the alphabet, and added tokens, all of which are in `vocab`. Ids that no
    token has stand for nothing. rules: arguments of BPETokenizer.

    An added token that is marked as ordinary is spelled in the alphabet if text is encoded to it without looking for
    it: "ä" is the byte 0xE4 then, and in a text the letter is found as well. Every other added token is spelled as it
    stands in a text.
    """
    merges = list(merges)
    whole = patterns.checked(rules.get("pattern", "gpt2")) if rules.get("ignore_merges") else None
    made = _made(merges).union(*merges)
    added = [
        replace(token, ordinary=token.ordinary and (token.spelling in made or _is_piece(token.spelling, whole)))
        for token in added
    ]
    outside = {token.spelling for token in added if not token.ordinary}
    size = max(vocab.values(), default=0) + 1
    if min(vocab.values(), default=0) < 0 or size > MAX_VOCAB_SIZE:
        raise TokenizerError(
            f"{path}: ids from {min(vocab.values())} to {size - 1}; 0 to {MAX_VOCAB_SIZE - 1} are possible"
        )
    tokens = [b""] * size
    for token, index in vocab.items():
        if tokens[index]:
            raise TokenizerError(f"{path}: two tokens have id {index}; each needs its own")
        try:
            tokens[index] = token.encode() if token in outside else from_alphabet(token)
        except (KeyError, UnicodeEncodeError):
            raise TokenizerError(
                f"{path}: token {shorten(token)} (id {index}) is not written in GPT-2's byte alphabet"
            ) from None
    table = merge_table(merges, vocab, path)
    with naming(path):
        tokenizer = BPETokenizer(Vocabulary.of(tokens), table, added_tokens=added, **rules)
        tokenizer.check()
    return tokenizer


def _made(merges: Iterable[tuple[str, str]]) -> set[str]:
    """What merging begins with or makes."""
    return {left + right for left, right in merges} | BYTE_OF_CHARACTER.keys()


def _is_piece(spelling: str, pattern: Pattern | None) -> bool:
    """Whether a pattern leaves what a token stands for in one piece."""
    try:
        text = from_alphabet(spelling).decode() if pattern is not None else ""
    except (KeyError, UnicodeDecodeError):
        return False
    return pattern is not None and patterns.cut(text, pattern) == [text]


def merge_table(merges: Iterable[tuple[str, str]], vocab: Mapping[str, int], path: Path) -> np.ndarray[Any, Any]:
    """(M, 3) int32: left, right, result. A merge that is listed twice has its last place, as in Hugging Face's
    tokenizers. Raises TokenizerError for a merge of or into a token that isn't there."""
    rows: dict[tuple[str, str], tuple[int, int, int]] = {}
    for rank, (left, right) in enumerate(merges):
        rows.pop((left, right), None)
        try:
            rows[left, right] = vocab[left], vocab[right], vocab[left + right]
        except KeyError as error:
            raise TokenizerError(
                f"{path}: merge {rank}, {shorten(left)} and {shorten(right)}, needs the token "
                f"{shorten(error.args[0])}, which isn't there"
            ) from None
    return np.array(list(rows.values()), np.int32).reshape(-1, 3)


def unmade(vocab: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> list[str]:
    """The tokens that are neither a byte nor made by a merge, in the order of their ids."""
    made = _made(merges)
    return sorted((token for token in vocab if token not in made), key=lambda token: vocab[token])


def vocab_of(value: object, path: Path) -> dict[str, int]:
    """A parsed JSON value as a mapping from tokens to ids."""
    if (
        not isinstance(value, dict)
        or not value
        or len(value) > MAX_VOCAB_SIZE
        or not all(type(i) is int for i in value.values())
    ):
        raise TokenizerError(f"{path}: not a vocabulary, which maps up to {MAX_VOCAB_SIZE} tokens to their ids")
    return value


def recognises(file: TokenizerFile) -> bool:
    return _pair(file.path) is not None


def _pair(path: Path) -> tuple[Path, Path] | None:
    """(vocab.json, merges.txt), given the second, or the first with the second beside it."""
    for vocab_name, merges_name in PAIRS:
        if path.name.endswith(merges_name):
            return sibling(path, merges_name, vocab_name), path
        if path.name.endswith(vocab_name) and os.path.isfile(merges := sibling(path, vocab_name, merges_name)):
            return path, merges
    return None


def sibling(path: Path, ending: str, other: str) -> Path:
    """gpt2-vocab.bpe -> gpt2-encoder.json"""
    return path.with_name(path.name[: -len(ending)] + other)


def read(file: TokenizerFile, merges: Path | None = None) -> BPETokenizer:
    """`file` is one of the two, or vocab.json where merges.txt is given."""
    pair = _pair(file.path) if merges is None else (file.path, merges)
    assert pair is not None
    return _read(*pair)


def _read(vocab_path: Path, merges_path: Path) -> BPETokenizer:
    vocab = vocab_of(read_json(vocab_path), vocab_path)
    merges: list[tuple[str, str]] = []
    for number, line in enumerate(read_text(merges_path).split("\n"), 1):
        line = line.rstrip("\r")
        if not line or (number == 1 and line.startswith("#version")):
            continue
        parts = line.split(" ")
        if len(parts) != 2 or not all(parts):
            raise TokenizerError(
                f"{merges_path}, line {number}: {shorten(line[:80])} is no merge; it must be two tokens with one space "
                "between"
            )
        merges.append((parts[0], parts[1]))
    # Behind a prefix lie other files.
    defaults = (
        _DEFAULTS if GPT2_END_OF_TEXT in vocab else None
    )  # a token that only these name would enlarge the vocabulary
    beside = side_files.read(vocab_path.parent, defaults) if vocab_path.name == PAIRS[0][0] else None
    if beside is None:
        added = [AddedToken(token, vocab[token]) for token in unmade(vocab, merges)]
        return bpe_tokenizer(vocab, merges, added, vocab_path)
    rules = _RULES.get(beside.kind, {})
    if beside.kind not in _RULES:
        warn(f"{vocab_path.parent}: gollm does not know how a {shorten(beside.kind)} cuts text; it is read as GPT-2's")
    vocab = dict(vocab)
    added = place(beside.tokens, vocab, vocab_path)
    listed = {token.spelling for token in added}
    added += [
        AddedToken(token, vocab[token])
        for token in unmade(vocab, merges)
        if token not in listed and not BYTE_OF_CHARACTER.keys() >= set(token)
    ]
    if beside.settings.get("add_prefix_space") is True and beside.kind != "Qwen2Tokenizer":
        rules = {**rules, "add_prefix_space": True}
    return bpe_tokenizer(vocab, merges, added, vocab_path, **rules, **beside.template(vocab))


def to_vocab(tokenizer: BPETokenizer) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """(vocab, merges) in the alphabet, added tokens as they are spelled, ids that stand for nothing left out."""
    spellings = {token.id: token.spelling for token in tokenizer.added_tokens if not token.ordinary}
    names = [spellings.get(i) or to_alphabet(token) for i, token in enumerate(tokenizer.vocabulary)]
    vocab: dict[str, int] = {}
    for i, name in enumerate(names):
        if name and vocab.setdefault(name, i) != i:
            double = name if {vocab[name], i} & spellings.keys() else tokenizer.vocabulary[i]
            raise TokenizerError(
                f"the special token {shorten(double)} looks like an ordinary one in GPT-2's alphabet; the format "
                "can't hold it"
            )
    return vocab, [(names[left], names[right]) for left, right, _ in tokenizer.merges.tolist()]


def _refuse_what_it_cannot_hold(tokenizer: BPETokenizer) -> None:
    plain: dict[str, Any] = {
        "pattern": "gpt2",
        "normalizer": None,
        "add_prefix_space": False,
        "ignore_merges": False,
        "lowest_id_first": False,
        "unknown_token": None,
        "prefix": (),
        "suffix": (),
    }
    for name, value in plain.items():
        if getattr(tokenizer, name) != value:
            raise TokenizerError(
                f"vocab.json and merges.txt hold nothing but GPT-2's kind; this tokenizer's {name} is "
                f"{shorten(getattr(tokenizer, name))}; {_INSTEAD}"
            )
    for token in tokenizer.added_tokens:
        if not token.plain:
            raise TokenizerError(f"vocab.json can't say what the added token {shorten(token.spelling)} is; {_INSTEAD}")


def to_files(tokenizer: BPETokenizer, folder: Path) -> dict[Path, bytes]:
    _refuse_what_it_cannot_hold(tokenizer)
    vocab, merges = to_vocab(tokenizer)
    for token in set(unmade(vocab, merges)) ^ tokenizer.special_tokens.keys():
        raise TokenizerError(
            f"vocab.json marks no special tokens, they are those that no merge makes; {shorten(token)} is "
            f"not told by that; {_INSTEAD}"
        )
    vocab_name, merges_name = PAIRS[0]
    lines = ["#version: 0.2\n", *(f"{left} {right}\n" for left, right in merges)]
    return {
        folder / merges_name: "".join(lines).encode(),
        folder / vocab_name: json.dumps(vocab, ensure_ascii=False).encode(),
    }


FORMAT = TokenizerFormat("gpt2", recognises, read, (BPETokenizer,), to_files)
