"""What the rows of `sample` do not say: whole distributions, cuts, ties, extremes, the same draw in every variant."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gollm import _native
from gollm.errors import KernelError
from kernels.harness import FLOAT_BUILDS, using
from kernels.references.sample import kept, uniform

V = 49152


def sample(z, *, n=1, seed=1, vocab_size=None, first=0, **options):
    """n draws from the logits z (V), at the positions from `first` on."""
    z = np.broadcast_to(z, (n, len(z))) if n > 1 else z[None]
    tokens = np.full(n, -7, np.int32)
    values = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0} | options
    _native.sample(
        tokens=tokens,
        logits=np.ascontiguousarray(z),
        **{name: np.full(n, value, np.int64 if name == "top_k" else np.float64) for name, value in values.items()},
        seed=np.full(n, seed),
        choice=np.zeros(n, np.int64),
        position=np.arange(first, first + n),
        vocab_size=vocab_size or z.shape[1],
    )
    return tokens


def probabilities(z, *, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    tokens, w = kept(z.astype(np.float64), temperature, top_k, top_p, min_p)
    p = np.zeros(len(z))
    p[tokens] = w / w.sum()
    return p


DISTRIBUTIONS = [
    {},
    {"temperature": 0.5},
    {"temperature": 3.0},
    {"top_k": 7},
    {"top_p": 0.7},
    {"min_p": 0.1},
    {"top_k": 30, "top_p": 0.9, "min_p": 0.02, "temperature": 1.3},
]


@pytest.mark.parametrize("options", DISTRIBUTIONS, ids=str)
def test_the_distribution_is_the_definitions(options):
    """A chi-square test of 60,000 draws. Its statistic has k - 1 degrees of freedom: 5 sigma are about 7 sqrt(k)."""
    z = (2 * np.random.default_rng(3).standard_normal(50)).astype(np.float32)
    p, n = probabilities(z, **options), 60_000
    counts = np.bincount(sample(z, n=n, **options), minlength=50)
    assert (counts[p == 0] == 0).all()
    often = n * p >= 5
    rest = ~often & (p > 0)
    observed, expected = np.append(counts[often], counts[rest].sum()), np.append(n * p[often], n * p[rest].sum())
    chi_square = ((observed - expected) ** 2 / np.maximum(expected, 1e-9)).sum()
    k = len(observed)
    assert chi_square < k + 7 * np.sqrt(k)


@pytest.mark.parametrize("scale", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("options", [*DISTRIBUTIONS[1:], {"top_k": 20_000}, {"top_k": 40, "top_p": 0.95}], ids=str)
def test_draws_from_a_large_vocabulary_are_the_inverse_of_the_cumulative_sum(scale, options):
    """Each draw is where the float64 sums pass u, up to the rounding of weights to float32."""
    z = (scale * np.random.default_rng(4).standard_normal(V)).astype(np.float32)
    p, n = probabilities(z, **options), 60
    ends = np.cumsum(p)
    u = np.array([uniform(1, 0, position) for position in range(n)])
    tokens = sample(z, n=n, **options)
    assert (p[tokens] > 0).all()
    assert (ends[tokens] - p[tokens] - 2e-6 <= u).all() and (u <= ends[tokens] + 2e-6).all()


logits_of = st.lists(
    st.one_of(st.floats(-100, 100, width=32), st.sampled_from([0.0, -0.0, -np.inf, 3e38, -3e38, 1e-45, 1.0])),
    min_size=1,
    max_size=12,
).filter(lambda values: max(values) > -np.inf)
temperatures = st.one_of(st.floats(0.01, 100), st.sampled_from([1e-320, 1e-308, 1e-300, 1e-45, 1e-10, 1e10, 1e300]))


@settings(max_examples=400, deadline=None)
@given(
    logits_of,
    st.integers(1, 20),
    temperatures,
    st.sampled_from([0, 1, 2, 5, 12, 2**62]),
    st.one_of(st.floats(1e-3, 1), st.sampled_from([1e-320, 1.0])),
    st.sampled_from([0.0, 1e-300, 0.3, 1.0]),
    st.integers(-(2**63), 2**63 - 1),
)
def test_any_logits_are_drawn_as_the_reference_draws_them(values, times, temperature, top_k, top_p, min_p, seed):
    z = np.array(values * times, np.float32)  # repeated: ties, and lists too long for sorting
    exact = z.astype(np.longdouble)
    tokens, w = kept(exact, np.longdouble(temperature), top_k, 1.0, 0.0)
    sums = np.cumsum(w / w.sum())
    assume(top_p == 1 or np.abs(sums - top_p).min() > 1e-6)  # else rounding decides
    assume(min_p <= 1e-300 or not ((np.abs(w - min_p) < 1e-6) & (w != min_p)).any())
    tokens, w = kept(exact, np.longdouble(temperature), top_k, top_p, min_p)
    u, (token,) = (
        uniform(seed, 0, 5),
        sample(z, seed=seed, first=5, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p),
    )
    by_id = np.argsort(tokens)
    ends = np.cumsum(w[by_id] / w.sum())
    rank = list(tokens[by_id]).index(token)
    assert z[token] > -np.inf
    assert (ends[rank - 1] if rank else 0) - 1e-5 <= u <= ends[rank] + 1e-5


@pytest.mark.parametrize("top_k", [1, 31, 33, 700, 5000, 20_000])
def test_of_equal_logits_the_smaller_ids_are_kept(top_k):
    z = np.zeros(V, np.float32)
    assert sample(z, n=50, top_k=top_k).max() < top_k
    z[V // 2 :] = 1
    drawn = sample(z, n=50, top_k=top_k)
    assert drawn.min() >= V // 2 and drawn.max() < V // 2 + top_k


def test_top_p_of_equal_logits_keeps_the_fewest():
    z = np.zeros(1000, np.float32)
    assert sample(z, n=3000, top_p=0.25).max() == 249
    assert set(sample(z[:4], n=100, top_p=0.5)) == {0, 1}


def test_a_cut_is_found_among_logits_of_every_size():
    """Bins are narrowed several times where logits differ by orders of magnitude."""
    z = np.float32(-1) * np.float32(2.0) ** np.linspace(-140, 127, 3000, dtype=np.float32)
    for top_k in (33, 900, 2500, 2999):
        drawn = sample(z, n=4000, top_k=top_k, temperature=1e300)
        assert 0.98 * top_k - 2 < drawn.max() < top_k


@pytest.mark.parametrize("temperature", [5e-324, 1e-320, 1e-308, 1e-60])
def test_a_temperature_near_zero_is_greedy(temperature):
    rng = np.random.default_rng(5)
    for _ in range(20):
        z = rng.permutation(np.float32([1e-45, 0, -1e-45, 2e-45, -3, 2, 2.0000002]) * rng.choice([1, 1e-7, 0]))
        z = np.unique(z).astype(np.float32)
        assert sample(z, n=5, temperature=temperature).tolist() == [z.argmax()] * 5


def test_a_huge_temperature_draws_all_tokens_alike_but_those_of_minus_infinity():
    z = np.array([3e38, -np.inf, -3e38, 5, 5], np.float32)
    counts = np.bincount(sample(z, n=2000, temperature=1e300), minlength=5)
    assert counts[1] == 0 and counts[[0, 2, 3, 4]].min() > 400


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("options", [{}, {"temperature": 0.0}, {"top_k": 3}, {"top_p": 0.5}], ids=str)
def test_logits_that_are_not_numbers_give_no_token(bad, options):
    for place in (0, 63, 64, 99):
        z = np.zeros(100, np.float32)
        z[place] = bad
        assert sample(z, **options)[0] == -1
    assert sample(np.full(3, -np.inf, np.float32), **options)[0] == -1
    assert sample(np.array([1, bad], np.float32), vocab_size=1, **options)[0] == 0  # padding says nothing


def test_padding_is_never_drawn():
    z = np.array([0, 0, 5, 5], np.float32)
    assert set(sample(z, n=100, vocab_size=2)) == {0, 1}
    assert set(sample(z, n=100, vocab_size=2, top_p=0.9, top_k=2, min_p=0.5)) == {0, 1}


def test_every_variant_and_number_of_threads_draws_alike():
    rng = np.random.default_rng(6)
    z = np.concatenate([rng.standard_normal((20, 5000)), 4 * rng.standard_normal((20, 5000))]).astype(np.float32)
    options = [{"temperature": 0.7}, {"temperature": 4.0, "top_p": 0.9}, {"top_k": 50}, {"min_p": 0.01, "top_p": 0.99}]
    for given_options in options:
        found = set()
        for build in FLOAT_BUILDS[:-1]:
            for threads in (1, 2, 5):
                with using(build, threads):
                    rows = [sample(row, n=3, **given_options) for row in z[::4]]
                    found.add((np.concatenate(rows).tobytes(), draw_all(z, given_options).tobytes()))
        assert len(found) == 1


def draw_all(z, options):
    n = len(z)
    values = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0} | options
    arrays = {name: np.full(n, value, np.int64 if name == "top_k" else np.float64) for name, value in values.items()}
    counters = {name: np.arange(n) for name in ("seed", "choice", "position")}
    tokens = np.empty(n, np.int32)
    _native.sample(tokens=tokens, logits=z, **arrays, **counters, vocab_size=z.shape[1])
    return tokens


def test_a_draw_depends_on_seed_choice_and_position_and_nothing_else():
    z = np.zeros((4, 1000), np.float32)
    arguments = {"temperature": np.ones(4), "top_k": np.zeros(4, np.int64), "top_p": np.ones(4), "min_p": np.zeros(4)}
    counters = {"seed": [0, 2**32, 0, 0], "choice": [0, 0, 2**32 - 1, 0], "position": [0, 0, 0, 2**32]}
    tokens = np.empty(4, np.int32)
    _native.sample(
        tokens=tokens,
        logits=z,
        **arguments,
        **{name: np.array(values) for name, values in counters.items()},
        vocab_size=1000,
    )
    assert len(set(tokens)) == 4
    want = [int(1000 * uniform(*where)) for where in zip(*counters.values(), strict=True)]
    assert tokens.tolist() == want


@pytest.mark.parametrize(
    "bad",
    [
        *[{"temperature": value} for value in (-1.0, np.nan, np.inf)],
        {"top_k": -1},
        *[{"top_p": value} for value in (0.0, -0.1, 1.1, np.nan)],
        *[{"min_p": value} for value in (-0.1, 1.1, np.nan)],
        {"first": -1},
    ],
    ids=str,
)
def test_values_outside_of_their_ranges_are_refused(bad):
    with pytest.raises(KernelError, match="a value outside of its range"):
        sample(np.zeros(3, np.float32), **bad)
    with pytest.raises(KernelError, match="a value outside of its range"):
        sample(np.zeros(3, np.float32), vocab_size=4)
