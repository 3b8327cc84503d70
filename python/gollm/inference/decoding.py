"""The forward pass of sequences with a cache. Passes of few rows are recorded (gollm.nn.plan) and replayed whenever one
of the same shape comes again: decoding has no Python between the kernels."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

from gollm.inference.drawing import Row, kernel_options
from gollm.inference.packing import packed_for_decoding
from gollm.inference.pages import CachedSequence, PagePool, next_batch
from gollm.kernels import Array
from gollm.model.batch import AdapterRun, Batch, Cache
from gollm.model.decoder import Decoder
from gollm.nn.plan import Plan
from gollm.nn.tensor import Tensor

Adapters = tuple[AdapterRun, ...]

AHEAD = 32  # tokens that are drawn in one native call, at most


class CachedForward:
    """The logits after new tokens of sequences of one pool.

    A pass of which every row's logits are wanted is recorded, one recording a shape, and so are passes that end in a
    draw. A recording keeps its memory, and that grows with its rows; so those used last are kept, up to
    max_recorded_rows together. Making one costs little more than the pass itself. Inside another plan's memory, where
    samples of a training run are drawn, nothing is recorded. The bits are the same in every case."""

    def __init__(self, model: Decoder, pool: PagePool, max_recorded_rows: int) -> None:
        self.model = model
        self.max_recorded_rows = max_recorded_rows
        self._packed: Decoder | None = None  # made for the first recording
        # by rows, sequences, adapters, and how many tokens are drawn from at the end
        self._plans: OrderedDict[tuple[int, int, Adapters, int], Plan[Any]] = OrderedDict()
        self._pool, self._kernels = pool, model.parameters.kernels

    def __call__(
        self, sequences: Sequence[CachedSequence], tokens: Sequence[Sequence[int]], rows: Sequence[int] | None
    ) -> Array:
        """Extends each sequence by its new tokens.  -> (R, V): the logits of R of all new tokens' rows; None: of each.

        They hold until the next call."""
        batch = next_batch(sequences, tokens)
        if rows is not None:
            return self.model.cached_logits(batch, rows).data
        n = len(batch.tokens)
        if n > self.max_recorded_rows or self._kernels.plan_in_use():
            return self.model.cached_logits(batch).data
        cache = batch.cache
        assert cache is not None
        plan = self._plan(n, len(sequences), batch.adapters)
        logits: Tensor = plan(batch.tokens, batch.positions, cache.page_table, cache.lengths, cache.query_offsets)
        return logits.data

    def draw_ahead(self, sequences: Sequence[CachedSequence], rows: Sequence[Row], vocab_size: int, n: int) -> Array:
        """The next n tokens of each sequence, of which only the last token is not in the cache yet; n is at most AHEAD.
        They are drawn between the passes by the kernel `sample`, without Python.  -> (S, n), -1 where none can be drawn

        Extends each sequence by n tokens. Raises KernelError where a token comes after one that cannot be drawn."""
        for sequence in sequences:
            sequence.reserve(sequence.length + n)
        batch = next_batch(sequences, [[row.tokens[-1]] for row in rows])
        for sequence in sequences:
            sequence.extend(n - 1)
        cache = batch.cache
        assert cache is not None
        plan = self._plan(len(rows), len(rows), batch.adapters, draws_from=vocab_size)
        options = kernel_options(rows, vocab_size)
        places = (options["position"][:, None] + np.arange(n)) % AHEAD
        arrays = (batch.tokens, batch.positions, cache.page_table, cache.lengths, cache.query_offsets)
        ring = self._kernels.to_host(plan(*arrays, *options.values(), times=n))
        return np.take_along_axis(ring, places, axis=1)

    def _plan(self, n_rows: int, n_sequences: int, adapters: Adapters, draws_from: int = 0) -> Plan[Any]:
        """A pass, with draws_from > 0 one that ends in a draw from so many tokens."""
        shape = (n_rows, n_sequences, adapters, draws_from)
        plan = self._plans.get(shape)
        if plan is None:
            model = self._packed = self._packed or packed_for_decoding(self.model)
            while self._plans and n_rows + self.n_recorded_rows > self.max_recorded_rows:
                self._plans.popitem(last=False)
            if draws_from:
                plan = _then_a_draw(model, self._pool, adapters, draws_from)
            else:
                plan = _every_row(model, self._pool, adapters)
            self._plans[shape] = plan
        self._plans.move_to_end(shape)
        return plan

    @property
    def n_recorded_rows(self) -> int:
        return sum(rows for rows, *_ in self._plans)


# What a plan holds refers to no plan: a cycle would keep its memory until Python looks for cycles.


def _every_row(model: Decoder, pool: PagePool, adapters: Adapters) -> Plan[Tensor]:
    def logits(tokens: Array, positions: Array, page_table: Array, lengths: Array, query_offsets: Array) -> Tensor:
        cache = Cache(pool.k_pages, pool.v_pages, page_table, lengths, query_offsets)
        return model.cached_logits(Batch(tokens, positions, cache, adapters))

    return Plan(logits, pool.kernels)


def _then_a_draw(model: Decoder, pool: PagePool, adapters: Adapters, vocab_size: int) -> Plan[Array]:
    def draw(
        tokens: Array,
        positions: Array,
        page_table: Array,
        lengths: Array,
        query_offsets: Array,
        temperature: Array,
        top_k: Array,
        top_p: Array,
        min_p: Array,
        seed: Array,
        choice: Array,
        position: Array,
    ) -> Array:
        kernels = pool.kernels
        ring = kernels.empty((tokens.shape[0], AHEAD), np.dtype(np.int32))  # first, so that no pass takes its memory
        cache = Cache(pool.k_pages, pool.v_pages, page_table, lengths, query_offsets)
        logits = model.cached_logits(Batch(tokens, positions, cache, adapters)).storage
        options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
        draws = {"seed": seed, "choice": choice, "position": position}
        kernels.sample(tokens=tokens, logits=logits, vocab_size=vocab_size, **options, **draws)
        kernels.advance(positions=positions, lengths=lengths, drawn_at=position, text=ring, tokens=tokens)
        return ring

    return Plan(draw, pool.kernels)
