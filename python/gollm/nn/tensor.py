"""Tensors: a storage, and what the tape needs to know about it.

A `Tensor` is an n-dimensional value that may take part in automatic differentiation (gollm.nn.tape). Its memory comes
from a caching pool (64-byte aligned blocks that are reused). On the CPU NumPy, or anything that speaks DLPack, sees it
without a copy; on a GPU `numpy()` copies it, and DLPack and `__cuda_array_interface__` do not:

>>> x = tensor([[1.0, 2.0], [3.0, 4.0]])
>>> x.shape, str(x.dtype)
((2, 2), 'float32')
>>> x.numpy().sum()
np.float32(10.0)
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from gollm import cuda
from gollm.errors import DTypeError, GollmError, ShapeError
from gollm.kernels import Array, cpu
from gollm.nn import dtypes
from gollm.nn.devices import DeviceName, kernels_of
from gollm.nn.storage import Storage
from gollm.system.strict_json import shorten

FLOAT32 = np.dtype(np.float32)
FLOAT64 = np.dtype(np.float64)
_DLPACK_CUDA = 2  # DLDeviceType


def empty(shape: tuple[int, ...], dtype: np.dtype[Any] = FLOAT32) -> Array:
    """An array with undefined contents, in 64-byte aligned memory of the CPU's pool."""
    return cpu.empty(shape, dtype)


class Origin(Protocol):
    """The operation that made a tensor (gollm.nn.tape.Op), as far as the tensor needs it."""

    postponed: bool

    def evaluate(self) -> None: ...

    def differentiate(self, loss: Tensor) -> None: ...


class _Written(threading.local):
    leaves: list[Tensor] | None = None


# The leaves whose gradients are written while this thread records a plan: its replays write them too.
written = _Written()


class Tensor:
    """An n-dimensional value, with the operation that made it where a gradient may be asked for."""

    __slots__ = ("_grad", "has_grad", "op", "requires_grad", "storage")

    def __init__(self, storage: Storage, requires_grad: bool = False, op: Origin | None = None) -> None:
        self.storage = storage
        self.requires_grad = requires_grad
        self.op = op
        self.has_grad = False  # whether _grad holds a gradient, or is only room for one
        self._grad: Storage | None = None

    @property
    def data(self) -> Array:
        """The values as an ndarray that shares the memory; on a GPU a read-only copy, with float32 for
        bfloat16. The value of a postponed operation is computed now."""
        return self.computed().host()

    def computed(self) -> Storage:
        """The storage, once the value of a postponed operation has been computed."""
        if self.op is not None and self.op.postponed:
            self.op.evaluate()
        return self.storage

    @property
    def shape(self) -> tuple[int, ...]:
        return self.storage.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of `data`."""
        return FLOAT32 if self.storage.is_plain_bfloat16 else self.storage.array.dtype

    @property
    def device(self) -> str:
        return self.storage.device

    @property
    def grad(self) -> Array | None:
        """The gradient that backward() left here, of this tensor's shape, or None."""
        return self._grad.host() if self._grad is not None and self.has_grad else None

    def grad_destination(self) -> tuple[Storage, bool]:
        """Where an operation's backward puts this leaf's gradient: (storage, whether to add to what is there)."""
        accumulate = self.has_grad
        if written.leaves is not None:
            written.leaves.append(self)
        if self._grad is None:
            self._grad = self.storage.new(self.shape)
        self.has_grad = True
        return self._grad, accumulate

    def zero_grad(self) -> None:
        """Forgets the gradient: the next backward() overwrites it."""
        self.has_grad = False

    def backward(self) -> None:
        """Adds the gradient of this scalar to `grad` of every leaf with requires_grad that it was computed from.

        Raises ShapeError when it is not a scalar, GollmError when nothing was recorded or backward has run already."""
        if self.storage.array.size != 1:
            raise ShapeError(f"backward: the loss must be a scalar, not a tensor of shape {self.shape}")
        if self.op is None:
            raise GollmError("backward: the loss has no recorded operations; was it computed inside no_grad()?")
        self.op.differentiate(self)

    def item(self) -> float:
        """The value of a tensor with one element."""
        if self.storage.kernels.is_recording():
            raise GollmError(
                "item: a value that is read while a plan is recorded would stay the first one for ever; return the "
                "tensor, and read it after the plan has run"
            )
        if self.storage.array.size != 1:
            raise ShapeError(f"item: a tensor of shape {self.shape} has more than one value")
        return float(self.data.reshape(-1)[0])

    def numpy(self) -> Array:
        """The values as an ndarray: see `data`."""
        return self.data

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.array(self.data, dtype=dtype, copy=copy)

    def __dlpack__(self, **options: Any) -> Any:
        storage = self.computed()
        if storage.kernels.is_cpu:
            return storage.array.__dlpack__(**options)
        return storage.kernels.native.to_dlpack(storage.array, storage.is_plain_bfloat16)  # all is done: any stream may

    def __dlpack_device__(self) -> Any:
        return self.storage.array.__dlpack_device__() if self.storage.kernels.is_cpu else (_DLPACK_CUDA, 0)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        interface: dict[str, Any] = self.computed().array.__cuda_array_interface__  # type: ignore[attr-defined]
        return interface

    def __repr__(self) -> str:
        more = (
            "" if self.storage.kernels.is_cpu else f", device={self.device}"
        ) + ", requires_grad" * self.requires_grad
        return f"Tensor(shape={self.shape}, dtype={self.dtype}{more})"


def tensor(values: Array | Sequence[Any] | float, *, requires_grad: bool = False, device: DeviceName = "cpu") -> Tensor:
    """A leaf tensor. On the CPU float32, float64, int32 and int64 C-contiguous arrays are shared, lists and numbers
    become float32; on another device it is a copy.

    Raises DTypeError for other dtypes, DeviceError for a device that is not there."""
    try:
        array = values if isinstance(values, np.ndarray) else np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError):
        raise DTypeError(f"tensor: the values are {shorten(values)}; they must be numbers, or lists of them") from None
    if array.dtype.str not in ("<f4", "<f8", "<i4", "<i8"):
        raise DTypeError(f"tensor: dtype {array.dtype} is not supported; use float32, float64, int32 or int64")
    if requires_grad and array.dtype.kind != "f":
        raise DTypeError(f"tensor: only float32 and float64 tensors can have a gradient, not {array.dtype}")
    storage = Storage(np.ascontiguousarray(array) if array.ndim else array.reshape(()))
    return Tensor(storage if device == "cpu" else storage.to(kernels_of(device)), requires_grad)


def from_dlpack(other: Any) -> Tensor:
    """A tensor that shares the memory of an object with `__dlpack__` on the CPU or the GPU, such as a torch.Tensor."""
    if other.__dlpack_device__()[0] != _DLPACK_CUDA:
        return tensor(np.from_dlpack(other))
    kernels = cuda.kernels()
    array, is_bfloat16 = kernels.native.from_dlpack(other)
    return Tensor(Storage(array, dtypes.bfloat16 if is_bfloat16 else dtypes.dtype_of(array), kernels=kernels))
