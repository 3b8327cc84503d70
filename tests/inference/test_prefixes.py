"""Pages that are found by their tokens: shared, kept, and forgotten when their memory is wanted."""

from __future__ import annotations

import pytest

from gollm.errors import GenerationError
from gollm.inference.pages import PAGE_SIZE, CachedSequence
from gollm.inference.prefixes import PrefixPool
from gollm.model.config import ModelConfig

CONFIG = ModelConfig(n_layers=1, n_heads=1, d_model=8, vocab_size=31, context=1000)
TEXT = [i % 29 for i in range(5 * PAGE_SIZE)]


def fill(pool: PrefixPool, tokens: list[int]) -> CachedSequence:
    """A sequence that has computed its tokens, without taking over what is there."""
    sequence, known = CachedSequence(pool), pool.empty(0)
    sequence.extend(len(tokens))
    for i in range(len(tokens) // PAGE_SIZE):
        known = pool.remember(known, tuple(tokens[i * PAGE_SIZE : (i + 1) * PAGE_SIZE]), sequence.pages[i])
        sequence.pages[i] = known.page
    return sequence


def found(pool: PrefixPool, tokens: list[int]) -> list[int]:
    return [prefix.page for prefix in pool.longest(tokens, 0, len(tokens), pool.empty(0))]


def test_full_pages_are_found_while_their_owner_runs_and_afterwards() -> None:
    pool = PrefixPool(CONFIG, 4)
    sequence = fill(pool, TEXT[:150])
    assert found(pool, TEXT) == sequence.pages[:2] == [0, 1]
    assert found(pool, TEXT[:127]) == [0] and found(pool, [5, *TEXT]) == []
    assert (pool.n_free, pool.n_remembered) == (1, 2)
    sequence.clear()
    assert found(pool, TEXT) == [0, 1] and pool.n_free == 4


def test_a_page_of_the_same_tokens_after_other_ones_is_another() -> None:
    pool = PrefixPool(CONFIG, 6)
    page, other = TEXT[:PAGE_SIZE], TEXT[PAGE_SIZE : 2 * PAGE_SIZE]
    fill(pool, page + other), fill(pool, other + other)
    assert found(pool, page + other) == [0, 1] and found(pool, other + other) == [2, 3]
    assert found(pool, page + page) == [0]


def test_a_page_that_two_have_computed_is_kept_once() -> None:
    pool = PrefixPool(CONFIG, 6)
    first, second = fill(pool, TEXT[:140]), fill(pool, TEXT[:140])
    assert second.pages[:2] == first.pages[:2] and first.pages[2] != second.pages[2]
    assert pool.n_free == 2
    first.clear()
    assert pool.n_free == 3  # the last page, which was its own
    second.clear()
    assert pool.n_free == 6


def test_the_page_that_became_idle_first_goes_first_and_never_before_those_below_it() -> None:
    pool = PrefixPool(CONFIG, 6)
    old, new = fill(pool, TEXT[: 3 * PAGE_SIZE]), fill(pool, [30, *TEXT[: 3 * PAGE_SIZE - 1]])
    old.clear(), new.clear()
    assert (pool.n_free, pool.n_remembered) == (6, 6)
    other = CachedSequence(pool)
    for n_left in (2, 1, 0):
        other.extend(PAGE_SIZE)
        assert len(found(pool, TEXT)) == n_left
        assert len(found(pool, [30, *TEXT])) == 3
    other.extend(PAGE_SIZE)
    assert len(found(pool, [30, *TEXT])) == 2


def test_a_page_that_is_used_again_is_young_again() -> None:
    pool = PrefixPool(CONFIG, 2)
    first, second = fill(pool, TEXT[:PAGE_SIZE]), fill(pool, [30, *TEXT[: PAGE_SIZE - 1]])
    first.clear(), second.clear()
    (prefix,) = pool.longest(TEXT, 0, PAGE_SIZE, pool.empty(0))
    assert pool.is_idle(prefix)
    pool.share(prefix.page)
    assert not pool.is_idle(prefix)
    pool.release(prefix.page)
    CachedSequence(pool).extend(PAGE_SIZE)
    assert len(found(pool, TEXT)) == 1 and found(pool, [30, *TEXT]) == []


def test_pages_in_use_are_never_taken() -> None:
    pool = PrefixPool(CONFIG, 3)
    sequence = fill(pool, TEXT[:130])
    with pytest.raises(GenerationError, match="all 3 pages of the cache are in use"):
        pool.take()
    with pytest.raises(GenerationError, match="needs 2 more pages of the cache, and 0 are free"):
        CachedSequence(pool).extend(2 * PAGE_SIZE)
    pool.forget()
    assert found(pool, TEXT) == sequence.pages[:2]
    sequence.clear()
    pool.forget()
    assert found(pool, TEXT) == [] and (pool.n_free, pool.n_remembered) == (3, 0)
