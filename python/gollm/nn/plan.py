"""Recorded plans: a step of kernel calls is recorded once and replayed natively, without Python in between.

The first call of a plan runs its function as it is and notes every kernel call with its arguments: addresses, sizes,
numbers. Later calls copy their arrays to where the first ones lay and run the same list of kernel calls in one native
call: in one team of threads on the CPU, as a CUDA graph on a GPU. The bits are those of the function itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Generic, TypeVar

import numpy as np

from gollm.errors import DTypeError, GollmError
from gollm.kernels import Array, Kernels, cpu
from gollm.nn.tensor import Tensor, written

R = TypeVar("R")  # what a plan's function returns

INPUT_DTYPES = ("int32", "int64", "float32", "float64")


class Plan(Generic[R]):
    """A function of arrays that is recorded when it is first called, and replayed from then on.

    >>> from gollm.nn.ops import add
    >>> from gollm.nn.tensor import tensor
    >>> double = Plan(lambda x: add(tensor(x), tensor(x)))
    >>> double(np.array([1.0, 2.0], np.float32)).numpy()
    array([2., 4.], dtype=float32)
    >>> double(np.array([3.0, 4.0], np.float32)).numpy()
    array([6., 8.], dtype=float32)

    Only kernel calls are replayed. Whatever else the function does happens once, while it is recorded: reading a value,
    NumPy's arithmetic, a decision. What changes from call to call is an argument, or lies in memory that kernels read
    (weights, the dropout counter); numbers stay as they were recorded. A function that computes gradients begins with
    zero_grad(): whether backward() overwrites them or adds to them is recorded, too.

    function   of int32, int64, float32 or float64 arrays. It gets arrays of the plan's own, which later calls fill.
               What it returns (tensors or arrays, in any structure) is returned by every call, with other values in
               it: read or copy them before the next one. Its memory, results aside, is the plan's and stays taken:
               see lend_memory.
    """

    def __init__(self, function: Callable[..., R], kernels: Kernels = cpu) -> None:
        self.function = function
        self._kernels = kernels
        self._native = kernels.Plan()
        self._lock = threading.RLock()  # of the input arrays and the memory
        self._inputs: tuple[Array, ...] = ()
        self._kinds: list[object] = []  # their shapes and dtypes
        self._leaves: list[Tensor] = []  # that it writes gradients of
        self._result: tuple[R] | None = None  # None: not recorded

    def __call__(self, *inputs: Array, times: int = 1) -> R:
        """Runs the plan, `times` times with nothing in between: for kernels that go on from what they left in the
        plan's arrays. It is recorded by the first call, and again by one with other shapes or dtypes.

        Raises DTypeError for other dtypes than those, and what the function raises: a replay
        raises KernelError where a kernel refuses its arguments; the plan stays usable. Calls from several threads take
        turns."""
        if times < 1:
            raise GollmError(f"a plan cannot run {times} times")
        with self._lock:
            if self._result is None or _kinds(inputs) != self._kinds:
                result = self._record(inputs)
                if times > 1:
                    self._native.run(times - 1)
                return result
            for own, given in zip(self._inputs, inputs, strict=True):
                self._kernels.write(own, given)
            self._native.run(times)
            for leaf in self._leaves:
                leaf.has_grad = True
            return self._result[0]

    def _record(self, inputs: tuple[Array, ...]) -> R:
        for array in inputs:
            kind = str(array.dtype) if isinstance(array, np.ndarray) else type(array).__name__
            if kind not in INPUT_DTYPES:
                raise DTypeError(f"a plan takes arrays of {', '.join(INPUT_DTYPES)}, not {kind}; convert it first")
        self.forget()
        self._inputs = tuple(self._kernels.from_host(array.copy()) for array in inputs)
        self._kinds = _kinds(inputs)
        self._native.begin()
        written.leaves = []
        try:
            result = self.function(*self._inputs)
            _compute(result)
            self._leaves = list(dict.fromkeys(written.leaves))
        except BaseException:
            self._native.end()
            self.forget()
            raise
        finally:
            written.leaves = None
        self._native.end()
        self._result = (result,)
        return result

    def forget(self) -> None:
        """The next call records anew: for when something has changed that is not read from memory, such as a dropout's
        probability."""
        with self._lock:
            self._result, self._leaves = None, []
            self._native.clear()

    @property
    def kernels(self) -> list[str]:
        """The names of the recorded kernel calls, in order; empty before the first call."""
        return [name for span in self._native.spans() for name in span]

    @contextmanager
    def lend_memory(self) -> Iterator[None]:
        """Operations inside, in this thread, take their memory from the plan instead of beside it: between two calls it
        holds nothing but the result. What they allocate must be gone by the next call, or that raises GollmError."""
        with self._lock:
            self._native.lend()
            try:
                yield
            finally:
                self._native.end()


def _compute(result: object) -> None:
    """Makes the kernels run that a tensor's value has been postponed until."""
    if isinstance(result, Tensor):
        result.computed()
    elif isinstance(result, Mapping):
        _compute(list(result.values()))
    elif isinstance(result, list | tuple):
        for item in result:
            _compute(item)


def _kinds(arrays: tuple[Array, ...]) -> list[object]:
    return [(a.shape, a.dtype) if isinstance(a, np.ndarray) else None for a in arrays]
