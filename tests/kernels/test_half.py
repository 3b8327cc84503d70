"""Products with weights of 2 bytes have the bits of products with the same weights widened."""

import numpy as np
import pytest

from gollm import _native
from gollm.errors import KernelError
from kernels.harness import BUILDS, real_of, rng_of, using
from kernels.references.half import bits, values

kinds = pytest.mark.parametrize("kind", ["bf16", "f16"])


@pytest.fixture(params=BUILDS)
def build(request):
    with using(request.param, 2):
        yield request.param


@kinds
@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("shape", [(145, 700), (33, 5000)])
def test_the_bits_are_those_of_the_widened_weight(build, kind, threads, shape):
    (N, K), real, rng = shape, real_of(build), rng_of(kind, shape)
    panels = (N + 31) // 32
    b = bits(kind, rng.standard_normal((panels, K, 32)))
    wide = values(kind, b).astype(real)
    with using(build, threads):
        for M in (1, 2, 3, 4, 5, 8, 9, 30):
            shapes = {"a": (M, K), "bias": (N,), "factor": (M, N), "residual": (M, N)}
            given = {name: rng.standard_normal(s).astype(real) for name, s in shapes.items()} | {"activation": 4}
            c, pre, c_wide, pre_wide = (np.full((M, N), np.nan, real) for _ in range(4))
            getattr(_native, f"matmul_{kind}")(c=c, pre=pre, b=b, **given)
            _native.matmul_packed(c=c_wide, pre=pre_wide, b=wide, **given)
            assert c.tobytes() == c_wide.tobytes(), M
            assert pre.tobytes() == pre_wide.tobytes(), M


@kinds
def test_every_value_is_widened_exactly(build, kind):
    """All 65536 of them, denormals, infinities and NaN included, by a product and by a row of a table."""
    every = np.arange(2**16, dtype=np.uint16).reshape(-1, 1, 32)
    with np.errstate(invalid="ignore"):  # of signalling NaN
        want = values(kind, every).astype(real_of(build)).reshape(1, -1)
    V = every.shape[0] * 32
    product, table = (np.zeros((1, V), real_of(build)) for _ in range(2))
    getattr(_native, f"matmul_{kind}")(c=product, a=np.ones((1, 1), real_of(build)), b=every, activation=0)
    getattr(_native, f"embedding_{kind}")(
        y=table.reshape(-1, 1), tokens=np.arange(V, dtype=np.int32), token_table=every, V=V
    )
    np.testing.assert_array_equal(product, want)
    np.testing.assert_array_equal(table, want)


@kinds
def test_token_ids_outside_of_the_table_are_refused(build, kind):
    table = np.zeros((2, 5, 32), np.uint16)
    for token in (-1, 40, 63):
        with pytest.raises(KernelError, match="outside"):
            getattr(_native, f"embedding_{kind}")(
                y=np.zeros((1, 5), real_of(build)), tokens=np.array([token], np.int32), token_table=table, V=40
            )
