"""csrc/matmul.c"""

import numpy as np

from kernels.harness import kernel
from kernels.references import activation as activations
from kernels.references.activation import KINDS
from kernels.references.bf16 import bits_of, float_of

FLOAT32, BFLOAT16 = 0, 2  # enum gollm_dtype of gollm.h

# M, N, K around the tiles (6, 8 or 12 rows, 4 to 32 columns), the blocks of k (256) and of c (384, 512)
SMALL = [(1, 1, 1), (2, 3, 1), (3, 2, 5), (7, 13, 11), (5, 70, 257), (13, 33, 512), (61, 31, 300)]
LARGE = [(1, 1100, 3), (97, 64, 768), (401, 530, 70), (7, 521, 259), (5, 35, 1304)]
ALIGNED = [(8, 16, 24), (264, 8, 328), (56, 264, 72)]  # rows of operands at multiples of 16 bytes, as copies want them


def cases(shapes, activations, compute=FLOAT32):
    return [
        {"M": M, "N": N, "K": K, "activation": kind, "compute": compute} for M, N, K in shapes for kind in activations
    ]


CASES = (
    cases(SMALL[::2], [KINDS["gelu_tanh"]])
    + cases([(7, 19, 300)], KINDS.values())
    + cases(SMALL[1::2] + LARGE, [KINDS["none"]])
)
IN_BFLOAT16 = cases([(2, 3, 1), (13, 33, 512)], [KINDS["gelu_tanh"]], BFLOAT16)
IN_BFLOAT16 += cases([(1, 70, 257), (61, 31, 300), *LARGE, *ALIGNED], [KINDS["none"]], BFLOAT16)


def operand(rng, s, n, scale=1.0):
    """n values; with bfloat16 operands such as have nothing to round, so that the error bound is that of the sums"""
    values = scale * rng.standard_normal(n)
    return float_of(bits_of(values)) if s.compute == BFLOAT16 else values


def weight(rng, s):
    """As a layer's: the products are of order 1, not in the far tails of the activations."""
    return operand(rng, s, s.N * s.K, 1 / np.sqrt(max(s.K, 1)))


OPERANDS = {"a": lambda rng, s: operand(rng, s, s.M * s.K), "b": lambda rng, s: operand(rng, s, s.N * s.K)}


def packed(w):
    """(N, K) -> [panel of 32 rows][K][32], with rows of zeros at the end"""
    N, K = w.shape
    return np.pad(w, [(0, -N % 32), (0, 0)]).reshape((N + 31) // 32, 32, K).swapaxes(1, 2)


@kernel("pack_weight", shapes=[(N, K) for _, N, K in SMALL + LARGE])
def pack_weight(w):
    return {"packed": packed(w)}


@kernel(
    "matmul_packed",
    shapes=[{name: value for name, value in case.items() if name != "compute"} for case in CASES],
    inputs={"b": lambda rng, s: packed(rng.standard_normal((s.N, s.K)) / np.sqrt(max(s.K, 1)))},
    summands=lambda s: s.K,
)
def matmul_packed(a, b, bias, factor, residual, activation, N, K):
    return matmul_nt(a, b.swapaxes(1, 2).reshape(b.shape[0] * 32, K)[:N], bias, factor, residual, activation)


@kernel("matmul_nt", shapes=CASES + IN_BFLOAT16, inputs=OPERANDS | {"b": weight}, summands=lambda s: s.K)
def matmul_nt(a, b, bias, factor, residual, activation):
    pre = a @ b.T + (0 if bias is None else bias)
    c = activations.activation(activation, pre) * (1 if factor is None else factor)
    return {"c": c + (0 if residual is None else residual), "pre": pre}


OF_A_GATE = {"factor", "dfactor", "product"}


@kernel(
    "matmul_nn",
    shapes=CASES + IN_BFLOAT16,
    inputs=OPERANDS,
    summands=lambda s: s.K,
    nonfinite=[np.nan],
    together=[{"c", "pre"} | OF_A_GATE, {"pre"} | OF_A_GATE, OF_A_GATE],
    adds_without={"pre"} | OF_A_GATE,
)
def matmul_nn(a, b, pre, factor, activation):
    v = a @ b
    if pre is None:
        return {"c": v}
    f, times = activations.activation(activation, pre), 1 if factor is None else factor
    return {"c": v * activations.activation_gradient(activation, pre) * times, "dfactor": v * f, "product": f * times}


LONG = [(8, 16, 1112), (65, 13, 1700)]  # a few elements of many summands
TN_CASES = [
    {"M": M, "N": N, "K": K, "compute": compute}
    for compute, shapes in ((FLOAT32, SMALL + LONG + LARGE), (BFLOAT16, SMALL[::2] + LARGE + ALIGNED))
    for M, N, K in shapes
]


@kernel("matmul_tn", shapes=TN_CASES, inputs=OPERANDS, summands=lambda s: s.K)
def matmul_tn(a, b):
    return {"c": a.T @ b, "a_sum": a.sum(0)}
