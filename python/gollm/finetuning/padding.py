"""Batches of sequences of different lengths, padded at their ends.

Padding changes nothing of a sequence: attention is causal, and a padded target does not count. It costs time, so
sequences of about one length go into a step together. An epoch is a permutation of all sequences, cut into chunks of
some steps; a chunk is sorted by length, cut into steps, and its steps are shuffled. Which sequences step s has is a
function of seed and s alone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from gollm.data.sampler import epoch_keys, permute
from gollm.errors import DataError
from gollm.kernels import Array
from gollm.nn.ops import IGNORE_INDEX
from gollm.system.strict_json import shorten

KIND = "padded sequences 1"  # names the rule in a checkpoint: change it with the order of batches
CHUNK_STEPS = 32  # that are sorted by length together
ROUND_TO = 16  # tokens: lengths are rounded up, so that a step's shape comes back and its recording can be replayed
PAD = 0  # any id will do: nothing reads it


class Item(Protocol):
    """What is learned from as one row, or some rows that belong together."""

    @property
    def length(self) -> int:
        """Tokens of the longest row."""

    @property
    def content(self) -> bytes:
        """All that decides what is learned, for a fingerprint."""


Collate = Callable[[Sequence[Any], int], tuple[Array, ...]]
"""The arrays of a batch, whose rows are padded to so many tokens."""


def padded(rows: Sequence[Array], length: int, value: int) -> Array:
    """(B, T) int32"""
    out = np.full((len(rows), length), value, np.int32)
    for row, values in zip(out, rows, strict=True):
        row[: len(values)] = values
    return out


def pair_of(sequences: Sequence[Any], length: int) -> tuple[Array, Array]:
    """Inputs and targets of token sequences, (B, T) each."""
    inputs = padded([sequence.inputs for sequence in sequences], length, PAD)
    return inputs, padded([sequence.targets for sequence in sequences], length, IGNORE_INDEX)


def fingerprint(items: Sequence[Item]) -> str:
    digest = hashlib.sha256(b"padded sequences")
    for item in items:
        digest.update(hashlib.sha256(item.content).digest())
    return digest.hexdigest()


def rounded(length: int, longest: int) -> int:
    """The length that a batch is padded to.

    >>> rounded(17, 100), rounded(99, 100)
    (32, 100)
    """
    return min(longest, -(-length // ROUND_TO) * ROUND_TO)


class PaddedBatches:
    """A trainer's batches (gollm.training.objective.Batches) of items.

    batch_size  items of a batch            n_batches  batches of a step
    position    the number of items handed out so far"""

    def __init__(
        self, items: Sequence[Item], collate: Collate, *, batch_size: int, n_batches: int, seed: int, longest: int
    ) -> None:
        """`longest` is the longest that a sequence may be. Raises DataError where there is nothing to learn from."""
        if not items:
            raise DataError("there is nothing to train on; give more data, or a smaller --validation-fraction")
        self.items = items
        self.collate = collate
        self.batch_size = batch_size
        self.n_batches = n_batches
        self.seed = seed
        self.position = 0
        self._lengths = np.array([item.length for item in items])
        self.context = rounded(int(self._lengths.max()), longest)
        self._fingerprint = fingerprint(items)
        self._order = lru_cache(maxsize=2)(self._order_of)

    def steps(self, epochs: float, batches_per_step: int) -> int:
        return math.ceil(epochs * len(self.items) / (self.batch_size * batches_per_step))

    def next_step(self, n_batches: int) -> tuple[Array, ...]:
        n = n_batches * self.batch_size
        items = [self.items[self._at(position)] for position in range(self.position, self.position + n)]
        self.position += n
        length = rounded(max(item.length for item in items), self.context)
        batches = [self.collate(items[i : i + self.batch_size], length) for i in range(0, n, self.batch_size)]
        return tuple(np.stack(arrays) for arrays in zip(*batches, strict=True))

    def _at(self, position: int) -> int:
        epoch, index = divmod(position, len(self.items))
        return int(self._order(epoch)[index])

    def _order_of(self, epoch: int) -> Array:
        """(n,): the items of an epoch as they come"""
        n, step = len(self.items), self.batch_size * self.n_batches
        (key,) = epoch_keys(self.seed, np.array([epoch], np.uint64))
        order = permute(np.arange(n, dtype=np.uint64), n, np.full(n, key)).astype(np.int64)
        generator = np.random.Generator(np.random.Philox(key=int(key)))
        chunks = []
        for begin in range(0, n, CHUNK_STEPS * step):
            chunk = order[begin : begin + CHUNK_STEPS * step]
            chunk = chunk[np.argsort(self._lengths[chunk], kind="stable")]
            steps = [chunk[i : i + step] for i in range(0, len(chunk), step)]
            chunks += [steps[i] for i in generator.permutation(len(steps))]
        return np.concatenate(chunks)

    def state(self) -> dict[str, Any]:
        """The position, and what it is a position in."""
        return {
            "kind": KIND,
            "position": self.position,
            "seed": self.seed,
            "n_items": len(self.items),
            "fingerprint": self._fingerprint,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on where `state` was taken. Raises DataError if the data or the seed was another."""
        here = self.state()
        for key in ("kind", "seed", "n_items", "fingerprint"):
            if state.get(key) != here[key]:
                raise DataError(
                    f"the training data is not what the interrupted run had ({key} {shorten(state.get(key))} then, "
                    f"{shorten(here[key])} now); resume with the same data and model, or start a new run"
                )
        position = state.get("position")
        if type(position) is not int or not 0 <= position < 2**62:
            raise DataError(f"the saved data position is {shorten(position)}: the training state is damaged")
        self.position = position


def evaluation_of(items: Sequence[Item], collate: Collate, batch_size: int, n: int, longest: int) -> list[Any]:
    """At most n batches, always the same: items spread evenly over all, those of about one length together."""
    count = min(len(items), n * batch_size)
    chosen = sorted((items[i * len(items) // count] for i in range(count)), key=lambda item: item.length)
    rows = [chosen[i : i + batch_size] for i in range(0, count, batch_size)]
    return [collate(batch, rounded(max(item.length for item in batch), longest)) for batch in rows]
