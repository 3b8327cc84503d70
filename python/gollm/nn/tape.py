"""The tape: define-by-run reverse-mode differentiation over coarse, fused operations.

An operation is a class with `forward` and `backward` side by side (gollm.nn.ops). Its `apply`, which callers know as a
function, runs forward and, where a gradient may be asked for, keeps the operation with its inputs on its output tensor.
`backward` walks these in reverse order of their creation and lets each operation write the gradients of its inputs
straight into their destinations: overwritten the first time, added to afterwards, so that no gradient is copied in
order to be added.

References go from outputs to inputs only (tensor -> operation -> operations before it), so nothing is left for the
garbage collector, and an operation lets go of what it saved as soon as its backward has run. An operation does not hold
its input tensors: what it does not save is free after its last use.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, Literal, get_args

from gollm.errors import ConfigError, DTypeError, GollmError, ShapeError
from gollm.kernels import Kernels
from gollm.nn import products
from gollm.nn.dtypes import DType, bfloat16
from gollm.nn.storage import Storage
from gollm.nn.tensor import Tensor

ActivationDType = Literal["float32", "bfloat16"]
ComputeDType = Literal["float32", "bfloat16"]


class _Mode(threading.local):
    recording = True
    narrow = False  # what is saved for backward is bfloat16
    postponing = False  # outputs are computed when they are read
    compute = products.FLOAT32  # what products are computed in


_mode = _Mode()
_order = itertools.count()


@contextmanager
def _switched(**changes: int) -> Iterator[None]:
    before = {name: getattr(_mode, name) for name in changes}
    vars(_mode).update(changes)
    try:
        yield
    finally:
        vars(_mode).update(before)


def no_grad() -> AbstractContextManager[None]:
    """Operations inside record nothing: no backward, and no memory kept for it. Holds for the current thread."""
    return _switched(recording=False)


def activations_as(dtype: ActivationDType) -> AbstractContextManager[None]:
    """What operations inside keep of their inputs and outputs for backward is stored as "bfloat16", in half of the
    memory, or as it is ("float32"). What is computed forward, weights and gradients are not touched.

    Raises ConfigError for another dtype."""
    if dtype not in get_args(ActivationDType):
        raise ConfigError(f"activation_dtype is {dtype!r}; it must be one of {', '.join(get_args(ActivationDType))}")
    return _switched(narrow=dtype == "bfloat16")


def products_in(dtype: ComputeDType) -> AbstractContextManager[None]:
    """The operands of products inside, and of their gradients, are rounded to "bfloat16" when they are multiplied, or
    used as they are ("float32"). Sums, and all that is stored, stay float32.

    Raises ConfigError for another dtype."""
    if dtype not in get_args(ComputeDType):
        raise ConfigError(f"compute_dtype is {dtype!r}; it must be one of {', '.join(get_args(ComputeDType))}")
    return _switched(compute=products.BFLOAT16 if dtype == "bfloat16" else products.FLOAT32)


def second_forward(of: Op) -> AbstractContextManager[None]:
    """Operations inside are recorded for a backward pass that follows at once. An output is computed when it is read;
    the last one never is. What is saved is not stored as bfloat16."""
    return _switched(recording=True, narrow=False, postponing=True, compute=of.compute_as)


def is_recording() -> bool:
    """False inside no_grad()."""
    return _mode.recording


class Kept:
    """An activation that backward needs: the storage itself, or its bfloat16 copy."""

    __slots__ = ("__weakref__", "_dtype", "_original", "_storage")

    def __init__(self, storage: Storage, narrow: bool) -> None:
        self._storage, self._dtype = storage, storage.dtype
        if narrow:
            self._original = weakref.ref(storage)
            self._storage = storage.new(storage.shape, bfloat16)
            storage.kernels.to_bf16(y=self._storage.reshape(-1), x=storage.reshape(-1))

    def wide(self) -> Storage:
        """The values, in the dtype that they had."""
        kept = self._storage
        if kept.dtype is self._dtype:
            return kept
        wide = kept.new(kept.shape, self._dtype)
        kept.kernels.from_bf16(y=wide.reshape(-1), x=kept.reshape(-1))
        return wide

    def is_copy_of(self, storage: Storage) -> bool:
        return self._original() is storage


# By id(storage), as long as an operation holds them: what two operations keep is stored once.
_copies: weakref.WeakValueDictionary[int, Kept] = weakref.WeakValueDictionary()


class Op:
    """One run of a differentiable operation.

    A subclass defines `forward(self, *inputs, **options) -> Storage`, where an input is the storage of a tensor or
    None, and `backward(self, dy, into)`, where `into[i]` is the destination of input i's gradient as kernels take it
    (see Destinations). Both reach kernels through `self.kernels`: those of the device that the inputs are on.
    """

    __slots__ = (
        "compute_as",
        "dtype",
        "inputs",
        "kernels",
        "order",
        "postponed",
        "recording",
        "saved",
        "shape",
        "work",
    )

    kernels: Kernels
    shape: tuple[int, ...]  # of the output
    dtype: DType
    order: int  # of its creation among all recorded operations
    # Whether forward or backward read the values of the inputs; if not, only the call given to compute() does.
    reads_inputs = True

    def __init__(self, inputs: tuple[Tensor | None, ...]) -> None:
        self.inputs = tuple(map(origin_of, inputs)) if _mode.recording else ()
        self.compute_as = _mode.compute
        self.saved: tuple[Any, ...] = ()
        self.postponed = False  # the output is not computed yet: evaluate() does it
        self.work: Callable[[], None] | None = None  # the call that computes it
        self.recording = self.inputs.count(None) < len(self.inputs)  # False inside no_grad()

    @classmethod
    def apply(cls, *inputs: Tensor | None, **options: Any) -> Tensor:
        """Runs forward on tensors; errors about shapes and dtypes name the operation."""
        op = cls(inputs)
        try:
            ready = cls.reads_inputs or not _mode.postponing
            storages = [None if t is None else t.computed() if ready else t.storage for t in inputs]
            op.kernels = next(s.kernels for s in storages if s is not None)
            y = op.forward(*storages, **options)
        except (ShapeError, DTypeError) as error:
            raise type(error)(f"{cls.__name__.lstrip('_')}: {error}") from None
        if not op.recording:
            return Tensor(y)
        op.order, op.shape, op.dtype = next(_order), y.shape, y.dtype
        return Tensor(y, True, op)

    def compute(self, kernel: Callable[..., None], *arguments: Any, **named: Any) -> None:
        """Computes the output by this call, where backward needs nothing else of it: now, or when the output is
        read."""
        if self.recording and _mode.postponing:
            self.work, self.postponed = partial(kernel, *arguments, **named), True
        else:
            kernel(*arguments, **named)

    def save(self, *values: Any) -> None:
        """Remembers what backward needs, if there will be one. Activations go through keep()."""
        if self.recording:
            self.saved = values

    def keep(self, storage: Storage) -> Kept:
        """An activation for save(): `.wide()` gives it back. Its values must have been computed."""
        if not (self.recording and _mode.narrow) or storage.dtype is bfloat16:
            return Kept(storage, narrow=False)
        kept = _copies.get(id(storage))
        if kept is None or not kept.is_copy_of(storage):
            kept = _copies[id(storage)] = Kept(storage, narrow=True)
        return kept

    def forward(self, *inputs: Any, **options: Any) -> Storage:
        raise NotImplementedError

    def backward(self, dy: Storage, into: Destinations) -> None:
        raise NotImplementedError

    def evaluate(self) -> None:
        """Computes a postponed output."""
        for origin in self.inputs:
            if isinstance(origin, Op) and origin.postponed:
                origin.evaluate()
        if self.work is None:
            raise GollmError("this tensor's value was never needed, and backward() has let go of what it comes from")
        self.work()
        self.work, self.postponed = None, False

    def differentiate(self, loss: Tensor) -> None:
        """The backward pass from `loss`, this operation's output: see Tensor.backward."""
        if not self.inputs:
            raise GollmError("backward: it has run already on this loss; compute the loss again")
        one = loss.storage.new(self.shape)
        self.kernels.fill(y=one.reshape(1), value=1.0)
        gradients: dict[Op, Storage] = {self: one}
        heap = [self]
        while heap:
            op = heapq.heappop(heap)
            op.backward(gradients.pop(op), Destinations(op, gradients, heap))
            op.release()

    def release(self) -> None:
        self.inputs = self.saved = ()
        self.work = None

    def __lt__(self, other: Op) -> bool:  # the heap gives the latest first
        return self.order > other.order


