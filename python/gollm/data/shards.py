"""Token shards in llm.c's format, and sequences of tokens over them.

A shard is 256 int32 (magic, version, number of tokens, then zeros) followed by the tokens, all little-endian
(llm.c, dev/data/data_common.py):

    magic 20240520, version 1   uint16   GPT-2's vocabulary and smaller
    magic 20240801, version 7   uint32   LLaMA-3's
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from gollm.errors import DataError
from gollm.kernels import Array
from gollm.system.files import StrPath, open_regular, read_regular, reason, replacing
from gollm.tokenizers.base import Ids

HEADER_BYTES = 1024
MAX_TOKENS = 2**31 - 1  # the header counts them in an int32
FORMATS: dict[int, tuple[int, np.dtype[Any]]] = {20240520: (1, np.dtype("<u2")), 20240801: (7, np.dtype("<u4"))}


def shard_dtype(vocab_size: int) -> np.dtype[Any]:
    """uint16 where every id fits, else uint32."""
    return np.dtype("<u2") if vocab_size <= 2**16 else np.dtype("<u4")


def shard_header(dtype: np.dtype[Any], n_tokens: int) -> bytes:
    """The 1024 bytes in front of the tokens."""
    magic, version = next((m, v) for m, (v, d) in FORMATS.items() if d == dtype)
    header = np.zeros(256, "<i4")
    header[:3] = magic, version, n_tokens
    return header.tobytes()


def write_shard(path: StrPath, tokens: Array | Sequence[int], vocab_size: int = 2**16) -> None:
    """Write `tokens` (integers from 0 to vocab_size - 1) as one shard: uint16 for ids below 65536, else uint32.

    Raises DataError for ids out of range, for more than 2^31 - 1 tokens, and for a disk that cannot be written.
    """
    ids = np.asarray(tokens)
    if ids.ndim != 1 or (ids.dtype.kind not in "iu" and ids.size):
        raise DataError(f"tokens of dtype {ids.dtype} and shape {ids.shape} are no sequence of ids")
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < vocab_size:
        raise DataError(f"token ids from {ids.min()} to {ids.max()} do not fit a vocabulary of {vocab_size}")
    if ids.size > MAX_TOKENS:
        raise DataError(f"{ids.size:,} tokens do not fit one shard; write several of at most {MAX_TOKENS:,}")
    dtype = shard_dtype(vocab_size)
    with replacing(path, DataError) as file:
        file.write(shard_header(dtype, ids.size))
        file.write(np.ascontiguousarray(ids, dtype).data)


def is_shard(path: Path) -> bool:
    """Whether the file begins like a token shard."""
    try:
        return int.from_bytes(read_regular(path, 4), "little") in FORMATS
    except OSError:
        return False


def open_shard(path: StrPath) -> Array:
    """The tokens of one shard, a read-only uint16 or uint32 view of the mapped file.

    Raises DataError for a file that is missing, of another kind, or not as long as its header says.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            header = np.frombuffer(file.read(HEADER_BYTES), np.uint8)
            if header.size < HEADER_BYTES:
                raise DataError(
                    f"{path} is no token shard: it has {size} bytes, fewer than the {HEADER_BYTES} of a header"
                )
            magic, version, n_tokens = (int(n) for n in header.view("<i4")[:3])
            if magic not in FORMATS or version != FORMATS[magic][0]:
                known = " and ".join(f"{m} (version {v})" for m, (v, _) in FORMATS.items())
                raise DataError(
                    f"{path} is no token shard: its magic number is {magic} (version {version}); known are {known}"
                )
            dtype = FORMATS[magic][1]
            if n_tokens < 0 or size != HEADER_BYTES + n_tokens * dtype.itemsize:
                raise DataError(
                    f"{path} is damaged: its header counts {n_tokens:,} tokens of {dtype.itemsize} bytes but the file "
                    f"has "
                    f"{size:,} bytes; write it again"
                )
            if n_tokens == 0:
                return np.empty(0, dtype)
            mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
    except OSError as failure:
        raise DataError(f"cannot read the token shard {path}: {reason(failure)}") from failure
    return np.frombuffer(mapped, dtype, n_tokens, HEADER_BYTES)


