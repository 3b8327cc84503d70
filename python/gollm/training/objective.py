"""What training minimises, on which batches, and how its gradients and its evaluation are computed.

A trainer asks an objective what the loss of a batch is, and takes batches from whoever has them; both are small, so
that fine-tuning brings its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np

from gollm.kernels import Array
from gollm.model.decoder import Decoder
from gollm.nn.ops import IGNORE_INDEX
from gollm.nn.tape import no_grad
from gollm.nn.tensor import Tensor


class Batches(Protocol):
    """Where micro-batches come from (gollm.data.Sampler is one). Its state goes into checkpoints."""

    def next_batch(self, out: tuple[Array, Array]) -> object:
        """Fills a pair of arrays with inputs and targets: (B, T) int32 each."""

    def steps(self, epochs: float, batches_per_step: int) -> int:
        """How many steps see everything `epochs` times."""

    def state(self) -> dict[str, Any]:
        """The position, as JSON can hold it."""

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on where `state` was taken. Raises DataError where that was in other data."""


class Objective(Protocol):
    """What the loss of a batch is. It is recorded (gollm.nn.plan): what changes from batch to batch, it reads from the
    arrays that it is given."""

    def count(self, targets: Array) -> int:
        """How many losses the mean of these targets is over."""

    def loss(
        self, model: Decoder, inputs: Array, targets: Array, denominator: Array | None, losses: Array | None
    ) -> Tensor:
        """The sum of the batch's losses by `denominator`, (1,) float64, or by their count: a scalar. `losses`, float32
        of the targets' shape, receives each of them, 0 where none counts."""


class NextToken:
    """The cross-entropy of each target that is not IGNORE_INDEX, in nats."""

    def count(self, targets: Array) -> int:
        return int(np.count_nonzero(targets != IGNORE_INDEX))

    def loss(
        self, model: Decoder, inputs: Array, targets: Array, denominator: Array | None, losses: Array | None
    ) -> Tensor:
        return model.loss(inputs, targets, denominator=denominator, losses=losses)


def forward_backward(
    model: Decoder,
    counters: Array,
    inputs: Array,
    targets: Array,
    denominator: Array | None = None,
    *,
    objective: Objective | None = None,
    losses: Array | None = None,
) -> list[Tensor]:
    """The part of a step that the trainer records: the gradient of the mean loss over all k micro-batches, in the
    parameters.

    inputs, targets: (k, B, T) int32; counters: (k,) int64, for the dropout; denominator: (1,) float64, the number of
    losses that the mean is over (default: all targets); losses: (k, B, T) float32, receives each -> k parts of the
    loss"""
    objective = NextToken() if objective is None else objective
    if denominator is None:
        denominator = np.array([targets.size], np.float64)
    model.parameters.zero_grad()
    model.dropout.training = True
    parts = []
    try:
        for i in range(len(inputs)):
            model.dropout.counter = counters[i : i + 1]
            each = None if losses is None else losses[i]
            part = objective.loss(model, inputs[i], targets[i], denominator, each)
            part.backward()
            parts.append(part)
    finally:
        model.dropout.training = False
    return parts


def evaluate(
    objective: Objective,
    model: Decoder,
    batches: Iterable[tuple[Array, Array]],
    check: Callable[[], None] = lambda: None,
) -> float:
    """The mean loss over all batches. `check` is called before each, and may raise.

    A batch's losses are added in double precision from the first to the last, as the kernel does, and its mean is a
    float32, as the kernel gives it: the bits are those of `loss`."""
    total, count = 0.0, 0
    with no_grad():
        for inputs, targets in batches:
            check()
            losses = np.empty(targets.shape, np.float32)
            objective.loss(model, inputs, targets, None, losses)
            n = objective.count(targets)
            mean = np.float32(np.add.accumulate(losses.reshape(-1), dtype=np.float64)[-1] / max(1, n))
            total += float(mean) * n
            count += n
    return total / max(1, count)
