"""Every token once per epoch, shuffled, and a batch is a function of seed and position."""

import json

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gollm.data import Sampler, Tokens, evaluation_batches
from gollm.data.dataset import split
from gollm.data.sampler import epoch_keys, permute
from gollm.errors import DataError


def counting(n, fingerprint="f"):
    """Tokens 0, 1, 2, ...: a token's id is its place."""
    return Tokens([np.arange(n, dtype=np.uint32)], fingerprint=fingerprint)


def permutation(n, seed, epoch):
    keys = np.repeat(epoch_keys(seed, np.array([epoch], np.uint64)), n)
    return permute(np.arange(n, dtype=np.uint64), n, keys)


@given(st.integers(1, 3000), st.integers(-(2**63), 2**64 - 1), st.integers(0, 2**40))
@settings(deadline=None)
def test_permute_is_a_permutation(n, seed, epoch):
    assert sorted(permutation(n, seed, epoch).tolist()) == list(range(n))


def test_permutations_look_random():
    # 4000 epochs of 12 windows: each window in each place about 333 times (standard deviation 17).
    counts = np.zeros((12, 12), int)
    follows = np.zeros((12, 12), int)
    for epoch in range(4000):
        order = permutation(12, 7, epoch).astype(int)
        counts[np.arange(12), order] += 1
        follows[order[:-1], order[1:]] += 1
    assert np.abs(counts - 4000 / 12).max() < 5 * 17.5
    off_diagonal = follows[~np.eye(12, dtype=bool)]
    assert np.abs(off_diagonal - 4000 * 11 / 132).max() < 5 * 18
    a, b = permutation(100_000, 1, 0).astype(float), permutation(100_000, 2, 0).astype(float)
    assert abs(np.corrcoef(a, np.arange(100_000))[0, 1]) < 0.02 and abs(np.corrcoef(a, b)[0, 1]) < 0.02
    assert abs(np.corrcoef(a[:-1], a[1:])[0, 1]) < 0.02


@given(
    n_tokens=st.integers(2, 400),
    context=st.integers(1, 40),
    batch_size=st.integers(1, 9),
    seed=st.integers(0, 2**64 - 1),
    epochs=st.integers(1, 4),
)
@settings(max_examples=150, deadline=None)
def test_every_token_is_predicted_once_per_epoch(n_tokens, context, batch_size, seed, epochs):
    if n_tokens < context + 1:
        return
    sampler = Sampler(counting(n_tokens), batch_size=batch_size, context=context, seed=seed)
    n = sampler.windows_per_epoch
    rows = []
    while sampler.position < epochs * n:
        inputs, targets = sampler.next_batch()
        assert inputs.shape == targets.shape == (batch_size, context)
        assert inputs.dtype == targets.dtype == np.int32
        np.testing.assert_array_equal(targets, inputs + 1)
        np.testing.assert_array_equal(inputs, inputs[:, :1] + np.arange(context))
        rows.extend(targets)
    for epoch in range(epochs):
        predicted = np.concatenate(rows[epoch * n : (epoch + 1) * n])
        assert len(set(predicted.tolist())) == predicted.size  # none twice
        left_out = set(range(1, n_tokens)) - set(predicted.tolist())
        assert len(left_out) == (n_tokens - 1) % context < context
        # What is left out lies at the two ends.
        assert sorted(predicted.tolist()) == list(range(predicted.min(), predicted.max() + 1))


def test_no_token_is_left_out_for_good():
    sampler = Sampler(counting(100), batch_size=1, context=16, seed=3)
    seen = {int(t) for _ in range(40 * sampler.windows_per_epoch) for t in sampler.next_batch()[1].ravel()}
    assert seen == set(range(1, 100))


@given(st.integers(0, 5000), st.integers(1, 7), st.integers(1, 7), st.integers(0, 2**32))
@settings(deadline=None, max_examples=60)
def test_a_batch_depends_on_seed_and_position_only(position, one, other, seed):
    tokens = counting(500)
    walked = Sampler(tokens, batch_size=one, context=9, seed=seed)
    walked.position = position
    jumped = Sampler(tokens, batch_size=other, context=9, seed=seed)
    jumped.restore({**jumped.state(), "position": position})
    a = np.concatenate([walked.next_batch()[0] for _ in range(other)])
    b = np.concatenate([jumped.next_batch()[0] for _ in range(one)])
    np.testing.assert_array_equal(a, b)
    assert walked.position == jumped.position == position + one * other


def test_seeds_and_epochs_differ():
    def first_epoch(seed, skip=0):
        sampler = Sampler(counting(1025), batch_size=64, context=16, seed=seed)
        for _ in range(skip):
            sampler.next_batch()
        return sampler.next_batch()[0][:, 0].tolist()

    assert first_epoch(1) == first_epoch(1)
    assert first_epoch(1) != first_epoch(2) and sorted(first_epoch(1)) == sorted(first_epoch(2))
    assert first_epoch(1) != first_epoch(1, skip=1)


def test_the_order_of_batches_stays_what_it_is():
    """Interrupted runs must find their place again after an update: change `sampler.KIND` with these numbers."""
    sampler = Sampler(counting(1000), batch_size=4, context=10, seed=42)
    sampler.position = 97
    assert sampler.state()["kind"] == "shuffled windows 1"
    assert sampler.next_batch()[0][:, 0].tolist() == ORDER


ORDER = [863, 43, 834, 364]