def origin_of(t: Tensor | None) -> Op | Tensor | None:
    """Where a tensor's gradient goes: to the operation that made it, to a leaf itself, or nowhere."""
    if t is None or not t.requires_grad:
        return None
    assert t.op is None or isinstance(t.op, Op)
    return t.op or t


class Destinations:
    """Where an operation puts the gradients of its inputs.

    `into[i]` is None where none is wanted, else a pair (storage, accumulate) as kernels take it; it counts as written
    from then on. `into.pass_on(i, dy)` gives dy itself as the gradient of input i, without a copy where that can be;
    the operation must not use dy afterwards.
    """

    __slots__ = ("_gradients", "_heap", "_inputs", "_kernels", "_passed_on")

    def __init__(self, op: Op, gradients: dict[Op, Storage], heap: list[Op]) -> None:
        self._inputs = op.inputs
        self._kernels = op.kernels
        self._gradients = gradients
        self._heap = heap
        self._passed_on = False

    def __getitem__(self, i: int) -> tuple[Storage, bool] | None:
        origin = self._inputs[i]
        return None if origin is None else self._of(origin)

    def pass_on(self, i: int, dy: Storage) -> None:
        self._pass(dy, self._inputs[i])

    def go_on_from(self, y: Tensor, dy: Storage) -> None:
        """Puts what y was computed by, recorded just now, in this operation's place on the tape; dy is y's gradient."""
        self._pass(dy, origin_of(y))

    def _of(self, origin: Op | Tensor) -> tuple[Storage, bool]:
        if isinstance(origin, Tensor):
            return origin.grad_destination()
        gradient = self._gradients.get(origin)
        if gradient is not None:
            return gradient, True
        gradient = Storage(self._kernels.empty(origin.shape, origin.dtype.array), origin.dtype, kernels=self._kernels)
        self._expect(origin, gradient)
        return gradient, False

    def _pass(self, dy: Storage, origin: Op | Tensor | None) -> None:
        if origin is None:
            return
        dy = dy.reshape(origin.shape)
        if isinstance(origin, Op) and origin not in self._gradients and not self._passed_on:
            self._passed_on = True
            self._expect(origin, dy)
            return
        gradient, accumulate = self._of(origin)
        if accumulate:
            self._kernels.add(c=gradient, a=gradient, b=dy)
        else:
            self._kernels.copy(y=gradient.reshape(-1), x=dy.reshape(-1))

    def _expect(self, op: Op, gradient: Storage) -> None:
        self._gradients[op] = gradient
        heapq.heappush(self._heap, op)
