"""The number formats of GGUF files: what the bytes of a block stand for, and how numbers become blocks.

A row of a matrix is a run of blocks. K is the elements of a block; a nibble is half a byte, d a float16 scale.

    F32, F16, BF16   one number
    Q8_0   32   d, then 32 int8                                         d q
    Q4_0   32   d, then 16 bytes                                        d (q - 8)
    Q4_1   32   d, m, then 16 bytes                                     d q + m
    Q5_0   32   d, then 32 fifth bits, then 16 bytes                    d (q - 16)
    Q5_1   32   d, m, then 32 fifth bits, then 16 bytes                 d q + m
    Q4_K  256   d, e, 12 bytes of 6-bit scales and minima, 128 bytes    d s q - e m, with s and m for each 32
    Q5_K  256   the same, with 32 bytes of fifth bits before the last   d s q - e m
    Q6_K  256   128 bytes, 64 bytes of bits 5 and 6, 16 int8 s, d       d s (q - 32), with s for each 16

In the types of 32 the low nibbles are the first half of a block, the high ones the second. The order of operations is
ggml's (ggml-quants.c in github.com/ggml-org/ggml), so that the results are its bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from gollm.errors import FormatError
from gollm.formats.encodings import BFloat16, Encoding, Float16, Float32, read_into
from gollm.kernels import Array
from gollm.nn import dtypes
from gollm.nn.dtypes import DType
from gollm.quantisation import Codes

# Numbers that are converted at a time: a multiple of every K. Intermediate results of 128 KB at most come from memory
# that the process has, not from the system, page by page, which takes four times as long.
CHUNK = 1 << 15

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Blocks:
    """Blocks of K numbers in n bytes, as gollm.formats.encodings.Encoding wants to have them.

    `decode` turns blocks (m, n) uint8 into numbers (m, K) float32; `encode`, where gollm writes the type, goes the
    other way, and raises FormatError for a number that it cannot hold."""

    K: int
    n: int
    decode: Callable[[Bytes], Array]
    encode: Callable[[Array], Bytes] | None = None

    def n_bytes(self, n: int) -> int:
        return n // self.K * self.n

    def read(self, file: BinaryIO, out: Array) -> None:
        for start in range(0, out.size, CHUNK):
            part = out[start : start + CHUNK]
            blocks = np.empty((part.size // self.K, self.n), np.uint8)
            read_into(file, blocks.reshape(-1))
            with np.errstate(invalid="ignore"):  # a scale may be infinite
                part.reshape(-1, self.K)[:] = self.decode(blocks)

    def write(self, file: BinaryIO, values: Array) -> None:
        assert self.encode is not None
        for start in range(0, values.size, CHUNK):
            file.write(self.encode(values[start : start + CHUNK].reshape(-1, self.K)).data)


@dataclass(frozen=True)
class BlockType:
    number: int  # ggml's
    name: str
    K: int
    encoding: Encoding


def _field(blocks: Bytes, start: int, stop: int, dtype: npt.DTypeLike = np.uint8) -> npt.NDArray[Any]:
    """Bytes start to stop of every block, as numbers of another type."""
    return np.ascontiguousarray(blocks[:, start:stop]).view(dtype)


def _scale(blocks: Bytes, start: int) -> Array:
    """The float16 at `start` of every block.  (n, 1) float32"""
    return _field(blocks, start, start + 2, "<f2").astype(np.float32)


def _nibbles(packed: Bytes) -> Bytes:
    """The low halves of bytes (n, m), then the high ones.  (n, 2 m)"""
    n, m = packed.shape
    halves = np.empty((n, 2 * m), np.uint8)
    np.bitwise_and(packed, 15, out=halves[:, :m])
    np.right_shift(packed, 4, out=halves[:, m:])
    return halves


def _fifth_bits(blocks: Bytes, start: int) -> Bytes:
    """Bits of four bytes, lowest first, each with the weight 16.  (n, 32)"""
    bits: Bytes = np.unpackbits(blocks[:, start : start + 4], axis=1, bitorder="little") * np.uint8(16)
    return bits


def _q8_0(blocks: Bytes) -> Array:
    return _field(blocks, 2, 34, np.int8) * _scale(blocks, 0)


def _q4_0(blocks: Bytes) -> Array:
    values: Array = (_nibbles(blocks[:, 2:]).view(np.int8) - np.int8(8)) * _scale(blocks, 0)
    return values


def _q4_1(blocks: Bytes) -> Array:
    return _nibbles(blocks[:, 4:]) * _scale(blocks, 0) + _scale(blocks, 2)


def _q5_0(blocks: Bytes) -> Array:
    q = _nibbles(blocks[:, 6:]) | _fifth_bits(blocks, 2)
    values: Array = (q.view(np.int8) - np.int8(16)) * _scale(blocks, 0)
    return values


def _q5_1(blocks: Bytes) -> Array:
    q = _nibbles(blocks[:, 8:]) | _fifth_bits(blocks, 4)
    return q * _scale(blocks, 0) + _scale(blocks, 2)


def _k_scales(blocks: Bytes) -> tuple[Array, Array]:
    """d s and e m of the eight parts of Q4_K and Q5_K.  2 x (n, 8, 1)

    Of the 12 bytes b, the first four scales and minima are the low six bits of b[0:4] and b[4:8]; the others have
    their low four bits in the halves of b[8:12], and the two above in the high bits of b[0:4] and b[4:8]."""
    b = blocks[:, 4:16]
    s = np.concatenate([b[:, :4] & 63, b[:, 8:] & 15 | b[:, :4] >> 6 << 4], axis=1)
    m = np.concatenate([b[:, 4:8] & 63, b[:, 8:] >> 4 | b[:, 4:8] >> 6 << 4], axis=1)
    return (_scale(blocks, 0) * s)[..., None], (_scale(blocks, 2) * m)[..., None]


def _k_nibbles(packed: Bytes) -> Bytes:
    """128 bytes: of 32 at a time the low halves, then the high ones.  (n, 8, 32)"""
    packed = packed.reshape(-1, 4, 1, 32)
    return np.concatenate([packed & 15, packed >> 4], axis=2).reshape(-1, 8, 32)


def _q4_k(blocks: Bytes) -> Array:
    s, m = _k_scales(blocks)
    return (s * _k_nibbles(blocks[:, 16:]) - m).reshape(-1, 256)


def _q5_k(blocks: Bytes) -> Array:
    s, m = _k_scales(blocks)
    high = blocks[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None] & 1
    values: Array = s * (_k_nibbles(blocks[:, 48:]) | high << 4) - m
    return values.reshape(-1, 256)


def _q6_k(blocks: Bytes) -> Array:
    """Of each half of 128 numbers: the low nibbles of 64 bytes, then the high ones; two more bits for 32 at a time."""
    low = blocks[:, :128].reshape(-1, 2, 1, 64)
    low = np.concatenate([low & 15, low >> 4], axis=2)
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3
    q = low.reshape(-1, 16, 16) | (high << 4).reshape(-1, 16, 16)
    s = _field(blocks, 192, 208, np.int8).astype(np.float32) * _scale(blocks, 208)
    values: Array = (s[..., None] * (q.view(np.int8) - np.int8(32))).reshape(-1, 256)
    return values


@dataclass(frozen=True)
class Quantised:
    """A type of 32 numbers whose blocks are codes with a scale, as one of gollm's dtypes has them."""

    dtype: DType
    n: int  # bytes of a block

    def codes(self, blocks: Bytes, K: int) -> Codes:
        """The rows of K numbers that blocks (m, n) hold."""
        scales = _field(blocks, 0, 2, "<f2").reshape(-1, K // 32)
        if self.dtype is dtypes.int8:
            return Codes(self.dtype, 32, (blocks[:, 2:] ^ 128).reshape(-1, K), scales)
        minimums = _field(blocks, 2, 4, "<f2").reshape(-1, K // 32) if self.dtype is dtypes.int4_min else None
        return Codes(self.dtype, 32, _nibbles(blocks[:, self.n - 16 :]).reshape(-1, K), scales, minimums)

    def blocks(self, weight: Codes) -> Bytes:
        """The other way round."""
        parts = [weight.scales, *([] if weight.minimums is None else [weight.minimums])]
        heads = [np.ascontiguousarray(part, "<f2").reshape(-1, 1).view(np.uint8) for part in parts]
        codes = weight.codes.reshape(-1, 32)
        body = codes ^ 128 if self.dtype is dtypes.int8 else codes[:, :16] | codes[:, 16:] << 4
        return np.concatenate([*heads, body], axis=1)


# By ggml's number: Q4_0, Q4_1, Q8_0.
QUANTISED = {2: Quantised(dtypes.int4, 18), 3: Quantised(dtypes.int4_min, 20), 8: Quantised(dtypes.int8, 34)}


def _half_scale(d: Array, name: str) -> Bytes:
    """Scales (n, 1) as float16 in bytes; refuses what has none."""
    with np.errstate(over="ignore"):
        half = d.astype("<f2")
    if not np.isfinite(half).all():
        raise FormatError(f"a weight is not finite, or too large for {name}: use f32 or bf16")
    return half.view(np.uint8)


def _inverse(d: Array) -> Array:
    """1 / d; 0 where that is no number: the float16 of such a d is zero."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse: Array = np.float32(1) / d
    inverse[~np.isfinite(inverse)] = 0
    return inverse


def _to_q8_0(x: Array) -> Bytes:
    """d = max |x| / 127; q is x / d, rounded with halves away from zero."""
    d = np.abs(x).max(1, keepdims=True) / np.float32(127)
    scale = _half_scale(d, "Q8_0")
    q = x * _inverse(d)
    whole = np.floor(np.abs(q))
    whole += np.abs(q) - whole >= 0.5  # not trunc(q + 0.5): the sum rounds, and 0.49999997 would become 1
    return np.concatenate([scale, np.copysign(whole, q).astype(np.int8).view(np.uint8)], axis=1)


def _to_q4_0(x: Array) -> Bytes:
    """d is such that the number with the largest magnitude, the first of equals, becomes -8."""
    extreme = np.take_along_axis(x, np.abs(x).argmax(1)[:, None], axis=1)
    d = extreme / np.float32(-8)
    scale = _half_scale(d, "Q4_0")
    q = np.minimum(np.trunc(x * _inverse(d) + np.float32(8.5)), np.float32(15)).astype(np.uint8)
    return np.concatenate([scale, q[:, :16] | q[:, 16:] << 4], axis=1)


_BLOCKS = {
    (2, "Q4_0"): Blocks(32, 18, _q4_0, _to_q4_0),
    (3, "Q4_1"): Blocks(32, 20, _q4_1),
    (6, "Q5_0"): Blocks(32, 22, _q5_0),
    (7, "Q5_1"): Blocks(32, 24, _q5_1),
    (8, "Q8_0"): Blocks(32, 34, _q8_0, _to_q8_0),
    (12, "Q4_K"): Blocks(256, 144, _q4_k),
    (13, "Q5_K"): Blocks(256, 176, _q5_k),
    (14, "Q6_K"): Blocks(256, 210, _q6_k),
}
F32 = BlockType(0, "F32", 1, Float32())
F16 = BlockType(1, "F16", 1, Float16())
BF16 = BlockType(30, "BF16", 1, BFloat16())
TYPES = {kind.number: kind for kind in (F32, F16, BF16)} | {
    number: BlockType(number, name, blocks.K, blocks) for (number, name), blocks in _BLOCKS.items()
}
Q4_0, Q8_0 = TYPES[2], TYPES[8]

# What else ggml knows or has known, so that a message can name it.
OTHERS = {
    4: "Q4_2", 5: "Q4_3", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS",
    19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64",
    28: "F64", 29: "IQ1_M", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8", 34: "TQ1_0", 35: "TQ2_0",
    36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8", 39: "MXFP4", 40: "NVFP4", 41: "Q1_0", 42: "Q2_0",
}  # fmt: skip
