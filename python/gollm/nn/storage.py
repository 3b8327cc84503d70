"""Storage: memory on a device, what its numbers are, and how they lie there.

A weight is a storage like any other value: what computes with it asks its dtype and layout (gollm.nn.products), so
that a narrow or packed weight is just a weight.
"""

from __future__ import annotations

import numpy as np

from gollm.kernels import Array, Kernels, cpu
from gollm.nn.dtypes import DType, bfloat16, dtype_of, float32, wide

ROW_MAJOR = "row-major"
PANELS = "panels"  # of a weight: for a kernel that reads it from front to back (csrc/quantized.c)


class Storage:
    """array: how the device's kernels take the memory; dtype: what the numbers in it are; layout: plain row-major, or
    packed for a kernel; shape: of the numbers, which is not the array's where they are packed; kernels: those of the
    device that it is on."""

    __slots__ = ("__weakref__", "array", "dtype", "kernels", "layout", "shape")

    def __init__(
        self,
        array: Array,
        dtype: DType | None = None,
        layout: str = ROW_MAJOR,
        kernels: Kernels = cpu,
        shape: tuple[int, ...] | None = None,
    ) -> None:
        self.array = array
        self.shape: tuple[int, ...] = array.shape if shape is None else shape
        self.dtype = dtype_of(array) if dtype is None else dtype
        self.layout = layout
        self.kernels = kernels

    @property
    def device(self) -> str:
        return self.kernels.device

    def reshape(self, shape: tuple[int, ...] | int) -> Storage:
        """The same memory in another shape."""
        return Storage(self.array.reshape(shape), self.dtype, self.layout, self.kernels)

    def at(self, index: int | slice) -> Storage:
        """Part `index` along the first axis, or some parts, in the same memory."""
        return Storage(self.array[index], self.dtype, self.layout, self.kernels)

    def new(self, shape: tuple[int, ...], dtype: DType | None = None) -> Storage:
        """Undefined contents on the same device, of the same dtype unless another is given; float32 where this one is
        packed."""
        dtype = dtype or (self.dtype if self.layout == ROW_MAJOR else float32)
        return Storage(self.kernels.empty(shape, dtype.array), dtype, ROW_MAJOR, self.kernels)

    def new_wide(self, shape: tuple[int, ...]) -> Storage:
        """The same for what stays float32 beside bfloat16."""
        return self.new(shape, wide(self.dtype))

    def to(self, kernels: Kernels, dtype: DType | None = None) -> Storage:
        """The same numbers on another device; those of a plain float32 storage rounded, where the dtype is bfloat16."""
        array, own = self.array, self.dtype
        if dtype is bfloat16 and own is float32 and self.layout == ROW_MAJOR:
            rounded = self.kernels.empty(self.shape, bfloat16.array)
            self.kernels.to_bf16(y=rounded.reshape(-1), x=array.reshape(-1))
            array, own = rounded, bfloat16
        if self.kernels is not kernels:
            array = kernels.from_host(self.kernels.to_host(array))
        return Storage(array, own, self.layout, kernels, self.shape)

    @property
    def is_plain_bfloat16(self) -> bool:
        return self.dtype is bfloat16 and self.layout == ROW_MAJOR

    def host(self) -> Array:
        """The values in the CPU's memory: the array itself on the CPU, else a read-only copy. Plain bfloat16, which
        NumPy does not have, becomes float32."""
        array = self.kernels.to_host(self.array)
        return (array.astype(np.uint32) << 16).view(np.float32) if self.is_plain_bfloat16 else array

    def __repr__(self) -> str:
        return f"Storage(shape={self.shape}, dtype={self.dtype}, layout={self.layout}, device={self.device})"