class Tokens:
    """A read-only sequence of token ids over one or several shards, read from the disk as they are needed.

    tokens[i] is an int, tokens[a:b] a new int32 array. `vocab_size`, where given, is checked against every id that is
    read. `fingerprint` names the content, `earlier_fingerprint` is what checkpoints of gollm 0.1 call it. `runs` are
    the ranges within which each token follows the one before it in the text.
    """

    def __init__(
        self,
        parts: Sequence[Array],
        *,
        vocab_size: int | None = None,
        fingerprint: str = "",
        earlier_fingerprint: str = "",
        name: str = "the tokens",
        runs: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        self._parts = [part for part in parts if part.size]
        self._ends = list(itertools.accumulate(part.size for part in self._parts))
        self.runs = [(0, len(self))] if runs is None else list(runs)
        self.vocab_size = vocab_size
        self.name = name
        self.fingerprint = fingerprint
        self.earlier_fingerprint = earlier_fingerprint or fingerprint

    @classmethod
    def open(
        cls,
        paths: Sequence[StrPath],
        *,
        vocab_size: int | None = None,
        fingerprint: str = "",
        earlier_fingerprint: str = "",
        name: str = "",
    ) -> Tokens:
        """Map the shards at `paths`, in this order. Raises DataError."""
        return cls(
            [open_shard(path) for path in paths],
            vocab_size=vocab_size,
            fingerprint=fingerprint,
            earlier_fingerprint=earlier_fingerprint,
            name=name or str(paths[0]),
        )

    def part(self, ranges: Sequence[tuple[int, int]], name: str | None = None) -> Tokens:
        """The tokens of these ranges (start, stop), behind each other and without a copy."""
        ranges = [(a, max(a, b)) for a, b, _ in (slice(*limits).indices(len(self)) for limits in ranges)]
        chosen = [part for start, stop in ranges for part in self._views(start, stop)]
        ends = list(itertools.accumulate(stop - start for start, stop in ranges))
        mark, earlier = (
            f"{fingerprint}[{_mark(ranges)}]" if fingerprint else ""
            for fingerprint in (self.fingerprint, self.earlier_fingerprint)
        )
        return Tokens(
            chosen,
            vocab_size=self.vocab_size,
            fingerprint=mark,
            earlier_fingerprint=earlier,
            name=name or self.name,
            runs=list(itertools.pairwise([0, *ends])),
        )

    def _views(self, start: int, stop: int) -> Iterator[Array]:
        for part, end in zip(self._parts, self._ends, strict=True):
            begin = end - part.size
            if start < end and stop > begin:
                yield part[max(0, start - begin) : stop - begin]

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> Ids: ...
    def __getitem__(self, index: int | slice) -> int | Ids:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                raise ValueError(f"tokens are sliced with step 1, not {step}")
            out = np.empty(max(0, stop - start), np.int32)
            self.read_into(start, out)
            return out
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"token {index} of {len(self)}")
        return int(self[position : position + 1][0])

    def __iter__(self) -> Iterator[int]:
        for start in range(0, len(self), 1 << 16):
            yield from self[start : start + (1 << 16)].tolist()

    @property
    def n_bytes(self) -> int:
        """What reading all of these tokens maps into memory."""
        return sum(part.nbytes for part in self._parts)

    def read_into(self, start: int, out: Ids) -> None:
        """Copy tokens start, start + 1, ... into the contiguous int32 array `out`, all of which must be there."""
        size = out.size
        if not 0 <= start <= start + size <= len(self):
            raise IndexError(f"tokens {start} to {start + size} of {len(self)}")
        if not size:
            return
        done, index = 0, bisect.bisect_right(self._ends, start)
        while done < size:
            part = self._parts[index]
            at = start + done - (self._ends[index] - part.size)
            n = min(size - done, part.size - at)
            out[done : done + n] = part[at : at + n]
            done += n
            index += 1
        # One reduction for both ends: as unsigned, what is negative is large.
        limit = self.vocab_size or 2**31
        if int(out.view(np.uint32).max()) >= limit:
            bad = int(np.argmax(out.view(np.uint32) >= limit))
            raise DataError(
                f"token {int(out.view(np.uint32)[bad])} at position {start + bad:,} of {self.name} is outside of the "
                f"vocabulary "
                f"(0 to {limit - 1}): the data was made with another tokenizer, or is damaged"
            )


def _mark(ranges: Sequence[tuple[int, int]]) -> str:
    """Names ranges in a fingerprint: one as start:stop, several by a hash."""
    words = ",".join(f"{start}:{stop}" for start, stop in ranges)
    return words if len(ranges) == 1 else hashlib.sha256(words.encode()).hexdigest()[:16]
