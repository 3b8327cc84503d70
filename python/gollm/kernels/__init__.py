"""The kernels of each device: its table of functions, its memory, its plans.

`cpu` is the object of the CPU, gollm.cuda.kernels() that of the GPU. Everything above reaches kernels through such an
object, which a storage names: both have the same functions.

>>> import numpy as np
>>> x = cpu.empty((3,), np.dtype(np.float32))
>>> cpu.fill(y=x, value=2.0)
>>> x
array([2., 2., 2.], dtype=float32)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from gollm import _native

__all__ = ["Array", "Kernels", "cpu"]

# In the memory of a device. On a GPU it is a _native.DeviceArray: a shape, a dtype, reshape() and parts along the first
# axes. Its values are read through to_host().
Array = np.ndarray[Any, np.dtype[Any]]


class Kernels:
    """One device.

    Each kernel of csrc/kernels.def is a method of that name: it takes arrays (or storages, gollm.nn.storage) and
    numbers by keyword, checks all that its contract says, and raises a GollmError that names what does not fit.

    device        "cpu" or "cuda"
    empty         empty(shape, dtype): an array with undefined contents, in 64-byte aligned memory of a pool
    Plan          records kernel calls of this device and runs them again (gollm.nn.plan)
    Measure       finds out what a plan of this thread's calls between begin() and end() would take: the calls are
                  checked but not run, and arrays take no memory
    is_recording  whether this thread's calls are being recorded
    plan_in_use   whether a plan records or lends its memory in this thread, so that no other one can run
    """

    def __init__(self, device: str, native: ModuleType) -> None:
        self.device = device
        self.native = native
        self.empty: Callable[[tuple[int, ...], np.dtype[Any]], Array] = native.empty
        self.Plan: Callable[[], Any] = native.Plan
        self.Measure: Callable[[], Any] = native.Measure
        self.is_recording: Callable[[], bool] = native.plan_is_recording
        self.plan_in_use: Callable[[], bool] = native.plan_in_use
        for name in native.contracts():
            setattr(self, name, getattr(native, name))

    if TYPE_CHECKING:  # the functions of the table

        def __getattr__(self, name: str) -> Callable[..., None]: ...

    @property
    def is_cpu(self) -> bool:
        return self.native is _native

    def from_host(self, array: Array) -> Array:
        """The device's own copy of an array in the CPU's memory; the array itself where it is on the device already,
        as all are on the CPU. A plan that is being recorded keeps the copy as it is now."""
        return array if self.is_cpu or isinstance(array, _native.DeviceArray) else self.native.from_host(array)

    def to_host(self, array: Array) -> Array:
        """The other way round; the copy is read-only. Waits for the device, and raises KernelError where a kernel has
        met bad data since values were read last."""
        return array if self.is_cpu else self.native.to_host(array)

    def write(self, to: Array, values: Array) -> None:
        """Fills an array of this device with values of its shape and dtype, in its own memory or the CPU's."""
        if self.is_cpu:
            np.copyto(to, values)
        else:
            self.native.write(to, values)

    @contextmanager
    def filling(self, array: Array) -> Iterator[Array]:
        """An array in the CPU's memory whose contents are the array's afterwards."""
        if self.is_cpu:
            yield array
        else:
            values = np.empty(array.shape, array.dtype)
            yield values
            self.write(array, values)

    def __repr__(self) -> str:
        return f"Kernels({self.device!r})"


cpu = Kernels("cpu", _native)
