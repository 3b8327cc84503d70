"""Batches of training windows, shuffled, each window once per epoch, with nothing to store but a position.

The n = (N - 1) // T windows of an epoch tile the tokens: window i reads T tokens from s + i T and predicts the T that
follow each. Every token is so predicted exactly once per epoch, except r = (N - 1) mod T < T tokens and the very first,
which has nothing before it. The epoch's shift s, drawn from 0..r, decides which of the r lie before the windows and
which behind them, so that no token is left out for good.

Which window comes k-th is a permutation of 0..n-1 computed on the spot: a Feistel network over pairs (a, b) with
a * b >= n (Black & Rogaway 2002, "Ciphers with arbitrary finite domains"), keyed by seed and epoch; results outside of
the range go through again until they are inside. A batch is so a function of seed and position alone.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from gollm.data.shards import Tokens
from gollm.errors import DataError
from gollm.system.strict_json import shorten
from gollm.tokenizers.base import Ids

KIND = "shuffled windows 1"  # names the rule in a checkpoint: change it with the order of batches
_ROUNDS = 8
_BLOCK = 1024  # windows permuted per NumPy call

U64 = np.ndarray[Any, np.dtype[np.uint64]]  # wraps around without a warning, which scalars would give


def _mix(x: U64) -> U64:
    """A good 64-bit hash of each element: the finaliser of SplitMix64 (Steele, Lea & Flood 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
    return x


def _hash(state: U64, word: U64) -> U64:
    """Take one more word into a hash; arrays broadcast."""
    return _mix((state ^ word) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0xD1B54A32D192ED03))


def epoch_keys(seed: int, epochs: U64) -> U64:
    """One 64-bit key for each epoch, from which its shift and its permutation come."""
    return _hash(_hash(np.zeros(1, np.uint64), np.array([seed % 2**64], np.uint64)), epochs)


def draws(n: int) -> U64:
    """(n,) numbers at random, always the same."""
    return epoch_keys(0, np.arange(n, dtype=np.uint64))


