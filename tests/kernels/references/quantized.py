"""csrc/matmul_quantized.c, csrc/embedding_quantized.c

A quantised weight of N outputs and K inputs is [panel of 32 outputs][group of inputs][block] (csrc/quantized.h). Its
bytes are drawn at random, those of outputs past N and inputs past K too, which nothing may depend on.

The references quantise activations as the kernels do. Where an activation lies just between two codes, the rounding of
a product in front of it would decide; so activations are drawn at most 0.3 of a code away from the nearest one, and
ties have a test of their own (test_quantized.py).
"""

import numpy as np

from kernels.harness import kernel
from kernels.references import activation as activations
from kernels.references.activation import KINDS
from kernels.references.bf16 import bits_of, float_of
from kernels.references.embedding import IDS

HALVES = {"int8": 1, "int4": 1, "int4_min": 2}  # scales, and minimums
STEPS = {"int8": 32767, "int4": 127, "int4_min": 127}  # the largest code of an activation


def block_bytes(kind, group):
    return HALVES[kind] * 64 + 32 * group // (1 if kind == "int8" else 2)


def random_weight(kind, rng, N, K, group):
    """-> packed bytes; the weights are of order 1/sqrt(K), their scales of both signs"""
    blocks = (N + 31) // 32, (K + group - 1) // group
    packed = rng.integers(0, 256, (*blocks, block_bytes(kind, group)), dtype=np.uint8)
    halves = rng.standard_normal((*blocks, HALVES[kind] * 32)) / np.sqrt(max(K, 1))
    halves[..., :32] /= 74 if kind == "int8" else 4.6  # the deviation of a code
    packed[..., : HALVES[kind] * 64] = halves.astype(np.float16).view(np.uint8).reshape(*blocks, HALVES[kind] * 64)
    return packed


