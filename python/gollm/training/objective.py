"""What training minimises, on which batches, and how its gradients and its evaluation are computed.

A trainer asks an objective what the loss of a batch is, and takes batches from whoever has them; both are small, so
that fine-tuning brings its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from gollm.kernels import Array
from gollm.model.decoder import Decoder
from gollm.nn.ops import IGNORE_INDEX
from gollm.nn.tape import no_grad
from gollm.nn.tensor import Tensor


class Batches(Protocol):
    """Where micro-batches come from (gollm.data.Sampler is one). Its state goes into checkpoints.

    context  T, the tokens of the longest sequence"""

    context: int

    def next_step(self, n_batches: int) -> tuple[Array, ...]:
        """The k micro-batches of a step, as the objective takes them: arrays whose first axis is k, the first of them
        the inputs, (k, B, T) int32. T may differ from step to step."""

    def steps(self, epochs: float, batches_per_step: int) -> int:
        """How many steps see everything `epochs` times."""

    def state(self) -> dict[str, Any]:
        """The position, as JSON can hold it."""

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on where `state` was taken. Raises DataError where that was in other data."""


class Objective(Protocol):
    """What the loss of a batch is. It is recorded (gollm.nn.plan): what changes from batch to batch, it reads from the
    arrays that it is given.

    A batch is the arrays that Batches.next_step() gives, without their first axis."""

    def count(self, batch: Sequence[Array]) -> float:
        """How many losses the mean of this batch is over."""

    def each_shape(self, batch: Sequence[Array]) -> tuple[int, ...]:
        """Of what `loss` says of each item of a batch."""

    def loss(self, model: Decoder, batch: Sequence[Array], denominator: Array | None, each: Array | None) -> Tensor:
        """The sum of the batch's losses by `denominator`, (1,) float64, or by their count: a scalar. `each`, float32 of
        each_shape(), receives what there is to say of each item."""

    def metrics(self, batches: Sequence[Array], each: Array) -> dict[str, float]:
        """Figures beside the loss, by name, from the arrays of k batches, and their `each`: (k, *each_shape)."""


class NextToken:
    """The cross-entropy of each target that is not IGNORE_INDEX, in nats. A batch is inputs and targets, (B, T) each;
    `each` receives the loss of each target, 0 where none counts."""

    def count(self, batch: Sequence[Array]) -> float:
        return int(np.count_nonzero(batch[1] != IGNORE_INDEX))

    def each_shape(self, batch: Sequence[Array]) -> tuple[int, ...]:
        return tuple(batch[1].shape)

    def loss(self, model: Decoder, batch: Sequence[Array], denominator: Array | None, each: Array | None) -> Tensor:
        inputs, targets = batch
        return model.loss(inputs, targets, denominator=denominator, losses=each)

    def metrics(self, batches: Sequence[Array], each: Array) -> dict[str, float]:
        return {}


def forward_backward(
    model: Decoder,
    counters: Array,
    *batches: Array,
    denominator: Array | None = None,
    objective: Objective | None = None,
    each: Array | None = None,
) -> list[Tensor]:
    """The part of a step that the trainer records: the gradient of the mean loss over all k micro-batches, in the
    parameters.

    counters: (k,) int64, for the dropout; batches: the objective's arrays, (k, ...); denominator: (1,) float64, the
    number of losses that the mean is over (default: their count); each: (k, ...) float32 -> k parts of the loss"""
    objective = NextToken() if objective is None else objective
    if denominator is None:
        denominator = np.array([objective.count(batches)], np.float64)
    model.parameters.zero_grad()
    model.dropout.training = True
    parts = []
    try:
        for i in range(counters.shape[0]):
            model.dropout.counter = counters[i : i + 1]
            batch = [array[i] for array in batches]
            part = objective.loss(model, batch, denominator, None if each is None else each[i])
            part.backward()
            parts.append(part)
    finally:
        model.dropout.training = False
    return parts


def evaluate(
    objective: Objective,
    model: Decoder,
    batches: Iterable[Sequence[Array]],
    check: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """The mean loss over all batches as "loss", and the objective's figures. `check` is called before each batch, and
    may raise."""
    total, count, kernels = 0.0, 0.0, model.parameters.kernels
    all_metrics: list[tuple[float, dict[str, float]]] = []
    with no_grad():
        for batch in batches:
            check()
            each = kernels.from_host(np.empty(objective.each_shape(batch), np.float32))
            n = objective.count(batch)
            total += objective.loss(model, batch, None, each).item() * n
            count += n
            all_metrics.append((n, objective.metrics([array[None] for array in batch], kernels.to_host(each)[None])))
    means = {name: sum(n * found[name] for n, found in all_metrics) / count for name in all_metrics[0][1]}
    return {"loss": total / max(1, count), **means}
