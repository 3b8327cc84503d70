"""The tape: define-by-run reverse-mode differentiation over coarse, fused operations.

An operation is a class with `forward` and `backward` side by side (gollm.ops). `apply` runs forward and, where a
gradient may be asked for, keeps the operation with its inputs on its output tensor. `backward` walks these in reverse
order of their creation and lets each operation write the gradients of its inputs straight into their destinations:
overwritten the first time, added to afterwards, so that no gradient is copied in order to be added.

References go from outputs to inputs only (tensor -> operation -> input tensors), so nothing is left for the garbage
collector, and an operation lets go of what it saved as soon as its backward has run.
"""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gollm import _native as kernels
from gollm.errors import DTypeError, GollmError, ShapeError
from gollm.tensor import Array, Tensor, empty


class _Mode(threading.local):
    recording = True


_mode = _Mode()
_order = itertools.count()


@contextmanager
def no_grad() -> Iterator[None]:
    """Operations inside record nothing: no backward, and no memory kept for it. Holds for the current thread."""
    before, _mode.recording = _mode.recording, False
    try:
        yield
    finally:
        _mode.recording = before


def is_recording() -> bool:
    """False inside no_grad()."""
    return _mode.recording


class Op:
    """One run of a differentiable operation.

    A subclass defines `forward(self, *inputs, **options) -> Array`, where an input is the array of a tensor or None,
    and `backward(self, dy, into)`, where `into[i]` is the destination of input i's gradient as kernels take it (see
    Destinations).
    """

    __slots__ = ("inputs", "order", "postponed", "recording", "saved")

    order: int  # of its creation among all recorded operations

    def __init__(self, inputs: tuple[Tensor | None, ...]) -> None:
        self.inputs = inputs
        self.saved: tuple[Any, ...] = ()
        self.postponed = False  # the output is not computed yet: evaluate() does it
        self.recording = _mode.recording and any(t is not None and t.requires_grad for t in inputs)

    @classmethod
    def apply(cls, *inputs: Tensor | None, **options: Any) -> Tensor:
        """Runs forward on tensors; errors about shapes and dtypes name the operation."""
        op = cls(inputs)
        try:
            array = op.forward(*[None if t is None else t.data for t in inputs], **options)
        except (ShapeError, DTypeError) as error:
            raise type(error)(f"{cls.__name__}: {error}") from None
        if not op.recording:
            return Tensor(array)
        op.order = next(_order)
        return Tensor(array, True, op)

    def save(self, *values: Any) -> None:
        """Keeps what backward needs, if there will be one."""
        if self.recording:
            self.saved = values

    def forward(self, *inputs: Any, **options: Any) -> Array:
        raise NotImplementedError

    def backward(self, dy: Array, into: Destinations) -> None:
        raise NotImplementedError

    def evaluate(self) -> None:
        """Computes a postponed output."""

    def release(self) -> None:
        self.inputs = self.saved = ()

    def __lt__(self, other: Op) -> bool:  # the heap gives the latest first
        return self.order > other.order


class Destinations:
    """Where an operation puts the gradients of its inputs.

    `into[i]` is None where none is wanted, else a pair (array, accumulate) as kernels take it; it counts as written
    from then on. `into.pass_on(i, dy)` gives dy itself as the gradient of input i, without a copy where that can be;
    the operation must not use dy afterwards.
    """

    __slots__ = ("_gradients", "_heap", "_inputs", "_passed_on")

    def __init__(self, inputs: tuple[Tensor | None, ...], gradients: dict[Op, Array], heap: list[Op]) -> None:
        self._inputs = inputs
        self._gradients = gradients
        self._heap = heap
        self._passed_on = False

    def __getitem__(self, i: int) -> tuple[Array, bool] | None:
        t = self._inputs[i]
        if t is None or not t.requires_grad:
            return None
        if t.op is None:
            return t.grad_destination()
        gradient = self._gradients.get(t.op)
        if gradient is not None:
            return gradient, True
        gradient = empty(t.shape, t.dtype)
        self._expect(t.op, gradient)
        return gradient, False

    def pass_on(self, i: int, dy: Array) -> None:
        t = self._inputs[i]
        if t is None or not t.requires_grad:
            return
        if t.op is not None and t.op not in self._gradients and not self._passed_on:
            self._passed_on = True
            self._expect(t.op, dy.reshape(t.shape))
            return
        destination = self[i]
        assert destination is not None
        array, accumulate = destination
        if accumulate:
            kernels.add(c=array, a=array, b=dy.reshape(t.shape))
        else:
            kernels.copy(y=array.reshape(-1), x=dy.reshape(-1))

    def _expect(self, op: Op, gradient: Array) -> None:
        self._gradients[op] = gradient
        heapq.heappush(self._heap, op)


def backward(loss: Tensor) -> None:
    """Adds d loss / d leaf to `grad` of every leaf with requires_grad that the scalar `loss` was computed from.

    Raises ShapeError when `loss` is not a scalar, GollmError when nothing was recorded or backward has run already."""
    if loss.storage.array.size != 1:
        raise ShapeError(f"backward: the loss must be a scalar, not a tensor of shape {loss.shape}")
    if loss.op is None:
        raise GollmError("backward: the loss has no recorded operations; was it computed inside no_grad()?")
    if not loss.op.inputs:
        raise GollmError("backward: it has run already on this loss; compute the loss again")
    one = empty(loss.shape, loss.dtype)
    kernels.fill(y=one.reshape(1), value=1.0)
    gradients: dict[Op, Array] = {loss.op: one}
    heap = [loss.op]
    while heap:
        op = heapq.heappop(heap)
        op.backward(gradients.pop(op), Destinations(op.inputs, gradients, heap))
        op.release()
