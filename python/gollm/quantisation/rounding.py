"""From float32 to codes and scales, and back.

int8       of several scales, those that make the largest number of a group the code 127, 126 ... 111, and
int4       of those that make it about -8 or 7, the one whose rounded numbers are nearest to w (least squares)
int4_min   codes 0 ... 15 from the smallest number of a group to the largest
bf16, fp16  to the nearest, ties to even
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gollm.errors import ConfigError
from gollm.kernels import Array, cpu
from gollm.nn import dtypes
from gollm.nn.dtypes import DType
from gollm.nn.parameters import Parameter
from gollm.nn.storage import PANELS, ROW_MAJOR, Storage
from gollm.quantisation.panels import (
    GROUPS,
    HALVES,
    PANEL,
    Codes,
    pack,
    pack_halves,
    packed_shape,
    unpack,
    unpack_halves,
)

DTYPES = {dtype.name: dtype for dtype in GROUPS} | {"bf16": dtypes.bfloat16, "fp16": dtypes.float16}
_ROWS = 1 << 21  # numbers that are rounded at a time, in whole rows
_HALVES_ROWS = 1 << 18  # to 16 bits: what fits into a cache


def checked_group(dtype: DType, group: int | None) -> int:
    """The dtype's usual size of groups unless another is given. Raises ConfigError for one that it does not have."""
    allowed = GROUPS.get(dtype, (1,))
    if group is not None and group not in allowed:
        raise ConfigError(f"the group is {group}; for {dtype} it must be {' or '.join(map(str, allowed))}")
    return allowed[0] if group is None else group


