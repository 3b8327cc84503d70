"""The kernels of each device: its table of functions, its memory, its plans.

`cpu` is the object of the CPU. Everything above reaches kernels through such an object, which a storage names: another
device brings another object with the same functions.

>>> import numpy as np
>>> x = cpu.empty((3,), np.dtype(np.float32))
>>> cpu.fill(y=x, value=2.0)
>>> x
array([2., 2., 2.], dtype=float32)
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from gollm import _native

__all__ = ["Array", "Kernels", "cpu"]

Array = np.ndarray[Any, np.dtype[Any]]


class Kernels:
    """One device.

    Each kernel of csrc/kernels.def is a method of that name: it takes arrays (or storages, gollm.nn.storage) and
    numbers by keyword, checks all that its contract says, and raises a GollmError that names what does not fit.

    device        "cpu"
    empty         empty(shape, dtype): an array with undefined contents, in 64-byte aligned memory of a pool
    Plan          records kernel calls of this device and runs them again (gollm.nn.plan)
    Measure       finds out what a plan of this thread's calls between begin() and end() would take: the calls are
                  checked but not run, and arrays take no memory
    is_recording  whether this thread's calls are being recorded
    plan_in_use   whether a plan records or lends its memory in this thread, so that no other one can run
    """

    def __init__(self, device: str, native: ModuleType) -> None:
        self.device = device
        self.empty: Callable[[tuple[int, ...], np.dtype[Any]], Array] = native.empty
        self.Plan = native.Plan
        self.Measure = native.Measure
        self.is_recording: Callable[[], bool] = native.plan_is_recording
        self.plan_in_use: Callable[[], bool] = native.plan_in_use
        for name in native.contracts():
            setattr(self, name, getattr(native, name))

    if TYPE_CHECKING:  # the functions of the table

        def __getattr__(self, name: str) -> Callable[..., None]: ...

    def from_host(self, array: Array) -> Array:
        """The device's own copy of an array in the CPU's memory; on the CPU the array itself."""
        return array

    def to_host(self, array: Array) -> Array:
        """The other way round."""
        return array

    def __repr__(self) -> str:
        return f"Kernels({self.device!r})"


cpu = Kernels("cpu", _native)
