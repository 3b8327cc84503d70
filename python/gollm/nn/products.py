"""Everything that meets a weight matrix asks the weight how: by its dtype and layout.

A weight w (O, I) is read in products with activations, forward and backward, as a table of embeddings, and as a
language model's head. `_KERNELS` has one row a dtype and layout, and whoever calls these functions does not know which.
Packed weights are not trained. Where a gradient goes through one, and where one is the head of a loss, a plain copy of
this one weight is made for the moment. Gradients of weights are plain: what is trained is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np

from gollm.errors import DTypeError, ShapeError
from gollm.kernels import Array
from gollm.nn import dtypes
from gollm.nn.dtypes import DType
from gollm.nn.storage import PANELS, ROW_MAJOR, Storage

FLOAT32, BFLOAT16 = 0, 2  # `compute`, enum gollm_dtype of gollm.h: what the operands of products are rounded to

Destination = Storage | tuple[Storage, bool] | None  # of a gradient: overwritten, or added to where the flag is set


class _KernelNames(NamedTuple):
    """The kernels (csrc/kernels.def) that read a weight of one kind; None where there is none."""

    product: str
    embedding_forward: str | None


_PLAIN = _KernelNames("matmul_nt", "embedding_forward")
_KERNELS: dict[tuple[DType, str], _KernelNames] = {
    (dtypes.float32, ROW_MAJOR): _PLAIN,
    (dtypes.float64, ROW_MAJOR): _PLAIN,
    (dtypes.bfloat16, ROW_MAJOR): _PLAIN,
    (dtypes.float32, PANELS): _KernelNames("matmul_packed", None),
    (dtypes.bfloat16, PANELS): _KernelNames("matmul_bf16", "embedding_bf16"),
    (dtypes.float16, PANELS): _KernelNames("matmul_f16", "embedding_f16"),
    (dtypes.int8, PANELS): _KernelNames("matmul_int8", "embedding_int8"),
    (dtypes.int4, PANELS): _KernelNames("matmul_int4", "embedding_int4"),
    (dtypes.int4_min, PANELS): _KernelNames("matmul_int4_min", "embedding_int4_min"),
}


def _kernel(w: Storage, what: str) -> Callable[..., None]:
    """The kernel for a column of the table."""
    row = _KERNELS.get((w.dtype, w.layout))
    if row is None:
        raise DTypeError(f"there is no kernel for a weight of dtype {w.dtype} in layout '{w.layout}'")
    name: str | None = getattr(row, what)
    if name is None:
        raise DTypeError(f"a weight of dtype {w.dtype} has no kernel for its {what}; use the model in float32 for that")
    found: Callable[..., None] = getattr(w.kernels, name)
    return partial(found, group=group_of(w)) if w.dtype is dtypes.int8 else found


def group_of(w: Storage) -> int:
    """How many numbers of a row of a packed weight share a scale; 1 for what has no scales. A block of int8 has 64
    bytes of scales, and a code for each of them in 32 rows; other quantised dtypes have one size of groups."""
    if w.dtype is dtypes.int8:
        return int(w.array.shape[2] - 64) // 32
    return 1 if w.dtype in (dtypes.bfloat16, dtypes.float16) else 32


def output_of(x: Storage, w: Storage) -> Storage:
    """Room for x wᵀ.  x: (..., I), w: (O, I) -> (..., O)

    Raises ShapeError where they do not fit together."""
    *rows, inputs = x.shape or (None,)
    if len(w.shape) != 2 or inputs != w.shape[1]:
        raise ShapeError(f"x of shape {x.shape} does not fit w of shape {w.shape}: x's last axis must be w's last axis")
    return x.new((*rows, w.shape[0]))


def product(
    y: Storage, x: Storage, w: Storage, *, compute: int, activation: int = 0, **epilogue: Storage | None
) -> None:
    """y = activation(x wᵀ + bias) * factor + residual; `pre` receives what the activation is applied to.

    x: (..., I), w: (O, I), bias: (O), y and the rest of the epilogue: (..., O)"""
    operands = {"compute": compute} if w.layout == ROW_MAJOR else {}  # a packed weight's dtype decides it
    _kernel(w, "product")(c=y, a=x, b=w, activation=activation, **operands, **epilogue)


def input_gradient(
    dx: Destination, dy: Storage, w: Storage, *, compute: int, activation: int = 0, **epilogue: Storage
) -> None:
    """dx = dy w, through the activation before it where `pre` is given (csrc/matmul.c).  dy: (..., O) -> (..., I)"""
    dy.kernels.matmul_nn(c=dx, a=dy, b=plain(w, dy), activation=activation, compute=compute, **epilogue)


def weight_gradient(dw: Destination, db: Destination, dy: Storage, x: Storage, *, compute: int) -> None:
    """dw = dyᵀ x, db = sum of dy's rows.  dy: (..., O), x: (..., I) -> (O, I), (O)"""
    if dw is not None or db is not None:
        dy.kernels.matmul_tn(c=dw, a=dy, b=x, a_sum=db, compute=compute)


def embedding_forward(y: Storage, w: Storage, **rest: Any) -> None:
    """y = w[tokens] + position_table[positions]: csrc/embedding.c"""
    rows = {} if w.layout == ROW_MAJOR else {"V": w.shape[0]}  # which a packed table's shape does not tell
    _kernel(w, "embedding_forward")(y=y, token_table=w, **rows, **rest)


def head_forward(w: Storage, x: Storage, **rest: Any) -> None:
    """The loss of a language model's head: csrc/head.c"""
    w.kernels.head_forward(w=plain(w, x), x=x, **rest)


def head_backward(w: Storage, x: Storage, **rest: Any) -> None:
    """The same with its gradients."""
    w.kernels.head_backward(w=plain(w, x), x=x, **rest)


def plain(w: Storage, like: Storage) -> Storage:
    """The weight in rows of the dtype of activations, as gradients need it: a packed one as a copy.  (O, I)"""
    if w.layout == ROW_MAJOR:
        return w
    rows = like.new(w.shape)
    tokens = w.kernels.from_host(_numbers(w.shape[0]))
    embedding_forward(rows, w, tokens=tokens, positions=None, position_table=None)
    return rows


@lru_cache(maxsize=64)
def _numbers(n: int) -> Array:
    """0 to n - 1, at an address that stays, for plans."""
    return np.arange(n, dtype=np.int32)
