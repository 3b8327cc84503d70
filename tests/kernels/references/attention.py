"""csrc/attention_forward.c, csrc/attention_backward.c, csrc/attention_paged.c, csrc/kv_cache.c"""

import numpy as np

from kernels.harness import exact, kernel
from kernels.references.half import bits, values


def case(B, T, H, G, D, window=0, positions=None, scale=None):
    """`positions` have a rotation each, T unless given; where D is odd there are none."""
    sizes = {"B": B, "T": T, "H": H, "G": G, "D": D, "A": (positions or T) + 2}
    return (
        sizes
        | {"scale": D**-0.5 if scale is None else scale, "window": window}
        | ({"without": ("rotations",)} if D % 2 else {})
    )


# Lengths around the blocks of keys (256 forward, 192 backward) and queries (96); head sizes around the vectors; groups;
# windows of one key, within a block, over several, and longer than the text.
SHAPES = [
    case(1, 1, 1, 1, 1),
    case(2, 3, 2, 1, 4),
    case(1, 17, 3, 3, 5),
    case(2, 67, 6, 2, 16),
    case(1, 97, 3, 1, 256),
    case(3, 193, 2, 2, 33),
    case(1, 257, 4, 4, 64),
    case(1, 521, 2, 1, 80),
    case(1, 75, 2, 1, 80),
    case(1, 70, 1, 1, 256),
    case(2, 67, 6, 2, 16, window=1),
    case(1, 601, 3, 1, 8, window=9),
    case(2, 530, 2, 2, 20, window=256),
    case(1, 700, 2, 1, 5, window=300),
    case(1, 130, 2, 1, 64, window=131),
    case(1, 389, 9, 1, 2, window=193),
    case(2, 19, 2, 1, 20, window=7, scale=-1.0),
    case(1, 3, 2, 2, 8, window=2, scale=-0.0),
    case(1, 290, 1, 1, 9, window=40, scale=0.0),
    case(1, 270, 4, 2, 6, window=259, scale=1e-30),
    case(1, 301, 2, 1, 4, scale=-0.7),
]


def paged_case(H, G, D, Z, L, sequences, window=0, scale=None):
    """sequences: (rows of this call, tokens before them) of each; two pages more than they can need"""
    S, N = len(sequences), sum(rows for rows, _ in sequences)
    sizes = {"N": N, "S": S, "L": L, "Z": Z, "R": S * L + 2}
    return case(1, 1, H, G, D, window, L * Z, scale) | sizes | {"sequences": sequences}


PAGED = [
    paged_case(1, 1, 1, 1, 1, [(1, 0)]),
    paged_case(2, 1, 4, 4, 2, [(3, 0), (1, 7), (0, 0), (5, 2)]),
    paged_case(6, 2, 16, 64, 3, [(1, 150), (70, 100)]),
    paged_case(3, 3, 33, 7, 40, [(1, 256), (1, 255), (2, 260)]),
    paged_case(4, 4, 64, 512, 1, [(1, 511)]),
    paged_case(10, 2, 24, 32, 9, [(4, 255), (5, 1), (1, 287)]),
    paged_case(2, 1, 256, 100, 3, [(280, 7)]),
    paged_case(4, 2, 16, 64, 10, [(1, 600), (100, 500), (3, 255), (4, 11)], window=13),
    paged_case(3, 1, 20, 50, 12, [(2, 590), (300, 299), (1, 0)], window=257),
    paged_case(4, 2, 16, 64, 5, [(1, 300), (100, 200), (3, 255)], window=13, scale=-1.0),
    paged_case(2, 2, 9, 16, 20, [(2, 290), (30, 255)], window=40, scale=0.0),
    paged_case(2, 1, 4, 16, 3, [(1, 30), (9, 3)], window=5, scale=-0.0),
    paged_case(8, 4, 8, 64, 6, [(1, 63), (1, 0), (2, 300), (40, 290)]),
    paged_case(14, 2, 80, 32, 12, [(1, 350), (4, 255), (9, 31)]),
]


