"""One token after the other, without Python between the kernels: the forward pass of sequences that have one new token
each is recorded once (gollm.nn.plan) and replayed for every further token."""

from __future__ import annotations

from collections.abc import Sequence

from gollm.inference.pages import CachedSequence, PagePool, next_batch
from gollm.kernels import Array
from gollm.model.batch import Batch, Cache
from gollm.model.decoder import Decoder
from gollm.nn.plan import Plan


class RecordedDecoding:
    """Decoder.next_logits() of sequences of one pool, recorded where each has one new token, and run by Python inside
    another plan's memory, as samples of a training run are; the bits are the same."""

    def __init__(self, model: Decoder, pool: PagePool) -> None:
        self.model = model

        def one_token_each(
            tokens: Array, positions: Array, page_table: Array, lengths: Array, query_offsets: Array
        ) -> Array:
            cache = Cache(pool.k_pages, pool.v_pages, page_table, lengths, query_offsets)
            return model.next_logits(Batch(tokens, positions, cache))

        self._plan = Plan(one_token_each)

    def __call__(self, sequences: Sequence[CachedSequence], tokens: Sequence[Sequence[int]]) -> Array:
        """The logits after the last new token of each sequence, which is extended by its new tokens.  -> (S, V)

        They hold until the next call."""
        batch = next_batch(sequences, tokens)
        if len(batch.tokens) > len(sequences) or self.model.parameters.kernels.plan_in_use():
            return self.model.next_logits(batch)
        cache = batch.cache
        assert cache is not None
        return self._plan(batch.tokens, batch.positions, cache.page_table, cache.lengths, cache.query_offsets)
