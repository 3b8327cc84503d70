"""The tokens of a tokenizer as two arrays: what memory, JSON files and checkpoints hold in common.

The bytes of all tokens lie one behind the other; token i is tokens[offsets[i] : offsets[i + 1]]. A vocabulary that is
mapped from a file is used where it lies: nothing is unpacked to open or to decode with it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gollm import _native
from gollm.errors import TokenizerError
from gollm.system.strict_json import shorten

MAX_VOCAB_SIZE = (1 << 20) - 1
"""The largest vocabulary that the C cores take (csrc/tokenizer/vocabulary.h)."""


class Vocabulary:
    """V tokens: `tokens` uint8 (bytes), `offsets` int32 (V + 1). Raises TokenizerError if the two don't fit."""

    def __init__(self, tokens: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int32]) -> None:
        _native.check_vocabulary(tokens, offsets)
        self.tokens = tokens
        self.offsets = offsets

    @classmethod
    def of(cls, tokens: Iterable[bytes]) -> Vocabulary:
        """The vocabulary of the given tokens, in their order."""
        tokens = list(tokens)
        sizes = np.fromiter(map(len, tokens), np.int64, len(tokens))
        if len(tokens) > MAX_VOCAB_SIZE or int(sizes.sum()) > np.iinfo(np.int32).max:
            raise TokenizerError(
                f"a vocabulary of {len(tokens)} tokens; at most {MAX_VOCAB_SIZE} of 2 GB together are possible"
            )
        offsets = np.zeros(len(tokens) + 1, np.int32)
        np.cumsum(sizes, out=offsets[1:])
        return cls(np.frombuffer(b"".join(tokens), np.uint8), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, token: int) -> bytes:
        if not 0 <= token < len(self):
            raise TokenizerError(f"token id {token} is outside of the vocabulary; ids go from 0 to {len(self) - 1}")
        return self.tokens[self.offsets[token] : self.offsets[token + 1]].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        data, offsets = self.tokens.tobytes(), self.offsets.tolist()
        return (data[a:b] for a, b in itertools.pairwise(offsets))

    def decode(self, ids: Sequence[int] | npt.NDArray[Any]) -> bytes:
        """The bytes of ids (n), integers of any kind. Raises TokenizerError for an id that is no token."""
        array = np.asarray(ids)
        if array.size == 0:
            return b""
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise TokenizerError(
                f"token ids must be a flat sequence of integers, not {array.dtype} of shape {array.shape}"
            )
        if array.dtype != np.int32:
            outside = (array < 0) | (array >= len(self))
            if outside.any():
                self[int(array[outside][0])]
            array = array.astype(np.int32)
        return _native.decode_tokens(self.tokens, self.offsets, np.ascontiguousarray(array))


def with_special_tokens(tokens: Sequence[bytes], special_tokens: Iterable[str]) -> tuple[list[bytes], dict[str, int]]:
    """Ordinary tokens, then special ones. Raises TokenizerError for one that is empty, doubled or ordinary."""
    ids: dict[str, int] = {}
    ordinary = set(tokens)
    if isinstance(special_tokens, str):
        raise TokenizerError(f"special_tokens is {shorten(special_tokens)}; it must be a sequence of spellings")
    for spelling in special_tokens:
        if not isinstance(spelling, str) or not spelling or not spelling.isprintable():
            raise TokenizerError(f"special token {shorten(spelling)} must be printable text of one character or more")
        if spelling in ids or spelling.encode() in ordinary:
            raise TokenizerError(
                f"special token {shorten(spelling)} is in the vocabulary already; choose another spelling"
            )
        ids[spelling] = len(tokens) + len(ids)
    return [*tokens, *(spelling.encode() for spelling in ids)], ids


def check_vocab_size(kind: str, vocab_size: int, n_special: int) -> None:
    """Whether a tokenizer that is trained can have so many tokens: bpe has one for each byte. Raises TokenizerError."""
    least = n_special + (256 if kind == "bpe" else 1)
    if not least <= vocab_size <= MAX_VOCAB_SIZE:
        raise TokenizerError(
            f"vocab_size is {vocab_size}; with {n_special} special tokens it must be from {least} to {MAX_VOCAB_SIZE}"
        )


def room_beside(special_tokens: Sequence[str], vocab_size: int | None) -> int:
    """How many ordinary tokens fit into a vocabulary. Raises TokenizerError for none."""
    room = (MAX_VOCAB_SIZE if vocab_size is None else vocab_size) - len(special_tokens)
    if room < 1:
        n = len(special_tokens)
        raise TokenizerError(f"vocab_size is {vocab_size}; with {n} special tokens it must be > {n}")
    return room
