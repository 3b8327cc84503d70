"""The key/value cache of generation: pages of tokens, and a table of the pages of each sequence.

One sequence is the simplest client; the layout serves many that grow at different speeds. The attention kernel reads
keys and values through the table, in blocks anchored at position 0, so that a token's output has the same bits as
without a cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gollm.errors import GenerationError
from gollm.model.config import ModelConfig
from gollm.nn.tensor import FLOAT32, empty

PAGE_SIZE = 64  # tokens


class KVCache:
    """Keys and values of every layer for n_sequences sequences of up to `capacity` tokens each.

    k_pages, v_pages: (n_layers, pages, PAGE_SIZE, n_kv_heads * head_dim). For the tokens that the running forward
    pass adds, as the kernels take them: lengths (S,) after adding, query_offsets (S + 1,) into the rows of the pass,
    positions (rows,), all int32.
    """

    def __init__(
        self, config: ModelConfig, n_sequences: int = 1, capacity: int | None = None, dtype: np.dtype[Any] = FLOAT32
    ) -> None:
        self.capacity = config.context if capacity is None else capacity
        pages = -(-self.capacity // PAGE_SIZE)
        shape = (config.n_layers, n_sequences * pages, PAGE_SIZE, config.kv_heads * config.head_size)
        self.k_pages = empty(shape, dtype)
        self.v_pages = empty(shape, dtype)
        self.page_table = np.arange(n_sequences * pages, dtype=np.int32).reshape(n_sequences, pages)
        self.lengths = np.zeros(n_sequences, np.int32)
        self.query_offsets = np.zeros(n_sequences + 1, np.int32)
        self.positions = np.zeros(0, np.int32)

    def extend(self, counts: Sequence[int]) -> None:
        """Makes room for counts[s] more tokens of each sequence s: the rows of the next forward pass, sequence after
        sequence.

        Raises GenerationError when a sequence would be longer than the capacity."""
        new = self.lengths + np.asarray(counts, np.int32)
        if new.max() > self.capacity:
            raise GenerationError(f"a sequence of {new.max()} tokens does not fit the cache of {self.capacity}")
        self.positions = np.concatenate(
            [np.arange(a, b, dtype=np.int32) for a, b in zip(self.lengths, new, strict=True)]
        )
        self.query_offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        self.lengths = new

    def clear(self) -> None:
        """Forgets all tokens; the memory stays."""
        self.lengths = np.zeros_like(self.lengths)
