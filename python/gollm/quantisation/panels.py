"""The layout of a packed weight w (N, K), which is the same in memory, in files, and for all kernels.

bfloat16 and float16 are their bits, [panel of 32 rows][K][32 rows]. A quantised weight is one array of bytes, (panels,
groups, block): 32 rows of w are a panel, and `group` numbers of a row share a scale. A block has what the 32 rows have
in one group, the scales before the codes, so that a product reads one stream:

    int8       32 float16 scales | [group / 4][32 rows][4 numbers], a byte each
    int4       32 float16 scales | [group / 8][32 rows][4 bytes]: of 8 numbers, i in a low half, i + 4 in its high one
    int4_min   32 float16 scales | 32 float16 minimums | as int4

Rows past N have the scale 0; numbers past K have the code of zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gollm.kernels import Array
from gollm.nn import dtypes
from gollm.nn.dtypes import DType
from gollm.nn.products import group_of
from gollm.nn.storage import PANELS, Storage

PANEL = 32  # rows
GROUPS = {dtypes.int8: (32, 64, 128), dtypes.int4: (32,), dtypes.int4_min: (32,)}  # the first is the usual one
HALVES = (dtypes.bfloat16, dtypes.float16)  # their group is 1
_ZERO = {dtypes.int8: 128, dtypes.int4: 8, dtypes.int4_min: 0}  # the code that stands for 0, or for the minimum


@dataclass(frozen=True)
class Codes:
    """A quantised weight, number by number. codes: (N, K) uint8; scales, minimums: (N, groups of a row) float16"""

    dtype: DType
    group: int
    codes: Array
    scales: Array
    minimums: Array | None = None

    def rows(self, which: slice | Array) -> Codes:
        """Some of the rows, in this order."""
        minimums = None if self.minimums is None else self.minimums[which]
        return Codes(self.dtype, self.group, self.codes[which], self.scales[which], minimums)


def joined(parts: Sequence[Codes]) -> Codes:
    """The rows of several weights of one kind, one below the other."""
    first = parts[0]
    minimums = [part.minimums for part in parts if part.minimums is not None]
    return Codes(
        first.dtype,
        first.group,
        np.concatenate([part.codes for part in parts]),
        np.concatenate([part.scales for part in parts]),
        np.concatenate(minimums) if minimums else None,
    )


def packed_shape(dtype: DType, shape: tuple[int, ...], group: int) -> tuple[int, int, int]:
    """Of the array of a weight (N, K)."""
    N, K = shape
    if dtype in HALVES:
        return -(-N // PANEL), K, PANEL
    scales = 2 if dtype is dtypes.int4_min else 1
    codes = PANEL * group if dtype is dtypes.int8 else PANEL * group // 2
    return -(-N // PANEL), -(-K // group), scales * 2 * PANEL + codes


def pack(weight: Codes) -> Storage:
    """Codes and scales as kernels read them."""
    dtype, (N, K), group = weight.dtype, weight.codes.shape, weight.group
    panels, groups, block = packed_shape(dtype, (N, K), group)
    codes = weight.codes
    if codes.shape != (panels * PANEL, groups * group):
        codes = np.full((panels * PANEL, groups * group), _ZERO[dtype], np.uint8)
        codes[:N, :K] = weight.codes
    fours: Array = np.ascontiguousarray(codes).view(np.uint32)  # bytes at a time
    if dtype is not dtypes.int8:
        fours = fours.reshape(-1, 2)
        fours = fours[:, 0] | fours[:, 1] << 4
    # (panels, rows, groups, fours) -> (panels, groups, fours, rows)
    fours = fours.reshape(panels, PANEL, groups, -1)
    packed = np.empty((panels, groups, block), np.uint8)
    at = 0
    for values in (weight.scales, weight.minimums):
        if values is not None:
            padded = np.zeros((panels * PANEL, groups), "<f2")
            padded[:N] = values
            part = padded.reshape(panels, PANEL, groups).transpose(0, 2, 1)
            packed[:, :, at : at + 2 * PANEL] = np.ascontiguousarray(part).view(np.uint8)
            at += 2 * PANEL
    packed[:, :, at:].view(np.uint32).reshape(panels, groups, -1, PANEL)[...] = fours.transpose(0, 2, 3, 1)
    return Storage(packed, dtype, PANELS, shape=(N, K))


def unpack(weight: Storage) -> Codes:
    """The other way round."""
    dtype, (N, K), packed = weight.dtype, weight.shape, weight.array
    panels, groups, _ = packed.shape
    head = 2 * PANEL * (2 if dtype is dtypes.int4_min else 1)
    fours = np.ascontiguousarray(packed[:, :, head:]).view(np.uint32).reshape(panels, groups, -1, PANEL)
    codes = np.ascontiguousarray(fours.transpose(0, 3, 1, 2)).view(np.uint8)
    if dtype is not dtypes.int8:
        fours_of_bytes = codes.reshape(-1, 1, 4)
        codes = np.concatenate([fours_of_bytes & 15, fours_of_bytes >> 4], axis=1)

    def half(at: int) -> Array:
        part = np.ascontiguousarray(packed[:, :, at : at + 2 * PANEL]).view("<f2")
        return np.ascontiguousarray(part.transpose(0, 2, 1)).reshape(panels * PANEL, groups)[:N]

    codes = codes.reshape(panels * PANEL, -1)
    return Codes(dtype, group_of(weight), codes[:N, :K], half(0), half(2 * PANEL) if dtype is dtypes.int4_min else None)


def pack_halves(bits: Array, dtype: DType) -> Storage:
    """Numbers of 2 bytes, (N, K) uint16, as kernels read them."""
    panels, K, _ = packed_shape(dtype, bits.shape, 1)
    padded = np.zeros((panels * PANEL, K), np.uint16)
    padded[: len(bits)] = bits
    packed = np.ascontiguousarray(padded.reshape(panels, PANEL, K).transpose(0, 2, 1))
    return Storage(packed, dtype, PANELS, shape=bits.shape)


def unpack_halves(weight: Storage) -> Array:
    """The other way round."""
    panels, K, _ = weight.array.shape
    rows = np.ascontiguousarray(weight.array.transpose(0, 2, 1)).reshape(panels * PANEL, K)
    return rows[: weight.shape[0]]
