"""A query's output has the same bits however it is computed; and what the paged kernels refuse."""

import numpy as np
import pytest

from gollm import _native
from gollm.errors import KernelError, ShapeError
from kernels.harness import FLOAT_BUILDS, real_of, using
from kernels.references.half import bits, values

S, T = 2, 530  # two blocks of 256 keys, and a bit


def make(build, H, G, D):
    """Rows of q, k and v, and rotations."""
    rng = np.random.default_rng(7)
    angles = rng.uniform(-3, 3, (T + 9, D // 2))
    rotations = np.stack([np.cos(angles), np.sin(angles)], -1).reshape(T + 9, D)
    return rng.standard_normal((S, T, (H + 2 * G) * D)).astype(real_of(build)), rotations.astype(real_of(build))


def whole(qkv, rotations, H, G, D, window, scale=None):
    y = np.empty((*qkv.shape[:2], H * D), qkv.dtype)
    _native.attention_forward(y=y, qkv=qkv, rotations=rotations, H=H, G=G, D=D, scale=scale_of(D, scale), window=window)
    return y


def scale_of(D, scale):
    return D**-0.5 if scale is None else scale


def poisoned_pages(kind, R, G, D, Z, real):
    """Of keys and of values, filled with NaN."""
    shapes = (R, G, D, Z), (R, G, Z, D)
    return [np.full(shape, 0x7FFF, np.uint16) if kind else np.full(shape, np.nan, real) for shape in shapes]


def through_pages(qkv, rotations, H, G, D, window, Z, chunks, scale=None, kind=""):
    """The same through pages of Z tokens, of a kernel's `kind`: chunks[i][s] tokens of sequence s in the i-th call."""
    L, rng = -(-T // Z), np.random.default_rng(3)
    R = S * L + 1
    pages = poisoned_pages(kind, R, G, D, Z, qkv.dtype)
    table = rng.permutation(R)[: S * L].reshape(S, L).astype(np.int32)
    y = np.zeros((S, T, H * D), qkv.dtype)
    done = np.zeros(S, np.int32)
    for chunk in chunks:
        parts = [slice(start, start + count) for start, count in zip(done, chunk, strict=True)]
        done = done + np.asarray(chunk, np.int32)
        offsets = np.cumsum([0, *chunk]).astype(np.int32)
        call = {
            "qkv": np.concatenate([qkv[s, part] for s, part in enumerate(parts)]),
            "k_pages": pages[0],
            "v_pages": pages[1],
            "query_offsets": offsets,
            "lengths": done,
            "page_table": table,
            "rotations": rotations,
            "H": H,
            "G": G,
            "D": D,
        }
        getattr(_native, "kv_cache_write" + kind)(**call)
        rows = np.empty((offsets[-1], H * D), qkv.dtype)
        getattr(_native, "attention_paged" + kind)(y=rows, scale=scale_of(D, scale), window=window, **call)
        for s, part in enumerate(parts):
            y[s, part] = rows[offsets[s] : offsets[s + 1]]
    assert (done == T).all()
    return y


def token_by_token_from(first):
    return [(first, first - 2)] + [(1, 1)] * (T - first) + [(0, 1)] * 2


CHUNKS = {
    "at once": [(T, T)],
    "in uneven chunks": [(1, 256), (300, 0), (0, 7), (T - 301, T - 263)],
    "token by token": token_by_token_from(T - 20),
    "across a block, token by token": [*token_by_token_from(250)[:20], (T - 269, T - 267)],
}


@pytest.mark.parametrize("build", FLOAT_BUILDS)
@pytest.mark.parametrize("window", [0, 5, 270])
@pytest.mark.parametrize("heads", [(4, 2, 16), (1, 1, 64), (3, 3, 20), (7, 1, 12)], ids=str)
@pytest.mark.parametrize("how", CHUNKS)
def test_a_row_has_the_same_bits_in_any_chunk_through_any_pages(build, window, heads, how):
    tokens = make(build, *heads)
    qkv, rotations = tokens
    heads = (*heads, window)
    with using(build, 1):
        want = whole(*tokens, *heads)
        alone = np.stack([whole(qkv[s : s + 1], rotations, *heads)[0] for s in range(S)])
        shorter = whole(np.ascontiguousarray(qkv[:, :300]), rotations, *heads)
    assert alone.tobytes() == want.tobytes()
    assert shorter.tobytes() == want[:, :300].tobytes()
    for threads, Z in [(1, 64), (2, 1), (3, 32), (2, 7), (9, 256), (2, 512), (5, 1024)]:
        with using(build, threads):
            got = through_pages(*tokens, *heads, Z, CHUNKS[how])
        assert got.tobytes() == want.tobytes(), f"pages of {Z}, {threads} threads"


def stored(kind, x):
    """Numbers as pages of this kind hold them, in float64."""
    return values(kind[1:], bits(kind[1:], x.astype(np.float32)))


@pytest.mark.parametrize("build", FLOAT_BUILDS)
@pytest.mark.parametrize("window", [0, 270])
@pytest.mark.parametrize("heads", [(4, 2, 16), (6, 2, 20), (7, 1, 12)], ids=str)
@pytest.mark.parametrize("kind", ["_bf16", "_f16"])
def test_a_row_has_the_same_bits_in_any_chunk_through_narrow_pages(build, window, heads, kind):
    """Those of a whole text without pages, whose turned keys and values have been rounded."""
    (H, G, D), (qkv, rotations) = heads, make(build, *heads)
    with using(build, 1):
        pages = [np.zeros((S, G, D, T), qkv.dtype), np.zeros((S, G, T, D), qkv.dtype)]
        offsets, lengths = np.arange(S + 1, dtype=np.int32) * T, np.full(S, T, np.int32)
        table = np.arange(S, dtype=np.int32)[:, None]
        call = {"query_offsets": offsets, "lengths": lengths, "page_table": table, "rotations": rotations}
        _native.kv_cache_write(k_pages=pages[0], v_pages=pages[1], qkv=qkv.reshape(S * T, -1), H=H, G=G, D=D, **call)
        rounded = [stored(kind, page).astype(qkv.dtype) for page in pages]
        want = np.zeros((S * T, H * D), qkv.dtype)
        _native.attention_paged(
            y=want, k_pages=rounded[0], v_pages=rounded[1], qkv=qkv.reshape(S * T, -1), H=H, G=G, D=D,
            scale=scale_of(D, None), window=window, **call,
        )  # fmt: skip
    want = want.reshape(S, T, H * D)
    for how, (threads, Z) in zip(CHUNKS, [(1, 64), (2, 7), (3, 32), (9, 64)], strict=True):
        with using(build, threads):
            got = through_pages(qkv, rotations, H, G, D, window, Z, CHUNKS[how], kind=kind)
        assert got.tobytes() == want.tobytes(), f"{how}, pages of {Z}, {threads} threads"


@pytest.mark.parametrize("build", FLOAT_BUILDS)
@pytest.mark.parametrize("kind", ["_bf16", "_f16"])
def test_every_number_is_rounded_to_the_nearest(build, kind):
    """Each number of 2 bytes, the middle between it and the next, and what lies beside the middle."""
    every = np.arange(2**16, dtype=np.uint16)
    with np.errstate(invalid="ignore", over="ignore"):
        exact = values(kind[1:], every)
        middle = ((exact + values(kind[1:], (every + 1) & 0xFFFF)) / 2).astype(np.float32)
        x = np.concatenate(
            [exact.astype(np.float32), middle, np.nextafter(middle, -np.inf), np.nextafter(middle, np.inf)]
        )
        x = np.concatenate([x, np.float32([65519.9, 65520, 65536, 1e30, 3.4e38, 1e-8, 1e-45, 2.0**-25, 0])])
        want = bits(kind[1:], x)
    x = x[:, None].repeat(3, axis=1).astype(real_of(build))  # q, k and v of one number
    N = len(x)
    pages = np.zeros((2, N, 1, 1, 1), np.uint16)
    with using(build, 2):
        getattr(_native, "kv_cache_write" + kind)(
            k_pages=pages[0], v_pages=pages[1], qkv=x, query_offsets=np.array([0, N], np.int32),
            lengths=np.array([N], np.int32), page_table=np.arange(N, dtype=np.int32)[None], H=1, G=1, D=1,
        )  # fmt: skip
    number = ~np.isnan(x[:, 0])
    for page in pages.reshape(2, N):
        np.testing.assert_array_equal(page[number], want[number])
        assert np.isnan(values(kind[1:], page[~number])).all()


@pytest.mark.parametrize("build", FLOAT_BUILDS)
@pytest.mark.parametrize("window", [0, 100])
def test_how_many_queries_come_at_once_and_how_many_pages_there_could_be_do_not_change_a_bit(build, window):
    """Up to 4 queries of a sequence are decoded, more are not. Decoding takes at most 64 sequences at a time."""
    (H, G, D, Z), rng, real = (12, 4, 8, 16), np.random.default_rng(11), real_of(build)
    lengths = rng.integers(8, 700, 90).astype(np.int32)
    used = -(-lengths // Z)  # pages
    pages = [rng.standard_normal((used.sum(), G, *shape)).astype(real) for shape in ((D, Z), (Z, D))]
    qkv = rng.standard_normal((len(lengths), 8, (H + 2 * G) * D)).astype(real)  # of the last 8 tokens of each

    def last(n, L, threads=2):
        """y of the last n[s] tokens of sequence s; page tables of L columns"""
        table = np.full((len(lengths), L), -1, np.int32)
        for s, first in enumerate(np.cumsum(used) - used):
            table[s, : used[s]] = first + np.arange(used[s])
        offsets = np.cumsum([0, *n]).astype(np.int32)
        rows = np.concatenate([qkv[s, 8 - n[s] :] for s in range(len(lengths))])
        y = np.full((len(rows), H * D), np.nan, real)
        call = {"k_pages": pages[0], "v_pages": pages[1], "query_offsets": offsets, "lengths": lengths}
        heads = {"H": H, "G": G, "D": D, "scale": 0.3, "window": window}
        with using(build, threads):
            _native.attention_paged(y=y, qkv=rows, page_table=table, **call, **heads)
        return np.split(y, offsets[1:-1])

    want = last([8] * 90, 44)
    for L, threads in [(44, 1), (44, 3), (100_000, 2)]:
        for n in ([1] * 90, [4] * 90, [5] * 90, list(rng.integers(0, 9, 90)), [0] * 89 + [3]):
            for got, y, count in zip(last(n, L, threads), want, n, strict=True):
                assert got.tobytes() == y[8 - count :].tobytes()


@pytest.mark.parametrize("build", [FLOAT_BUILDS[-2], "f64"])
def test_more_rows_than_are_decoded_at_a_time(build):
    """60 sequences of 4 queries and 300 heads, 72000 rows; then one by one."""
    H, rng, real = 300, np.random.default_rng(3), real_of(build)
    qkv, y = rng.standard_normal((60, 4, 3 * H)).astype(real), np.full((60, 4, H), np.nan, real)
    with using(build, 2):
        _native.attention_forward(y=y, qkv=qkv, H=H, G=H, D=1, scale=1.0, window=0)
        for sequence in range(60):
            one = np.full((1, 4, H), np.nan, real)
            _native.attention_forward(y=one, qkv=qkv[sequence, None], H=H, G=H, D=1, scale=1.0, window=0)
            assert one.tobytes() == y[sequence].tobytes()


@pytest.mark.parametrize("build", FLOAT_BUILDS[:-1])
@pytest.mark.parametrize("threads", [1, 2, 3, 5, 7, 16])
def test_the_workspace_of_the_backward_pass_is_bounded(build, threads):
    """By n_threads * (buffers + 9 gradients), for any T, B, group and number of heads left over."""
    D = 128
    gradients = 2 * 192 * D * 4  # bytes of dk and dv of a block of keys

    def size(B, T, H, G):
        return _native.workspace_bytes("attention_backward", B=B, T=T, H=H, G=G, D=D)

    with using(build, threads):
        buffers = size(1, 1, 720720, 720720)  # a multiple of 1 ... 16: no heads are left over
        assert buffers < threads * 2**20
        for B, T, H, G in [(1, 64, 12, 12), (1, 8192, 32, 8), (3, 8192, 32, 8), (1, 2**22, 128, 1), (63, 2**30, 9, 3)]:
            assert size(B, T, H, G) <= buffers + threads * 9 * gradients


@pytest.mark.parametrize("build", FLOAT_BUILDS)
def test_long_rows_of_extreme_scores(build):
    """Scores of a few thousand: one key takes it all; the running maximum moves from block to block."""
    rng, D = np.random.default_rng(5), 8
    qkv = rng.standard_normal((1, T, 3 * D)).astype(real_of(build))
    qkv[..., : 2 * D] *= 100
    y = np.empty((1, T, D), qkv.dtype)
    with using(build, 2):
        _native.attention_forward(y=y, qkv=qkv, H=1, G=1, D=D, scale=1.0, window=0)
    q, k, v = np.split(qkv[0].astype(np.float64), 3, axis=1)
    best = [np.argmax(k[: i + 1] @ q[i]) for i in range(T)]
    scores = [np.sort(k[: i + 1] @ q[i]) for i in range(T)]
    clear = np.array([len(s) < 2 or s[-1] - s[-2] > 50 for s in scores])
    assert clear.sum() > T // 2
    np.testing.assert_allclose(y[0][clear], v[best][clear], rtol=1e-6)


def forward_and_backward(qkv, dy, rotations, H, G, D, window, scale):
    """y; dq, dk and dv (S, T, ...)"""
    y, lse = np.empty_like(dy), np.empty((S, H, T), qkv.dtype)
    call = {"qkv": qkv, "rotations": rotations, "H": H, "G": G, "D": D, "window": window, "scale": scale}
    _native.attention_forward(y=y, lse=lse, **call)
    dqkv = np.empty_like(qkv)
    _native.attention_backward(dqkv=dqkv, dy=dy, y=y, lse=lse, **call)
    return y, *np.split(dqkv, [H * D, (H + G) * D], axis=2)


@pytest.mark.parametrize("build", FLOAT_BUILDS)
@pytest.mark.parametrize("window", [0, 5, 270])
@pytest.mark.parametrize("scale", [0.3, -1.0, -0.0, 0.0, 1e-30])
def test_what_is_masked_never_matters(build, window, scale):
    """NaN or infinity in a token's q, k, v or dy changes no bit of what has no part in its attention."""
    H, G, D = 4, 2, 6
    clean, rotations = make(build, H, G, D)
    clean_dy = np.random.default_rng(1).standard_normal((S, T, H * D)).astype(real_of(build))
    reach = window or T
    with using(build, 2):
        want = forward_and_backward(clean, clean_dy, rotations, H, G, D, window, scale)
        for number, at in enumerate((2, 100, 257, 303, T - 1)):
            for part in range(4):
                qkv, dy = clean.copy(), clean_dy.copy()
                value = (np.nan, np.inf, -np.inf)[(number + part) % 3]
                ([*np.split(qkv, [H * D, (H + G) * D], axis=2), dy][part])[0, at] = value
                got = forward_and_backward(qkv, dy, rotations, H, G, D, window, scale)
                seen_by = range(at, min(T, at + reach)) if part in (1, 2) else [at]
                sees = range(max(0, at - reach + 1), seen_by[-1] + 1)  # the keys of all these queries
                for now, before, touched in zip(got, want, [seen_by, seen_by, sees, sees], strict=True):
                    untouched = np.delete(now[0], touched, 0), np.delete(before[0], touched, 0)
                    assert untouched[0].tobytes() == untouched[1].tobytes()
                    assert now[1].tobytes() == before[1].tobytes()
                    assert np.isfinite(before).all()
                if np.isnan(value):
                    assert np.isnan(got[0 if part != 3 else 1][0, seen_by]).all()


@pytest.mark.parametrize("build", FLOAT_BUILDS)
@pytest.mark.parametrize("window", [0, 5, 270])
@pytest.mark.parametrize("scale", [-1.0, 0.0])
def test_nan_and_infinity_take_the_same_way_through_pages(build, window, scale):
    heads = (4, 2, 6)
    qkv, rotations = make(build, *heads)
    qkv[0, 40, 30] = np.nan
    qkv[0, 300, 38] = np.inf
    qkv[1, 260, 25] = -np.inf
    with using(build, 2):
        want = whole(qkv, rotations, *heads, window, scale)
        for how in CHUNKS:
            got = through_pages(qkv, rotations, *heads, window, 32, CHUNKS[how], scale)
            np.testing.assert_array_equal(got, want, err_msg=how)
    assert np.isnan(want).any() and np.isinf(want).any()


@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf, 1e300])
def test_a_scale_that_is_not_finite_is_refused(scale):
    qkv, y = np.ones((1, 2, 12), np.float32), np.ones((1, 2, 4), np.float32)
    heads = {"H": 1, "G": 1, "D": 4, "scale": scale, "window": 0}
    with pytest.raises(KernelError, match="attention_forward: a value outside of its range"):
        _native.attention_forward(y=y, qkv=qkv, **heads)
    with pytest.raises(KernelError, match="attention_backward: a value outside of its range"):
        lse = np.ones((1, 1, 2), np.float32)
        _native.attention_backward(dqkv=np.ones_like(qkv), dy=y.copy(), qkv=qkv, y=y, lse=lse, **heads)
    call = paged_call()
    with pytest.raises(KernelError, match="attention_paged: a value outside of its range"):
        _native.attention_paged(y=np.zeros((5, 8), np.float32), scale=scale, window=0, **call)


def paged_call():
    rng, (H, G, D, Z, R) = np.random.default_rng(2), (2, 1, 4, 8, 6)
    return {
        "qkv": rng.standard_normal((5, (H + 2 * G) * D), np.float32),
        "k_pages": rng.standard_normal((R, G, D, Z), np.float32),
        "v_pages": rng.standard_normal((R, G, Z, D), np.float32),
        "query_offsets": np.array([0, 2, 5], np.int32),
        "lengths": np.array([2, 20], np.int32),
        "page_table": np.array([[0, 99, 99], [5, 1, 2]], np.int32),  # pages past the length are not looked at
        "H": H,
        "G": G,
        "D": D,
    }


BAD = {
    "query_offsets": [[1, 2, 5], [0, 2, 4], [0, 2, 6], [0, 7, 5], [0, -1, 5], [0, 2**31 - 1, 5]],
    "lengths": [[1, 20], [2, 2], [2, 25], [-1, 20], [2, 2**31 - 1], [-(2**31), 20]],
    "page_table": [[[6, 0, 0], [5, 1, 2]], [[0, 0, 0], [5, 1, -1]], [[0, 0, 0], [5, 2**31 - 1, 2]]],
}


@pytest.mark.parametrize("threads", [1, 2, 9])
def test_bad_pages_are_refused_before_anything_is_written(threads):
    with using(FLOAT_BUILDS[0], threads):
        good = paged_call()
        _native.kv_cache_write(**good)
        _native.attention_paged(y=np.empty((5, 8), np.float32), scale=1.0, window=0, **good)
        for name, values in BAD.items():
            for value in values:
                call = paged_call() | {name: np.array(value, np.int32)}
                y = np.full((5, 8), 7, np.float32)
                before = call["k_pages"].copy(), call["v_pages"].copy()
                with pytest.raises(KernelError, match="outside"):
                    _native.kv_cache_write(**call)
                with pytest.raises(KernelError, match="outside"):
                    _native.attention_paged(y=y, scale=1.0, window=0, **call)
                assert (y == 7).all()
                assert (call["k_pages"] == before[0]).all() and (call["v_pages"] == before[1]).all()


def attention_of(H, G, D, qkv, y, lse):
    heads = {"H": H, "G": G, "D": D, "scale": 1.0, "window": 0}
    yield lambda: _native.attention_forward(y=y, qkv=qkv, **heads)
    if lse.shape[1] == H:
        yield lambda: _native.attention_backward(dqkv=qkv.copy(), dy=y, qkv=qkv, y=y.copy(), lse=lse, **heads)


@pytest.mark.parametrize(
    "heads", [(2, 1, 3), (3, 2, 4), (0, 1, 4), (2, 0, 4), (2, 1, 0), (-2, -1, -4), (2**62, 2**62, 4)]
)
def test_heads_that_do_not_fit_the_rows_are_refused(heads):
    qkv, y = np.zeros((1, 3, 16), np.float32), np.zeros((1, 3, 8), np.float32)
    for call in attention_of(*heads, qkv, y, np.zeros((1, max(0, min(heads[0], 9)), 3), np.float32)):
        with pytest.raises(ShapeError, match=r"(y|dqkv|qkv) has shape .*; it must be \(B, T, .*\*D\) with"):
            call()


@pytest.mark.parametrize("heads", [(3, 2, 4), (0, 1, 4), (2, 0, 4), (2, 1, 0), (0, 0, 0), (1, 2, 4)])
def test_heads_that_do_not_fit_each_other_are_refused(heads):
    H, G, D = heads
    qkv, y = np.zeros((1, 3, (H + 2 * G) * D), np.float32), np.zeros((1, 3, H * D), np.float32)
    for call in attention_of(*heads, qkv, y, np.zeros((1, H, 3), np.float32)):
        with pytest.raises(KernelError, match="sizes"):
            call()


def test_head_dim_is_at_most_256():
    qkv, y = np.zeros((1, 2, 3 * 257), np.float32), np.zeros((1, 2, 257), np.float32)
    with pytest.raises(KernelError, match="does not take"):
        _native.attention_forward(y=y, qkv=qkv, H=1, G=1, D=257, scale=1.0, window=0)


def test_positions_without_a_rotation_odd_heads_and_windows_out_of_range_are_refused():
    qkv, y = np.zeros((1, 5, 12), np.float32), np.full((1, 5, 4), 7, np.float32)
    heads = {"H": 1, "G": 1, "D": 4, "scale": 1.0}
    for rows, window, words in [(4, 0, "outside"), (5, -1, "range"), (5, 2**31, "range"), (5, 2**63 - 1, "range")]:
        with pytest.raises(KernelError, match=words):
            _native.attention_forward(y=y, qkv=qkv, rotations=np.ones((rows, 4), np.float32), window=window, **heads)
    with pytest.raises(KernelError, match="sizes"):
        odd = np.zeros((1, 5, 9), np.float32), np.ones((5, 3), np.float32)
        _native.attention_forward(y=y[..., :3].copy(), qkv=odd[0], rotations=odd[1], window=0, **heads | {"D": 3})
    call = paged_call() | {"rotations": np.ones((19, 4), np.float32)}
    with pytest.raises(KernelError, match="outside"):
        _native.kv_cache_write(**call)
    with pytest.raises(KernelError, match="outside"):
        _native.attention_paged(y=np.zeros((5, 8), np.float32), scale=1.0, window=0, **call)
    assert (y == 7).all()