def rotations(rng, s):
    """Any angles: (A, D) of cos and sin side by side."""
    angles = rng.uniform(-np.pi, np.pi, (s.A, s.D // 2))
    return np.stack([np.cos(angles), np.sin(angles)], -1) if s.D % 2 == 0 else np.zeros((s.A, s.D))


ROTATIONS = {"rotations": rotations}
PAGES = ROTATIONS | {
    "query_offsets": lambda rng, s: np.cumsum([0] + [rows for rows, _ in s.sequences]),
    "lengths": lambda rng, s: [rows + past for rows, past in s.sequences],
    "page_table": lambda rng, s: rng.permutation(s.R)[: s.S * s.L],
}


def turned(x, rotations, direction=1):
    """Rows x (..., T, D), turned by rotations (T, D), or turned back."""
    if rotations is None:
        return x
    y, cos, sin = np.empty_like(x), rotations[:, 0::2], direction * rotations[:, 1::2]
    y[..., 0::2] = x[..., 0::2] * cos - x[..., 1::2] * sin
    y[..., 1::2] = x[..., 1::2] * cos + x[..., 0::2] * sin
    return y


def split(qkv, rotations, H, G, D, narrow):
    """(B, T, E) -> q, k, v of (B, H, T, D), q and k turned, a group's keys and values repeated for its heads"""
    B, T, _ = qkv.shape
    parts = np.split(qkv.reshape(B, T, H + 2 * G, D).transpose(0, 2, 1, 3), [H, H + G], axis=1)
    q, k, v = parts
    if rotations is not None:
        q, k = (narrow(turned(x, rotations[:T])) for x in (q, k))
    return tuple(part.repeat(H // part.shape[1] if part.shape[1] else 1, axis=1) for part in (q, k, v))


@kernel("attention_forward", shapes=SHAPES, inputs=ROTATIONS, summands=lambda s: s.T + s.D, empty=["B", "T"])
def attention_forward(qkv, rotations, H, G, D, scale, window, narrow=exact):
    q, k, v = split(qkv, rotations, H, G, D, narrow)
    y, lse = np.zeros_like(q), np.zeros(q.shape[:3])
    for i in range(q.shape[2]):  # a query meets the keys that it sees only, so that another's NaN does not reach it
        seen = slice(max(0, i - window + 1) if window else 0, i + 1)
        s = scale * (k[:, :, seen] @ q[:, :, i, :, None])[..., 0]
        m = s.max(-1, keepdims=True)
        e = np.exp(s - np.where(np.isneginf(m), 0, m))
        y[:, :, i] = (narrow(e)[:, :, None] @ v[:, :, seen])[:, :, 0] / e.sum(-1, keepdims=True)
        lse[:, :, i] = m[..., 0] + np.log(e.sum(-1))
    B, _, T, _ = q.shape
    return {"y": y.transpose(0, 2, 1, 3).reshape(B, T, H * D), "lse": lse}


@kernel(
    "attention_backward", forward="attention_forward", shapes=SHAPES, summands=lambda s: s.T + s.D, empty=["B", "T"]
)
def attention_backward(dy, qkv, y, lse, rotations, H, G, D, scale, window, narrow):
    B, T, _ = qkv.shape
    q, k, v = split(qkv, rotations, H, G, D, narrow)
    dy, y = (x.reshape(B, T, H, D).transpose(0, 2, 1, 3) for x in (dy, y))
    dq, dk, dv = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v)
    for i in range(T):  # as forward: a query and a key that it does not see have nothing to do with each other
        seen, row = slice(max(0, i - window + 1) if window else 0, i + 1), slice(i, i + 1)
        p = np.exp(scale * q[:, :, row] @ k[:, :, seen].swapaxes(-1, -2) - lse[:, :, row, None])
        dp = dy[:, :, row] @ v[:, :, seen].swapaxes(-1, -2)
        ds = narrow(scale * p * (dp - (dy * y)[:, :, row].sum(-1, keepdims=True)))
        dq[:, :, row] = ds @ k[:, :, seen]
        dk[:, :, seen] += ds.swapaxes(-1, -2) * q[:, :, row]
        dv[:, :, seen] += narrow(p).swapaxes(-1, -2) * dy[:, :, row]
    dk, dv = (x.reshape(B, G, H // G, T, D).sum(2) for x in (dk, dv))
    table = None if rotations is None else rotations[:T]
    dq, dk = turned(dq, table, -1), turned(dk, table, -1)
    return {"dqkv": np.concatenate([dq, dk, dv], axis=1).transpose(0, 2, 1, 3).reshape(qkv.shape)}


def rows_of(k_pages, v_pages):
    """Pages of keys (R, G, D, Z) and of values (R, G, Z, D) as rows of tokens, (R Z, G D) each."""
    rows = [k_pages.transpose(0, 3, 1, 2), v_pages.transpose(0, 2, 1, 3)]
    return [x.reshape(x.shape[0] * x.shape[1], -1) for x in rows]


def pages_of(k, v, G, D, Z):
    """The other way round."""
    k, v = (rows.reshape(-1, Z, G, D) for rows in (k, v))
    return np.ascontiguousarray(k.transpose(0, 2, 3, 1)), np.ascontiguousarray(v.transpose(0, 2, 1, 3))


def slots(s, lengths, page_table, Z):
    """Where the tokens of sequence s lie among the rows of the pages."""
    positions = np.arange(lengths[s])
    return page_table[s, positions // Z] * Z + positions % Z


def turned_heads(rows, rotations, positions, D):
    """Rows (N, heads D) at positions (N)"""
    if rotations is None:
        return rows
    return (
        turned(rows.reshape(len(rows), rows.shape[1] // D, D).swapaxes(0, 1), rotations[positions])
        .swapaxes(0, 1)
        .reshape(rows.shape)
    )


def narrow(kind):
    """Inputs of pages of 2-byte numbers."""
    shapes = {"k_pages": lambda s: (s.R, s.G, s.D, s.Z), "v_pages": lambda s: (s.R, s.G, s.Z, s.D)}
    return PAGES | {
        name: lambda rng, s, shape=shape: bits(kind, rng.standard_normal(shape(s)).astype(np.float32))
        for name, shape in shapes.items()
    }


@kernel("kv_cache_write", shapes=PAGED, inputs=PAGES, empty=["N"])
def kv_cache_write(k_pages, v_pages, qkv, query_offsets, lengths, page_table, rotations, G, D, Z):
    k_rows, v_rows = (rows.copy() for rows in rows_of(k_pages, v_pages))
    for s in range(len(lengths)):
        rows = qkv[query_offsets[s] : query_offsets[s + 1]]
        positions = np.arange(lengths[s] - len(rows), lengths[s])
        at = slots(s, lengths, page_table, Z)[positions]
        k, v = np.split(rows[:, -2 * G * D :], 2, axis=1)
        k_rows[at], v_rows[at] = turned_heads(k, rotations, positions, D), v
    k_pages, v_pages = pages_of(k_rows, v_rows, G, D, Z)
    return {"k_pages": k_pages, "v_pages": v_pages}


def summands_of_pages(s):
    return s.L * s.Z + s.D


@kernel("attention_paged", shapes=PAGED, inputs=PAGES, empty=["N"], summands=summands_of_pages)
def attention_paged(qkv, k_pages, v_pages, query_offsets, lengths, page_table, rotations, H, G, D, Z, scale, window):
    P = H * D
    y = np.zeros((len(qkv), P))
    k_rows, v_rows = rows_of(k_pages, v_pages)
    for s in range(len(lengths)):
        rows, at = slice(query_offsets[s], query_offsets[s + 1]), slots(s, lengths, page_table, Z)
        queries, past = qkv[rows, :P], len(at) - (query_offsets[s + 1] - query_offsets[s])
        queries = turned_heads(queries, rotations, np.arange(past, len(at)), D)
        # as one causal sequence, in which the tokens before have queries of 0; in the pages, keys have been turned
        q = np.concatenate([np.zeros((past, P)), queries])
        tokens = np.concatenate([q, k_rows[at], v_rows[at]], axis=1)[None]
        y[rows] = attention_forward(tokens, None, H, G, D, scale, window)["y"][0, past:]
    return {"y": y}


def narrow_kernels(name):
    """The same with pages of bfloat16 or float16."""

    @kernel(
        f"attention_paged_{name}", shapes=PAGED, inputs=narrow(name), empty=["N"], summands=lambda s: s.L * s.Z + s.D
    )
    def attention(qkv, k_pages, v_pages, query_offsets, lengths, page_table, rotations, H, G, D, Z, scale, window):
        k_pages, v_pages = values(name, k_pages), values(name, v_pages)
        return attention_paged(
            qkv, k_pages, v_pages, query_offsets, lengths, page_table, rotations, H, G, D, Z, scale, window
        )

    @kernel(f"kv_cache_write_{name}", shapes=PAGED, inputs=narrow(name), empty=["N"])
    def cache_write(k_pages, v_pages, qkv, query_offsets, lengths, page_table, rotations, G, D, Z):
        pages = values(name, k_pages), values(name, v_pages)
        out = kv_cache_write(*pages, qkv, query_offsets, lengths, page_table, rotations, G, D, Z)
        return {key: bits(name, pages.astype(np.float32)) for key, pages in out.items()}


narrow_kernels("bf16")
narrow_kernels("f16")
