"""GPT-2's two files: vocab.json (encoder.json) maps tokens to ids, merges.txt (vocab.bpe) lists the merges.

JSON holds text, so bytes are written as characters of GPT-2's alphabet: a printable byte is the character of its own
number, the other 68 are U+0100, U+0101, ... in order (the space becomes "Ġ"). Special tokens stand in vocab.json as
they are spelled; nothing marks them but that no merge makes them, and so are they told apart here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gollm.errors import TokenizerError
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
    vocab: Mapping[str, int], merges: Iterable[tuple[str, str]], special: Iterable[str], path: Path
) -> BPETokenizer:
    """A tokenizer from tokens and merges in the alphabet, and special tokens, which `vocab` has as they are spelled."""
    from gollm.tokenizers.bpe import BPETokenizer

    special_tokens = {spelling: vocab[spelling] for spelling in special}
    tokens = [b""] * len(vocab)
    for token, index in vocab.items():
        if type(index) is not int or not 0 <= index < len(vocab):
            raise TokenizerError(
                f"{path}: token {token!r} has id {index!r}; {len(vocab)} tokens need the ids 0 to {len(vocab) - 1}"
            )
        if tokens[index]:
            raise TokenizerError(f"{path}: two tokens have id {index}; each needs its own")
        try:
            tokens[index] = token.encode() if token in special_tokens else from_alphabet(token)
        except (KeyError, UnicodeEncodeError):
            raise TokenizerError(
                f"{path}: token {token!r} (id {index}) is not written in GPT-2's byte alphabet"
            ) from None
    rows: list[tuple[int, int, int]] = []
    for rank, (left, right) in enumerate(merges):
        try:
            rows.append((vocab[left], vocab[right], vocab[left + right]))
        except KeyError as error:
            raise TokenizerError(
                f"{path}: merge {rank}, {left!r} and {right!r}, needs the token {error}, which isn't there"
            ) from None
    table = np.array(rows, np.int32).reshape(-1, 3)
    try:
        tokenizer = BPETokenizer(Vocabulary.of(tokens), table, special_tokens)
        tokenizer.check()
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from None
    return tokenizer


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
    return build(vocab, merges, unmade(vocab, merges), vocab_path)


def to_vocab(tokenizer: BPETokenizer) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """(vocab, merges) in the alphabet, special tokens as they are spelled."""
    spellings = {token: spelling for spelling, token in tokenizer.special_tokens.items()}
    names = [spellings.get(i) or to_alphabet(token) for i, token in enumerate(tokenizer.vocabulary)]
    vocab = {name: i for i, name in enumerate(names)}
    if len(vocab) < len(names):
        double = next(name for i, name in enumerate(names) if vocab[name] != i)
        raise TokenizerError(
            f"the special token {double!r} looks like an ordinary one in GPT-2's alphabet; the format can't hold it"
        )
    return vocab, [(names[left], names[right]) for left, right, _ in tokenizer.merges.tolist()]


def write(tokenizer: BPETokenizer, folder: Path) -> None:
    import json

    vocab, merges = to_vocab(tokenizer)
    vocab_name, merges_name = PAIRS[0]
    write_text(folder / merges_name, "#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in merges))
    write_text(folder / vocab_name, json.dumps(vocab, ensure_ascii=False))