def test_the_state_survives_json_and_refuses_other_data():
    sampler = Sampler(counting(1000), batch_size=4, context=10, seed=2**64 - 1)
    sampler.next_batch()
    state = json.loads(json.dumps(sampler.state()))
    expected = sampler.next_batch()[0]
    again = Sampler(counting(1000), batch_size=4, context=10, seed=2**64 - 1)
    again.restore(state)
    np.testing.assert_array_equal(again.next_batch()[0], expected)
    for other, word in [
        (Sampler(counting(1001), batch_size=4, context=10, seed=2**64 - 1), "number of training tokens"),
        (Sampler(counting(1000, "g"), batch_size=4, context=10, seed=2**64 - 1), "training data or its tokenizer"),
        (Sampler(counting(1000), batch_size=4, context=11, seed=2**64 - 1), "context"),
        (Sampler(counting(1000), batch_size=4, context=10, seed=1), "seed"),
    ]:
        with pytest.raises(DataError, match=word):
            other.restore(state)
        assert other.position == 0
    for position in (-1, 1.5, None, True, 2**70):
        with pytest.raises(DataError, match="position"):
            again.restore({**state, "position": position})


def test_arrays_can_be_filled_in_place():
    a, b = (Sampler(counting(300), batch_size=3, context=8, seed=5) for _ in range(2))
    out = (np.full((3, 8), -7, np.int32), np.full((3, 8), -7, np.int32))
    inputs, targets = b.next_batch(out)
    assert inputs is out[0] and targets is out[1]
    for got, wanted in zip(out, a.next_batch(), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_steps_for_epochs():
    sampler = Sampler(counting(1 + 10 * 25), batch_size=4, context=10, seed=0)
    assert sampler.windows_per_epoch == 25
    assert [sampler.steps(1), sampler.steps(2), sampler.steps(0.5), sampler.steps(1, 3)] == [7, 13, 4, 3]
    sampler.next_batch()
    assert sampler.epoch == 4 / 25


def test_too_little_text_says_what_to_do():
    with pytest.raises(DataError, match=r"are 10, too few for one window of 10 .* use a context of 9 or less"):
        Sampler(counting(10), batch_size=1, context=10, seed=0)
    Sampler(counting(11), batch_size=1, context=10, seed=0).next_batch()
    with pytest.raises(DataError, match="use more text"):
        Sampler(counting(1), batch_size=1, context=10, seed=0)
    with pytest.raises(DataError, match="validation-fraction"):
        evaluation_batches(counting(0), 1, 10)
    for options in ({"batch_size": 0, "context": 4}, {"batch_size": 1, "context": 0}):
        with pytest.raises(DataError, match="at least 1"):
            Sampler(counting(50), seed=0, **options)


@given(st.integers(2, 500), st.integers(1, 30), st.integers(1, 7), st.none() | st.integers(1, 12))
@settings(deadline=None)
def test_evaluation_batches_are_fixed_and_spread(n_tokens, context, batch_size, n):
    if n_tokens < context + 1:
        return
    tokens = counting(n_tokens)
    batches = list(evaluation_batches(tokens, batch_size, context, n))
    for (a, b), (c, d) in zip(batches, evaluation_batches(tokens, batch_size, context, n), strict=True):
        np.testing.assert_array_equal(a, c)
        np.testing.assert_array_equal(b, d)
        np.testing.assert_array_equal(b, a + 1)
        assert a.flags.c_contiguous and b.flags.c_contiguous and a.dtype == np.int32
    available = (n_tokens - 1) // context
    starts = np.concatenate([a[:, 0] for a, _ in batches])
    assert starts.size == (available if n is None else min(available, n * batch_size))
    assert (np.diff(starts) >= context).all() and starts[0] == 0
    if starts.size > 1:
        assert np.ptp(np.diff(starts)) <= context
        assert starts[-1] + 2 * np.diff(starts).max() + context >= n_tokens - 1
    assert all(len(a) == batch_size for a, _ in batches[:-1])


@given(st.integers(1, 2_000_000), st.floats(0, 0.999))
def test_validation_blocks_are_spread_over_the_whole_text(n, fraction):
    n_train = max(1, int(n * (1 - fraction)))
    train, validation = split(n, n_train, "blocks")
    assert sum(stop - start for start, stop in train) == n_train
    together = sorted([*train, *validation])
    assert [start for start, _ in together] == [0, *(stop for _, stop in together[:-1])] and together[-1][1] == n
    k = len(validation)
    assert k == 1 or (k <= 100 and n - n_train >= 4096 * k)
    for i, (start, stop) in enumerate(validation):
        assert n * i // k <= start <= stop <= n * (i + 1) // k
    assert split(n, n_train, "blocks") == (train, validation)
    assert split(n, n_train, "end") == ([(0, n_train)], [(n_train, n)])


@given(st.lists(st.integers(0, 30), min_size=1, max_size=6), st.integers(1, 12), st.none() | st.integers(1, 3))
def test_evaluation_windows_do_not_go_across_gaps(lengths, context, n):
    ends = np.cumsum(lengths)
    runs = list(zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True))
    tokens = Tokens([np.arange(ends[-1], dtype=np.uint16)], runs=runs)
    assume(len(tokens) > context)
    rows = np.concatenate([inputs for inputs, _ in evaluation_batches(tokens, 2, context, n)])
    long = [run for run in runs if run[1] - run[0] > context] or [(0, len(tokens))]
    windows = [start + i * context for start, stop in long for i in range((stop - start - 1) // context)]
    assert set(rows[:, 0].tolist()) <= set(windows)
    assert len(rows) == len(set(rows[:, 0].tolist())) == (len(windows) if n is None else min(len(windows), 2 * n))
