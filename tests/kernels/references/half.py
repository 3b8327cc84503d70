"""csrc/matmul_half.c, csrc/embedding_half.c"""

import numpy as np

from kernels.harness import kernel
from kernels.references.bf16 import bits_of, float_of
from kernels.references.embedding import IDS
from kernels.references.matmul import CASES, matmul_nt, packed, weight


def bits(kind, x):
    return bits_of(x) if kind == "bf16" else x.astype(np.float16).view(np.uint16)


def values(kind, x):
    return float_of(x) if kind == "bf16" else np.ascontiguousarray(x).view(np.float16).astype(np.float64)


def unpack(panels, N):
    """[panel of 32 rows][K][32] -> (N, K)"""
    return panels.swapaxes(1, 2).reshape(panels.shape[0] * 32, panels.shape[1])[:N]


def product(kind):
    return kernel(
        f"matmul_{kind}",
        shapes=CASES,
        inputs={"b": lambda rng, s: bits(kind, packed(weight(rng, s).reshape(s.N, s.K)))},
        summands=lambda s: s.K,
    )


@product("bf16")
def matmul_bf16(a, b, bias, factor, residual, activation, N):
    return matmul_nt(a, values("bf16", unpack(b, N)), bias, factor, residual, activation)


@product("f16")
def matmul_f16(a, b, bias, factor, residual, activation, N):
    return matmul_nt(a, values("f16", unpack(b, N)), bias, factor, residual, activation)


TABLES = [
    dict(zip(("N", "C", "V", "T"), sizes, strict=True))
    for sizes in [(1, 1, 1, 1), (2, 3, 1, 2), (7, 33, 33, 4), (16, 65, 50, 16), (40, 300, 1001, 257)]
]


def embedding(kind):
    return kernel(
        f"embedding_{kind}",
        shapes=TABLES,
        inputs=IDS | {"token_table": lambda rng, s: bits(kind, packed(rng.standard_normal((s.V, s.C))))},
        empty=["N", "C"],
        together=[{"positions", "position_table"}],
    )


def rows(kind, tokens, token_table, positions, position_table, V):
    y = values(kind, unpack(token_table, V))[tokens]
    return {"y": y + (0 if position_table is None else position_table[positions])}


@embedding("bf16")
def embedding_bf16(tokens, token_table, positions, position_table, V):
    return rows("bf16", tokens, token_table, positions, position_table, V)


@embedding("f16")
def embedding_f16(tokens, token_table, positions, position_table, V):
    return rows("f16", tokens, token_table, positions, position_table, V)
