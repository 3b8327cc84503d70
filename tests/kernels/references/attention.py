"""csrc/attention_forward.c, csrc/attention_backward.c, csrc/attention_paged.c"""

import numpy as np

from kernels.harness import kernel


def case(B, T, H, G, D):
    return {"B": B, "T": T, "H": H, "G": G, "D": D, "P": H * D, "E": (H + 2 * G) * D, "scale": D**-0.5}


# Lengths around the blocks of keys (256 forward, 192 backward) and queries (96); head sizes around the vectors; groups.
SHAPES = [
    case(1, 1, 1, 1, 1),
    case(2, 3, 2, 1, 4),
    case(1, 17, 3, 3, 5),
    case(2, 67, 6, 2, 16),
    case(1, 97, 3, 1, 256),
    case(3, 193, 2, 2, 33),
    case(1, 257, 4, 4, 64),
    case(1, 521, 2, 1, 80),
]


def paged_case(H, G, D, Z, L, sequences):
    """sequences: (rows of this call, tokens before them) of each; two pages more than they can need"""
    S, N = len(sequences), sum(rows for rows, _ in sequences)
    sizes = {"N": N, "S": S, "S1": S + 1, "L": L, "Z": Z, "R": S * L + 2, "W": G * D}
    return case(1, 1, H, G, D) | sizes | {"sequences": sequences}


PAGED = [
    paged_case(1, 1, 1, 1, 1, [(1, 0)]),
    paged_case(2, 1, 4, 4, 2, [(3, 0), (1, 7), (0, 0), (5, 2)]),
    paged_case(6, 2, 16, 64, 3, [(1, 150), (70, 100)]),
    paged_case(3, 3, 33, 7, 40, [(1, 256), (1, 255), (2, 260)]),
    paged_case(4, 4, 64, 512, 1, [(1, 511)]),
    paged_case(10, 2, 24, 32, 9, [(4, 255), (5, 1), (1, 287)]),
    paged_case(2, 1, 256, 100, 3, [(280, 7)]),
]
PAGES = {
    "query_offsets": lambda rng, s: np.cumsum([0] + [rows for rows, _ in s.sequences]),
    "lengths": lambda rng, s: [rows + past for rows, past in s.sequences],
    "page_table": lambda rng, s: rng.permutation(s.R)[: s.S * s.L],
}


def split(qkv, H, G, D):
    """(B, T, E) -> q, k, v of (B, H, T, D), a group's keys and values repeated for its heads"""
    B, T, _ = qkv.shape
    parts = np.split(qkv.reshape(B, T, H + 2 * G, D).transpose(0, 2, 1, 3), [H, H + G], axis=1)
    return [part.repeat(H // part.shape[1] if part.shape[1] else 1, axis=1) for part in parts]


@kernel("attention_forward", shapes=SHAPES, summands=lambda s: s.T + s.D, empty=["B", "T"])
def attention_forward(qkv, H, G, D, scale):
    q, k, v = split(qkv, H, G, D)
    y, lse = np.zeros_like(q), np.zeros(q.shape[:3])
    for i in range(q.shape[2]):  # a query meets the keys up to its own only, so that a NaN after it does not reach it
        s = scale * (k[:, :, : i + 1] @ q[:, :, i, :, None])[..., 0]
        m = s.max(-1, keepdims=True)
        e = np.exp(s - np.where(np.isneginf(m), 0, m))
        y[:, :, i] = (e[:, :, None] @ v[:, :, : i + 1])[:, :, 0] / e.sum(-1, keepdims=True)
        lse[:, :, i] = m[..., 0] + np.log(e.sum(-1))
    B, _, T, _ = q.shape
    return {"y": y.transpose(0, 2, 1, 3).reshape(B, T, H * D), "lse": lse}


# A NaN in dy or qkv may reach keys and queries of its neighbourhood that it has nothing to do with: 0 * NaN is NaN.
@kernel(
    "attention_backward",
    forward="attention_forward",
    shapes=SHAPES,
    summands=lambda s: s.T + s.D,
    nonfinite=(),
    empty=["B", "T"],
)
def attention_backward(dy, qkv, y, lse, H, G, D, scale):
    B, T, _ = qkv.shape
    q, k, v = split(qkv, H, G, D)
    dy, y = (x.reshape(B, T, H, D).transpose(0, 2, 1, 3) for x in (dy, y))
    p = np.tril(np.exp(scale * q @ k.swapaxes(-1, -2) - lse[..., None]))
    ds = scale * p * (dy @ v.swapaxes(-1, -2) - (dy * y).sum(-1, keepdims=True))
    dk, dv = ds.swapaxes(-1, -2) @ q, p.swapaxes(-1, -2) @ dy
    dk, dv = (x.reshape(B, G, H // G, T, D).sum(2) for x in (dk, dv))
    return {"dqkv": np.concatenate([ds @ k, dk, dv], axis=1).transpose(0, 2, 1, 3).reshape(qkv.shape)}


def slots(s, lengths, page_table, Z):
    """Where the tokens of sequence s lie in the pages, seen as one list of tokens."""
    positions = np.arange(lengths[s])
    return page_table[s, positions // Z] * Z + positions % Z


@kernel("kv_cache_write", shapes=PAGED, inputs=PAGES, empty=["N"])
def kv_cache_write(k_pages, v_pages, qkv, query_offsets, lengths, page_table, H, W, Z):
    k_pages, v_pages = k_pages.copy(), v_pages.copy()
    for s in range(len(lengths)):
        rows = qkv[query_offsets[s] : query_offsets[s + 1]]
        at = slots(s, lengths, page_table, Z)[lengths[s] - len(rows) :]
        k_pages.reshape(-1, W)[at], v_pages.reshape(-1, W)[at] = np.split(rows[:, -2 * W :], 2, axis=1)
    return {"k_pages": k_pages, "v_pages": v_pages}


@kernel("attention_paged", shapes=PAGED, inputs=PAGES, empty=["N"], summands=lambda s: s.L * s.Z + s.D)
def attention_paged(qkv, k_pages, v_pages, query_offsets, lengths, page_table, H, G, D, P, W, Z, scale):
    y = np.zeros((len(qkv), P))
    for s in range(len(lengths)):
        rows, at = slice(query_offsets[s], query_offsets[s + 1]), slots(s, lengths, page_table, Z)
        queries = qkv[rows, :P]
        k, v = (pages.reshape(-1, W)[at] for pages in (k_pages, v_pages))
        # as one causal sequence, in which the tokens before have queries of 0
        q = np.concatenate([np.zeros((len(at) - len(queries), P)), queries])
        tokens = np.concatenate([q, k, v], axis=1)[None]
        y[rows] = attention_forward(tokens, H, G, D, scale)["y"][0, len(at) - len(queries) :]
    return {"y": y}
