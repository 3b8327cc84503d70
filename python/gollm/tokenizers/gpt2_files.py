"""GPT-2's two files: vocab.json (encoder.json) maps tokens to ids, merges.txt (vocab.bpe) lists the merges.

JSON holds text, so bytes are written as characters of GPT-2's alphabet: a printable byte is the character of its own
number, the other 68 are U+0100, U+0101, ... in order (the space becomes "Ġ"). Special tokens stand in vocab.json as
they are spelled; nothing marks them but that no merge makes them, and so are they told apart here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gollm.errors import TokenizerError
from gollm.tokenizers.added_tokens import AddedToken
from gollm.tokenizers.json_file import read_json, read_text, write_text
from gollm.tokenizers.vocabulary import MAX_TOKENS, Vocabulary

if TYPE_CHECKING:
    from gollm.tokenizers.bpe import BPETokenizer

PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
"""How the two files are called, in folders and behind a prefix (gpt2-encoder.json, gpt2-vocab.bpe)."""

_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_REST = [byte for byte in range(256) if byte not in _PRINTABLE]
CHARACTER_OF_BYTE = {byte: chr(byte) for byte in _PRINTABLE} | {byte: chr(0x100 + i) for i, byte in enumerate(_REST)}
BYTE_OF_CHARACTER = {character: byte for byte, character in CHARACTER_OF_BYTE.items()}


def to_alphabet(token: bytes) -> str:
    """b" the" -> "Ġthe" """
    return "".join([CHARACTER_OF_BYTE[byte] for byte in token])


def from_alphabet(token: str) -> bytes:
    """ "Ġthe" -> b" the"; raises KeyError for a character that stands for no byte."""
    return bytes([BYTE_OF_CHARACTER[character] for character in token])


def build(
    vocab: Mapping[str, int],
    merges: Iterable[tuple[str, str]],
    added: Iterable[AddedToken],
    path: Path,
    **rules: Any,
) -> BPETokenizer:
    """A tokenizer from tokens and merges in the alphabet, and added tokens, which `vocab` has as they are spelled. Ids
    that no token has stand for nothing. rules: arguments of BPETokenizer."""
    from gollm.tokenizers.bpe import BPETokenizer

    added = list(added)
    outside = {token.spelling for token in added}
    size = max(vocab.values(), default=0) + 1
    if min(vocab.values(), default=0) < 0 or size > MAX_TOKENS:
        raise TokenizerError(
            f"{path}: ids from {min(vocab.values())} to {size - 1}; 0 to {MAX_TOKENS - 1} are possible"
        )
    tokens = [b""] * size
    for token, index in vocab.items():
        if tokens[index]:
            raise TokenizerError(f"{path}: two tokens have id {index}; each needs its own")
        try:
            tokens[index] = token.encode() if token in outside else from_alphabet(token)
        except (KeyError, UnicodeEncodeError):
            raise TokenizerError(
                f"{path}: token {token!r} (id {index}) is not written in GPT-2's byte alphabet"
            ) from None
    table = merge_table(merges, vocab, path)
    try:
        tokenizer = BPETokenizer(Vocabulary.of(tokens), table, added_tokens=added, **rules)
        tokenizer.check()
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from None
    return tokenizer


def merge_table(merges: Iterable[tuple[str, str]], vocab: Mapping[str, int], path: Path) -> np.ndarray[Any, Any]:
    """(M, 3) int32: left, right, result. Raises TokenizerError for a merge of or into a token that isn't there."""
    rows: list[tuple[int, int, int]] = []
    for rank, (left, right) in enumerate(merges):
        try:
            rows.append((vocab[left], vocab[right], vocab[left + right]))
        except KeyError as error:
            raise TokenizerError(
                f"{path}: merge {rank}, {left!r} and {right!r}, needs the token {error}, which isn't there"
            ) from None
    return np.array(rows, np.int32).reshape(-1, 3)


def unmade(vocab: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> list[str]:
    """The tokens that are neither a byte nor made by a merge, in the order of their ids."""
    made = {left + right for left, right in merges} | BYTE_OF_CHARACTER.keys()
    return sorted((token for token in vocab if token not in made), key=lambda token: vocab[token])


def vocab_of(value: object, path: Path) -> dict[str, int]:
    """A parsed JSON value as a mapping from tokens to ids."""
    if (
        not isinstance(value, dict)
        or not value
        or len(value) > MAX_TOKENS
        or not all(type(i) is int for i in value.values())
    ):
        raise TokenizerError(f"{path}: not a vocabulary, which maps up to {MAX_TOKENS} tokens to their ids")
    return value


def read(vocab_path: Path, merges_path: Path) -> BPETokenizer:
    vocab = vocab_of(read_json(vocab_path), vocab_path)
    merges: list[tuple[str, str]] = []
    for number, line in enumerate(read_text(merges_path).split("\n"), 1):
        line = line.rstrip("\r")
        if not line or (number == 1 and line.startswith("#version")):
            continue
        parts = line.split(" ")
        if len(parts) != 2 or not all(parts):
            raise TokenizerError(
                f"{merges_path}, line {number}: {line[:80]!r} is no merge; it must be two tokens with one space between"
            )
        merges.append((parts[0], parts[1]))
    return build(vocab, merges, [AddedToken(token, vocab[token]) for token in unmade(vocab, merges)], vocab_path)


def to_vocab(tokenizer: BPETokenizer) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """(vocab, merges) in the alphabet, added tokens as they are spelled, ids that stand for nothing left out."""
    spellings = {token.id: token.spelling for token in tokenizer.added_tokens}
    names = [spellings.get(i) or to_alphabet(token) for i, token in enumerate(tokenizer.vocabulary)]
    vocab: dict[str, int] = {}
    for i, name in enumerate(names):
        if name and vocab.setdefault(name, i) != i:
            double = name if {vocab[name], i} & spellings.keys() else tokenizer.vocabulary[i]
            raise TokenizerError(
                f"the special token {double!r} looks like an ordinary one in GPT-2's alphabet; the format can't hold it"
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
                f"{getattr(tokenizer, name)!r}; save it as tokenizer.json with save_huggingface"
            )
    for token in tokenizer.added_tokens:
        if not token.plain:
            raise TokenizerError(
                f"vocab.json can't say what the added token {token.spelling!r} is; use save_huggingface"
            )


def write(tokenizer: BPETokenizer, folder: Path) -> None:
    import json

    _refuse_what_it_cannot_hold(tokenizer)
    vocab, merges = to_vocab(tokenizer)
    for token in set(unmade(vocab, merges)) ^ tokenizer.special_tokens.keys():
        raise TokenizerError(
            f"vocab.json marks no special tokens, they are those that no merge makes; {token!r} is not told by that; "
            "use save_huggingface"
        )
    vocab_name, merges_name = PAIRS[0]
    write_text(folder / merges_name, "#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in merges))
    write_text(folder / vocab_name, json.dumps(vocab, ensure_ascii=False))
