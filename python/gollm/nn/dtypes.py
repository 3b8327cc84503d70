"""What the numbers of a storage are: one row a dtype.

NumPy has no bfloat16: its bits lie in uint16 arrays. Quantised weights have a code of a few bits for each number, and
float16 scales for each group of them in a row: gollm.quantisation says how they lie in bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gollm.errors import DTypeError
from gollm.kernels import Array


@dataclass(frozen=True, eq=False)  # each is one object
class DType:
    """name, and the NumPy dtype of the array that holds the numbers"""

    name: str
    array: np.dtype[Any]

    def __str__(self) -> str:
        return self.name


float32 = DType("float32", np.dtype(np.float32))
float64 = DType("float64", np.dtype(np.float64))
bfloat16 = DType("bfloat16", np.dtype(np.uint16))  # as its bits
float16 = DType("float16", np.dtype(np.uint16))  # as its bits, too
int8 = DType("int8", np.dtype(np.uint8))  # w = scale (code - 128)
int4 = DType("int4", np.dtype(np.uint8))  # w = scale (code - 8)
int4_min = DType("int4_min", np.dtype(np.uint8))  # w = scale code + minimum
int32 = DType("int32", np.dtype(np.int32))
int64 = DType("int64", np.dtype(np.int64))

_PLAIN = {dtype.array: dtype for dtype in (float32, float64, int32, int64)}


def wide(dtype: DType) -> DType:
    """What keeps its precision beside activations of a dtype: statistics of rows, losses, moments."""
    return float32 if dtype is bfloat16 else dtype


def dtype_of(array: Array) -> DType:
    """The dtype of an array that holds the numbers themselves. Raises DTypeError for one that storages do not have."""
    found = _PLAIN.get(array.dtype)
    if found is None:
        raise DTypeError(f"dtype {array.dtype} is not supported; use {', '.join(map(str, _PLAIN.values()))}")
    return found