def unpack(kind, packed, group):
    """-> codes (outputs, groups, group), scales (outputs, groups), minimums (outputs, groups)"""
    panels, groups, _ = packed.shape
    n = HALVES[kind]
    halves = np.ascontiguousarray(packed[..., : n * 64]).view(np.float16).astype(np.float64)
    halves = halves.reshape(panels, groups, n, 32).transpose(2, 0, 3, 1).reshape(n, panels * 32, groups)
    codes = packed[..., n * 64 :].astype(np.int64)
    if kind == "int8":
        codes = codes.reshape(panels, groups, group // 4, 32, 4) - 128
    else:
        codes = codes.reshape(panels, groups, group // 8, 32, 4)
        codes = np.stack([codes & 15, codes >> 4], axis=3).reshape(panels, groups, group // 4, 32, 4)
        codes -= 8 if kind == "int4" else 0
    codes = codes.transpose(0, 3, 1, 2, 4).reshape(panels * 32, groups, group)
    return codes, halves[0], halves[1] if kind == "int4_min" else np.zeros_like(halves[0])


def random_activations(kind, rng, M, K, group):
    """(M, K), in groups, each with a scale of its own: near whole multiples of it, the first one the largest.
    Rounded to bfloat16, they are not between two codes either: 0 in place of those that would be."""
    groups, steps = (K + group - 1) // group, STEPS[kind]
    codes = rng.integers(1 - steps, steps, (M, groups, group)) + rng.uniform(-0.3, 0.3, (M, groups, group))
    codes[:, :, 0] = rng.choice([-steps, steps], (M, groups))
    scales = np.exp(rng.standard_normal((M, groups, 1))) / (0.58 * steps)  # the deviation of a code
    values = codes * scales
    narrow = float_of(bits_of(values))
    between = np.abs(narrow * (steps / np.abs(narrow[:, :, :1])) % 1 - 0.5) < 0.05
    return np.where(between, 0, values).reshape(M, groups * group)[:, :K]


def quantize(kind, a, group):
    """(M, K)  ->  codes (M, groups, group), scales (M, groups)"""
    M, K = a.shape
    x = np.pad(a, [(0, 0), (0, -K % group)]).reshape(M, (K + group - 1) // group, group)
    largest = np.abs(x).max(-1, initial=0)
    inverse = STEPS[kind] / np.where(largest > 0, largest, 1)
    finite = np.isfinite(largest)
    codes = np.rint(np.where(finite[..., None], x * inverse[..., None], 0))
    return codes, np.where(finite, largest / STEPS[kind], np.nan)


def product(kind, a, b, bias, factor, residual, activation, N, group):
    q, scales = quantize(kind, a, group)
    codes, weight_scales, minimums = unpack(kind, b, group)
    c = np.zeros((len(a), N))
    for g in range(b.shape[1]):
        c += (q[:, g] @ codes[:N, g].T) * np.outer(scales[:, g], weight_scales[:N, g])
        c += np.outer(scales[:, g] * q[:, g].sum(-1), minimums[:N, g])
    pre = c + (0 if bias is None else bias)
    c = activations.activation(activation, pre) * (1 if factor is None else factor)
    return {"c": c + (0 if residual is None else residual), "pre": pre}


# M, N, K: around tiles of 1, 2, 4, 6 or 8 rows (16 with AMX, from 25 rows on) and 8, 16 or 32 outputs, and groups that
# end early
SHAPES = [(1, 1, 1), (2, 3, 1), (3, 2, 33), (5, 70, 257), (1, 100, 512), (13, 33, 300), (8, 32, 128), (17, 97, 96)]
SHAPES += [(25, 65, 1), (32, 33, 128), (35, 97, 290)]


def cases(groups):
    some = [(*shape, KINDS["none"]) for shape in SHAPES] + [(7, 19, 150, kind) for kind in KINDS.values()]
    sizes = [dict(zip(("M", "N", "K", "activation"), case, strict=True)) for case in some]
    return [case | group for case in sizes for group in groups]


GROUPS = [{"group": group} for group in (32, 64, 128)]


def inputs(kind, group=None):
    return {
        "a": lambda rng, s: random_activations(kind, rng, s.M, s.K, group or s.group),
        "b": lambda rng, s: random_weight(kind, rng, s.N, s.K, group or s.group),
    }


@kernel("matmul_int8", shapes=cases(GROUPS), inputs=inputs("int8"))
def matmul_int8(a, b, bias, factor, residual, activation, N, group):
    return product("int8", a, b, bias, factor, residual, activation, N, group)


@kernel("matmul_int4", shapes=cases([{}]), inputs=inputs("int4", 32))
def matmul_int4(a, b, bias, factor, residual, activation, N):
    return product("int4", a, b, bias, factor, residual, activation, N, 32)


@kernel("matmul_int4_min", shapes=cases([{}]), inputs=inputs("int4_min", 32))
def matmul_int4_min(a, b, bias, factor, residual, activation, N):
    return product("int4_min", a, b, bias, factor, residual, activation, N, 32)


def rows(kind, tokens, token_table, positions, position_table, C, group):
    codes, scales, minimums = unpack(kind, token_table, group)
    weights = codes * scales[..., None] + minimums[..., None]
    y = weights.reshape(len(weights), codes.shape[1] * group)[tokens, :C]
    return {"y": y + (0 if position_table is None else position_table[positions])}


TABLES = [
    dict(zip(("N", "C", "V", "T"), sizes, strict=True))
    for sizes in [
        (1, 1, 1, 1),
        (2, 3, 1, 2),
        (7, 33, 33, 4),
        (16, 65, 50, 16),
        (129, 100, 70, 64),
        (40, 300, 1001, 257),
    ]
]


def tables(kind, group=None):
    return IDS | {"token_table": lambda rng, s: random_weight(kind, rng, s.V, s.C, group or s.group)}


def embedding(kind, shapes, group=None):
    return kernel(
        f"embedding_{kind}",
        shapes=shapes,
        inputs=tables(kind, group),
        empty=["N", "C"],
        together=[{"positions", "position_table"}],
    )


@embedding("int8", [case | group for case in TABLES for group in GROUPS])
def embedding_int8(tokens, token_table, positions, position_table, C, group):
    return rows("int8", tokens, token_table, positions, position_table, C, group)


@embedding("int4", TABLES, 32)
def embedding_int4(tokens, token_table, positions, position_table, C):
    return rows("int4", tokens, token_table, positions, position_table, C, 32)


@embedding("int4_min", TABLES, 32)
def embedding_int4_min(tokens, token_table, positions, position_table, C):
    return rows("int4_min", tokens, token_table, positions, position_table, C, 32)
