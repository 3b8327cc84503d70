"""A batch: the rows that go through the decoder together, and where each belongs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from gollm.errors import ShapeError
from gollm.kernels import Array, Kernels
from gollm.nn.ops import Pages
from gollm.nn.storage import Storage


@dataclass(frozen=True)
class Cache:
    """Where the keys and values of S sequences lie, for kernels that add those of new rows: csrc/attention_paged.c

    k_pages           (n_layers, pages, n_kv_heads, head_dim, tokens of a page)
    v_pages           (n_layers, pages, n_kv_heads, tokens of a page, head_dim)
    page_table        (S, L) int32: the pages of each sequence
    lengths           (S) int32: how many tokens each has, the new ones included
    query_offsets     (S + 1) int32: sequence s has the rows query_offsets[s] to query_offsets[s + 1] - 1
    """

    k_pages: Storage
    v_pages: Storage
    page_table: Array
    lengths: Array
    query_offsets: Array

    def on(self, kernels: Kernels) -> Cache:
        """With the three arrays on the device of the pages."""
        table, lengths, offsets = map(kernels.from_host, (self.page_table, self.lengths, self.query_offsets))
        return replace(self, page_table=table, lengths=lengths, query_offsets=offsets)

    def of_layer(self, layer: int) -> Pages:
        return {
            "k_pages": self.k_pages.at(layer),
            "v_pages": self.v_pages.at(layer),
            "page_table": self.page_table,
            "lengths": self.lengths,
            "query_offsets": self.query_offsets,
        }


AdapterRun = tuple[int, int, int]
"""An adapter's number, from 1 on, and its rows: begin to end - 1."""


@dataclass(frozen=True)
class Batch:
    """tokens and positions, int32: (B, T) for sequences that stand alone, as in training; (N,) for the new rows of
    sequences that have a cache. adapters: which rows of a cached batch have one, where a decoder mixes several
    (gollm.model.lora.mixed)."""

    tokens: Array
    positions: Array
    cache: Cache | None = None
    adapters: tuple[AdapterRun, ...] = ()

    @classmethod
    def of_sequences(cls, tokens: Array) -> Batch:
        """B sequences of T tokens from their first one on.  (B, T) int32"""
        if tokens.ndim != 2:
            raise ShapeError(f"tokens have shape {tokens.shape}; it must be (B, T)")
        if isinstance(tokens, np.ndarray):
            tokens = np.ascontiguousarray(tokens, dtype=np.int32)
        positions = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape).copy()
        return cls(tokens, positions)

    def on(self, kernels: Kernels) -> Batch:
        """The batch with its arrays on a device."""
        if kernels.is_cpu:
            return self
        cache = None if self.cache is None else self.cache.on(kernels)
        return Batch(kernels.from_host(self.tokens), kernels.from_host(self.positions), cache, self.adapters)

    @property
    def n_positions(self) -> int:
        """The largest position, plus 1. In a device's memory it is not known: what is in a cache has a page there."""
        if self.cache is None:
            return int(self.tokens.shape[1])
        return int(self.positions.max(initial=-1)) + 1 if isinstance(self.positions, np.ndarray) else 0

    @property
    def capacity(self) -> int:
        """How many positions a sequence could have in these arrays: what a recorded pass must be prepared for."""
        if self.cache is None:
            return int(self.tokens.shape[1])
        return int(self.cache.page_table.shape[1] * self.cache.k_pages.shape[-1])