def quantise(w: Array, dtype: DType, group: int | None = None) -> Storage:
    """w (N, K) float32 as a packed weight. Raises ConfigError for a group that the dtype does not have, and for numbers
    beyond float16's largest, 65504, or not finite where the dtype has scales; bfloat16 holds all."""
    group = checked_group(dtype, group)
    N, K = w.shape
    if dtype in HALVES:
        packed = np.empty(packed_shape(dtype, (N, K), 1), np.uint16)
        step = max(PANEL, _HALVES_ROWS // max(1, K) // PANEL * PANEL)
        for begin in range(0, N, step):
            panels = pack_halves(_halves(w[begin : begin + step], dtype), dtype).array
            packed[begin // PANEL :][: len(panels)] = panels
        return Storage(packed, dtype, PANELS, shape=(N, K))
    groups = -(-K // group)
    codes = np.empty((N, K), np.uint8)
    scales = np.empty((N, groups), "<f2")
    minimums = np.empty((N, groups), "<f2") if dtype is dtypes.int4_min else None
    step = max(1, _ROWS // max(1, K))
    for begin in range(0, N, step):
        part = slice(begin, min(N, begin + step))
        x = np.zeros((part.stop - begin, groups * group), np.float32)
        x[:, :K] = w[part]
        x = x.reshape(-1, groups, group)
        if not (np.abs(x) <= np.float32(65504)).all():
            raise ConfigError(
                f"a weight is not finite, or beyond 65504; {dtype} has scales in float16, whose largest number that is"
            )
        if dtype is dtypes.int8:
            q, scale = _int8(x)
        elif dtype is dtypes.int4:
            q, scale = _int4(x)
        else:
            q, scale, low = _int4_min(x)
            assert minimums is not None
            minimums[part] = low[..., 0]
        scales[part] = scale[..., 0]
        codes[part] = q.reshape(part.stop - begin, -1)[:, :K]
    return pack(Codes(dtype, group, codes, scales, minimums))


def plain_values(parameter: Parameter) -> Array:
    """A parameter's values as an ndarray of the CPU, dequantised where they are packed."""
    plain = parameter.storage.layout == ROW_MAJOR
    return parameter.data if plain else dequantise(parameter.storage.to(cpu))


def dequantise(weight: Storage) -> Array:
    """The numbers that a packed weight stands for, (N, K) float32: the codes' products with their scales."""
    if weight.dtype in HALVES:
        return _widened(unpack_halves(weight), weight.dtype)
    found = unpack(weight)
    group = found.group
    scales = np.repeat(found.scales.astype(np.float32), group, axis=1)[:, : weight.shape[1]]
    numbers: Array
    if found.minimums is None:
        numbers = (found.codes.astype(np.float32) - np.float32(128 if weight.dtype is dtypes.int8 else 8)) * scales
    else:
        numbers = found.codes * scales
        numbers += np.repeat(found.minimums.astype(np.float32), group, axis=1)[:, : weight.shape[1]]
    return numbers


def _halves(w: Array, dtype: DType) -> Array:
    """The bits of w (N, K) as bfloat16 or float16."""
    if dtype is dtypes.float16:
        with np.errstate(over="ignore"):
            narrow = w.astype("<f2")
        if not np.array_equal(np.isinf(narrow), np.isinf(w)):
            raise ConfigError("a weight is beyond 65504, the largest number of float16; bf16 holds it")
        return narrow.view(np.uint16)
    bits = np.empty(w.shape, np.uint16)
    cpu.to_bf16(y=bits.reshape(-1), x=np.ascontiguousarray(w).reshape(-1))
    return bits


def _widened(bits: Array, dtype: DType) -> Array:
    if dtype is dtypes.float16:
        return bits.view(np.float16).astype(np.float32)
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _half(scale: Array) -> Array:
    """Rounded to float16, as float32: what the codes will be multiplied by."""
    return scale.astype("<f2").astype(np.float32)


def _divided(x: Array, scale: Array) -> Array:
    """x / scale; 0 where the scale is 0."""
    return np.divide(x, scale, out=np.zeros_like(x), where=scale != 0)


def _int8(x: Array) -> tuple[Array, Array]:
    extreme = np.abs(x).max(-1, keepdims=True)
    q, scale = _nearest(x, extreme, _INT8_DIVISORS, -127, 127)
    return (q + 128).astype(np.uint8), scale


def _int4(x: Array) -> tuple[Array, Array]:
    extreme = np.take_along_axis(x, np.abs(x).argmax(-1)[..., None], axis=-1)
    q, scale = _nearest(x, extreme, _INT4_DIVISORS, -8, 7)
    return (q + 8).astype(np.uint8), scale


def _nearest(x: Array, extreme: Array, divisors: Sequence[float], lowest: int, highest: int) -> tuple[Array, Array]:
    """Codes and scales with the least squares, of the codes that the scales extreme / divisor give.

    The best scale for codes q is s = (x q) / (q q), sums over a group; it leaves the error x x - s (x q)."""

    def codes(scale: Array) -> tuple[Array, Array, Array]:
        q = x * _divided(np.ones_like(scale), scale)
        np.clip(np.rint(q, out=q), lowest, highest, out=q)
        xq, qq = (np.einsum("ngk,ngk->ng", one, q)[..., None] for one in (x, q))
        return q, xq, _divided(xq, qq)

    most, best = np.full(extreme.shape, -1, np.float32), np.zeros_like(extreme)
    for divisor in divisors:
        scale = _half(extreme / np.float32(divisor))
        _, xq, s = codes(scale)
        better = s * xq > most
        most, best = np.where(better, s * xq, most), np.where(better, scale, best)
    q, _, s = codes(best)
    return q, _half(s)


# What the number of a group with the largest magnitude is divided by
_INT8_DIVISORS = tuple(range(127, 110, -1))
_INT4_DIVISORS = (-8.5, -8.0, -7.5, -7.0, -6.5, 7.5, 7.0)


def _int4_min(x: Array) -> tuple[Array, Array, Array]:
    low = _half(x.min(-1, keepdims=True))
    scale = _half((x.max(-1, keepdims=True) - low) / np.float32(15))
    return np.clip(np.rint(_divided(x - low, scale)), 0, 15).astype(np.uint8), scale, low
