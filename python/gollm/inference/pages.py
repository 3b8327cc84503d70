"""Pages of keys and values: the memory of cached generation.

A pool has pages of PAGE_SIZE tokens, for all layers at once. A sequence takes them as it grows; sequences may share
those of a common beginning. The attention kernel reads keys and values through a table of pages, in blocks anchored at
position 0, so that a token's output does not depend on the chunks that its text came in; in pages of the model's own
dtype it has the bits that it has without a cache. Narrower pages hold keys and values rounded, for prefill and decoding
alike: half the memory, and half of what a long text has to read for each token. The pool's memory never moves.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from gollm.errors import ConfigError, GenerationError
from gollm.kernels import Kernels, cpu
from gollm.model.batch import AdapterRun, Batch, Cache
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder
from gollm.nn import dtypes
from gollm.nn.dtypes import DType
from gollm.nn.storage import Storage

PAGE_SIZE = 64  # tokens; a multiple of 32, so that kernels read keys from where they lie

CacheDType = Literal["float32", "bfloat16", "float16"]


def pages_for(n_tokens: int) -> int:
    """How many pages they need.

    >>> pages_for(0), pages_for(64), pages_for(65)
    (0, 1, 2)
    """
    return -(-n_tokens // PAGE_SIZE)


def cache_dtype_of(model: Decoder, cache_dtype: CacheDType = "float32") -> DType:
    """The dtype of a pool for a model: "float32" is that of its activations, bfloat16 perhaps on a GPU, and float64 in
    tests.

    Raises ConfigError for another name."""
    if cache_dtype not in get_args(CacheDType):
        raise ConfigError(f"cache_dtype is {cache_dtype!r}; it must be one of {', '.join(get_args(CacheDType))}")
    return {"float32": model.parameters.read_dtype, "bfloat16": dtypes.bfloat16, "float16": dtypes.float16}[cache_dtype]


class PagePool:
    """n_pages pages, each free or used by as many as have taken or shared it. Keys and values are rounded to `dtype`:
    float32 (float64 for a model of float64), bfloat16 or float16.

    k_pages: (n_layers, n_pages, n_kv_heads, head_dim, PAGE_SIZE)
    v_pages: (n_layers, n_pages, n_kv_heads, PAGE_SIZE, head_dim)"""

    def __init__(
        self, config: ModelConfig, n_pages: int, dtype: DType = dtypes.float32, kernels: Kernels = cpu
    ) -> None:
        L, G, D, Z = config.n_layers, config.n_kv_heads, config.head_dim, PAGE_SIZE
        self.kernels = kernels
        self.k_pages = Storage(kernels.empty((L, n_pages, G, D, Z), dtype.array), dtype, kernels=kernels)
        self.v_pages = Storage(kernels.empty((L, n_pages, G, Z, D), dtype.array), dtype, kernels=kernels)
        self.pages_of_a_sequence = min(n_pages, pages_for(config.context))  # at most
        self._users = [0] * n_pages
        self._free = list(range(n_pages - 1, -1, -1))  # the lowest number is taken first

    @property
    def n_free(self) -> int:
        return len(self._free)

    @property
    def n_pages(self) -> int:
        return len(self._users)

    def n_users(self, page: int) -> int:
        return self._users[page]

    def take(self) -> int:
        """A free page, whose contents are undefined. Raises GenerationError where there is none."""
        if not self._free:
            raise GenerationError(f"all {len(self._users)} pages of the cache are in use")
        page = self._free.pop()
        self._users[page] = 1
        return page

    def share(self, page: int) -> None:
        """Another user of a page that is in use; nobody writes to the tokens that both have."""
        assert self._users[page] > 0
        self._users[page] += 1

    def release(self, page: int) -> None:
        """One user less; the page of the last one is free again."""
        assert self._users[page] > 0
        self._users[page] -= 1
        if self._users[page] == 0:
            self._free.append(page)


class CachedSequence:
    """A text that grows: the pages that hold its tokens' keys and values, and how many tokens these are. adapter: the
    number of the adapter that computes them, 0 for none."""

    def __init__(self, pool: PagePool, adapter: int = 0) -> None:
        self.pool, self.adapter = pool, adapter
        self.pages: list[int] = []
        self.length = 0

    def reserve(self, n_tokens: int) -> None:
        """Takes the pages of so many tokens in all. Raises GenerationError, and changes nothing, where the pool has too
        few."""
        missing = pages_for(n_tokens) - len(self.pages)
        if missing <= 0:
            return
        if missing > self.pool.n_free:
            raise GenerationError(
                f"a sequence of {n_tokens} tokens needs {missing} more pages of the cache, and {self.pool.n_free} are "
                "free"
            )
        self.pages += [self.pool.take() for _ in range(missing)]

    def extend(self, n_tokens: int) -> None:
        """Makes room for the next tokens, or raises as reserve() does."""
        self.reserve(self.length + n_tokens)
        self.length += n_tokens

    def copy(self) -> CachedSequence:
        """The same text once more: full pages are shared, and the last one, which will be written to, is copied."""
        copy, n_full = CachedSequence(self.pool, self.adapter), self.length // PAGE_SIZE
        for page in self.pages[:n_full]:
            self.pool.share(page)
        copy.pages, copy.length = self.pages[:n_full], n_full * PAGE_SIZE
        copy.extend(self.length - copy.length)
        for old, new in zip(self.pages[n_full:], copy.pages[n_full:], strict=True):
            for pages in (self.pool.k_pages.array, self.pool.v_pages.array):
                for layer in range(pages.shape[0]):
                    self.pool.kernels.write(pages[layer, new], pages[layer, old])
        return copy

    def truncate(self, n_tokens: int) -> None:
        """Forgets all tokens but the first, and gives their pages back, the last one first."""
        while len(self.pages) > pages_for(n_tokens):
            self.pool.release(self.pages.pop())
        self.length = n_tokens

    def clear(self) -> None:
        """Forgets all tokens."""
        self.truncate(0)


def continued(sequences: Sequence[CachedSequence], parents: Sequence[int]) -> list[CachedSequence]:
    """The sequences that go on from some of these, each named by its place. The first that goes on from one takes its
    pages over, others get copies, and the pages of one that nothing goes on from are given back."""
    for number, sequence in enumerate(sequences):
        if number not in parents:
            sequence.clear()
    taken: set[int] = set()
    result = []
    for number in parents:
        result.append(sequences[number].copy() if number in taken else sequences[number])
        taken.add(number)
    return result


def next_batch(sequences: Sequence[CachedSequence], tokens: Sequence[Sequence[int]]) -> Batch:
    """Extends each sequence by its new tokens, and makes the batch whose forward pass computes them. The sequences
    share one pool. Raises GenerationError where that has too few pages."""
    pool = sequences[0].pool
    positions: list[int] = []
    table = np.zeros((len(sequences), pool.pages_of_a_sequence), np.int32)
    for row, sequence, new in zip(table, sequences, tokens, strict=True):
        sequence.extend(len(new))
        positions += range(sequence.length - len(new), sequence.length)
        row[: len(sequence.pages)] = sequence.pages
    cache = Cache(
        pool.k_pages,
        pool.v_pages,
        page_table=table,
        lengths=np.array([sequence.length for sequence in sequences], np.int32),
        query_offsets=np.array([0, *itertools.accumulate(map(len, tokens))], np.int32),
    )
    rows = [token for new in tokens for token in new]
    adapters = adapter_runs(sequences, tokens)
    return Batch(np.array(rows, np.int32), np.array(positions, np.int32), cache, adapters)


def adapter_runs(sequences: Sequence[CachedSequence], tokens: Sequence[Sequence[int]]) -> tuple[AdapterRun, ...]:
    """The rows of neighbouring sequences that have the same adapter."""
    runs: list[AdapterRun] = []
    row = 0
    for sequence, new in zip(sequences, tokens, strict=True):
        begin, row = row, row + len(new)
        if sequence.adapter and runs and runs[-1][0] == sequence.adapter and runs[-1][2] == begin:
            runs[-1] = (sequence.adapter, runs[-1][1], row)
        elif sequence.adapter:
            runs.append((sequence.adapter, begin, row))
    return tuple(runs)