def permute(indices: U64, n: int, keys: U64) -> U64:
    """Send each index (below n) through the permutation of 0..n-1 that its key chooses.

    (K,), (K,) -> (K,), all uint64
    """
    a = math.isqrt(n - 1) + 1
    sizes = (np.uint64(a), np.uint64(-(-n // a)))
    rounds = [_hash(keys, np.array([i], np.uint64)) for i in range(_ROUNDS)]
    result = indices.copy()
    todo = np.arange(result.size)
    while todo.size:
        left, right = result[todo] % sizes[0], result[todo] // sizes[0]
        for i, key in enumerate(rounds):
            # left is below sizes[i % 2] and right below the other; they change places each round.
            left, right = right, (left + _hash(key[todo], right) % sizes[i % 2]) % sizes[i % 2]
        # After an even number of rounds left is below the first size again.
        result[todo] = left + right * sizes[0]
        todo = todo[result[todo] >= np.uint64(n)]
    return np.asarray(result, np.uint64)


def _check_length(tokens: Tokens, context: int) -> None:
    if context < 1:
        raise DataError(f"a context of {context} tokens cannot be trained on; it must be at least 1")
    if len(tokens) < context + 1:
        hint = f"use a context of {len(tokens) - 1} or less, or more text" if len(tokens) > 1 else "use more text"
        raise DataError(
            f"{tokens.name} are {len(tokens)}, too few for one window of {context} and the token after it: {hint}"
            " (the share kept for validation is set with --validation-fraction)"
        )


class Sampler:
    """Shuffled batches for training, epoch after epoch without a break between them.

    tokens      what to train on; DataError if there are fewer than context + 1
    batch_size  B, windows per batch
    context     T, tokens per window
    seed        decides the order, together with the position
    position    the number of windows handed out so far
    """

    def __init__(self, tokens: Tokens, *, batch_size: int, context: int, seed: int) -> None:
        _check_length(tokens, context)
        if batch_size < 1:
            raise DataError(f"a batch of {batch_size} windows cannot be trained on; it must be at least 1")
        self.tokens = tokens
        self.batch_size = batch_size
        self.context = context
        self.seed = seed
        self.position = 0
        self.windows_per_epoch = (len(tokens) - 1) // context
        self._n = np.uint64(self.windows_per_epoch)
        self._slack = (len(tokens) - 1) % context
        self._rows = np.empty((batch_size, context + 1), np.int32)
        self._block = (-1, np.empty(0, np.int64))  # (number, starts): the block of window starts computed last

    @property
    def epoch(self) -> float:
        """Passes over the tokens so far."""
        return self.position / self.windows_per_epoch

    def steps(self, epochs: float, batches_per_step: int = 1) -> int:
        """How many steps of so many batches see every token `epochs` times, rounded up."""
        return math.ceil(epochs * self.windows_per_epoch / (self.batch_size * batches_per_step))

    def next_batch(self, out: tuple[Ids, Ids] | None = None) -> tuple[Ids, Ids]:
        """The next inputs and targets, both (B, T) int32; targets are the inputs shifted by one token.

        `out` is a pair of such arrays to fill instead of new ones.
        """
        shape = (self.batch_size, self.context)
        inputs, targets = out if out is not None else (np.empty(shape, np.int32), np.empty(shape, np.int32))
        for row in range(self.batch_size):
            self.tokens.read_into(self._start(self.position + row), self._rows[row])
        np.copyto(inputs, self._rows[:, :-1])
        np.copyto(targets, self._rows[:, 1:])
        self.position += self.batch_size
        return inputs, targets

    def next_step(self, n_batches: int) -> tuple[Ids, Ids]:
        """The next k batches: inputs and targets, (k, B, T) int32 each."""
        inputs, targets = np.empty((2, n_batches, self.batch_size, self.context), np.int32)
        for batch in zip(inputs, targets, strict=True):
            self.next_batch(batch)
        return inputs, targets

    def _start(self, position: int) -> int:
        """Where the window at `position` begins. Computed a block at a time; only the last block is kept."""
        number, offset = divmod(position, _BLOCK)
        if number != self._block[0]:
            epochs, indices = np.divmod(np.arange(number * _BLOCK, (number + 1) * _BLOCK, dtype=np.uint64), self._n)
            keys = epoch_keys(self.seed, epochs)
            windows = permute(indices, self.windows_per_epoch, keys).astype(np.int64)
            shifts = (_mix(keys) % np.uint64(self._slack + 1)).astype(np.int64)
            starts = windows * self.context + shifts
            self._block = (number, starts)
        return int(self._block[1][offset])

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: the position, and what it is a position in."""
        return {
            "kind": KIND,
            "position": self.position,
            "seed": self.seed,
            "context": self.context,
            "n_tokens": len(self.tokens),
            "fingerprint": self.tokens.fingerprint,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken; the batch size may differ. Raises DataError if data, context or seed do."""
        here = self.state()
        names = {
            "kind": "the order of batches",
            "seed": "the seed",
            "context": "the context",
            "n_tokens": "the number of training tokens",
            "fingerprint": "the training data or its tokenizer",
        }
        if state.get("fingerprint") == self.tokens.earlier_fingerprint:
            here["fingerprint"] = self.tokens.earlier_fingerprint
        for key, what in names.items():
            if state.get(key) != here[key]:
                raise DataError(
                    f"{what} is not what the interrupted run had ({shorten(state.get(key))} then, {shorten(here[key])} "
                    "now); resume with the same data and options, or start a new run"
                )
        position = state.get("position")
        if type(position) is not int or not 0 <= position < 2**62:
            raise DataError(
                f"the saved data position is {shorten(position)}, which is no count of windows: the "
                "training state is damaged"
            )
        self.position = position


def evaluation_batches(
    tokens: Tokens, batch_size: int, context: int, n: int | None = None
) -> Iterator[tuple[Ids, Ids]]:
    """At most n batches of (inputs, targets), (B, T) int32, always the same: windows spread evenly over `tokens`.

    No two windows overlap, and none goes across the end of one of the tokens' runs, but where no run is long enough.
    Where there are fewer than n * batch_size windows, or n is None, all of them come, and the last batch may have fewer
    rows: weigh batches by their number of targets. Raises DataError if there is not one window.
    """
    _check_length(tokens, context)
    if batch_size < 1 or (n is not None and n < 1):
        raise DataError(f"evaluation needs at least one batch of one window, not {n} of {batch_size}")
    runs = [run for run in tokens.runs if run[1] - run[0] > context] or [(0, len(tokens))]
    available = list(itertools.accumulate((stop - start - 1) // context for start, stop in runs))
    count = available[-1] if n is None else min(available[-1], n * batch_size)
    return _evaluation_batches(tokens, batch_size, context, [start for start, _ in runs], available, count)


def _evaluation_batches(
    tokens: Tokens, batch_size: int, context: int, starts: list[int], available: list[int], count: int
) -> Iterator[tuple[Ids, Ids]]:
    """`starts` of runs, and how many windows are `available` up to the end of each."""
    for first in range(0, count, batch_size):
        rows = np.empty((min(batch_size, count - first), context + 1), np.int32)
        for i, row in enumerate(rows):
            window = (first + i) * available[-1] // count
            run = bisect.bisect_right(available, window)
            tokens.read_into(starts[run] + (window - (available[run - 1] if run else 0)) * context, row)
        yield np.ascontiguousarray(rows[:, :-1]), np.ascontiguousarray(rows[:, 1:])
