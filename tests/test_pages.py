"""Pages of the key/value cache: the free list, shared pages, sequences that grow."""

import numpy as np
import pytest

from gollm.errors import GenerationError, GollmError
from gollm.inference.pages import PAGE_SIZE, CachedSequence, PagePool, next_batch
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder

CONFIG = ModelConfig(n_layers=2, n_heads=2, d_model=16, vocab_size=31, context=400, position="rope")


def test_a_page_is_free_when_its_last_user_has_released_it():
    pool = PagePool(CONFIG, n_pages=3)
    first = pool.take()
    pool.share(first)
    assert pool.n_free == 2
    pool.release(first)
    assert pool.n_free == 2
    pool.release(first)
    assert pool.n_free == 3


def test_no_page_is_taken_twice():
    pool = PagePool(CONFIG, n_pages=3)
    assert sorted(pool.take() for _ in range(3)) == [0, 1, 2]
    with pytest.raises(GenerationError, match="all 3 pages"):
        pool.take()


def test_a_sequence_that_does_not_fit_changes_nothing():
    pool = PagePool(CONFIG, n_pages=2)
    sequence = CachedSequence(pool)
    sequence.extend(PAGE_SIZE)
    with pytest.raises(GenerationError, match="needs 2 more pages of the cache, and 1 are free"):
        sequence.extend(PAGE_SIZE + 1)
    assert (sequence.length, len(sequence.pages), pool.n_free) == (PAGE_SIZE, 1, 1)
    sequence.clear()
    assert (sequence.length, pool.n_free) == (0, 2)


def test_shared_pages_give_the_same_bits_as_pages_of_ones_own():
    """Two texts with a common beginning of whole pages."""
    model = Decoder(CONFIG).initialise(0)
    ids = np.random.default_rng(0).integers(0, 31, (2, 3 * PAGE_SIZE)).astype(np.int32)
    ids[1, : 2 * PAGE_SIZE] = ids[0, : 2 * PAGE_SIZE]
    whole = model.logits(ids)
    pool = PagePool(CONFIG, n_pages=4)
    first, second = CachedSequence(pool), CachedSequence(pool)
    np.testing.assert_array_equal(model.next_logits(next_batch([first], [ids[0].tolist()]))[0], whole[0, -1])
    for page in first.pages[:2]:
        pool.share(page)
    second.pages, second.length = first.pages[:2], 2 * PAGE_SIZE
    rest = ids[1, 2 * PAGE_SIZE :].tolist()
    np.testing.assert_array_equal(model.next_logits(next_batch([second], [rest]))[0], whole[1, -1])
    first.clear()
    assert pool.n_free == 1
    second.clear()
    assert pool.n_free == 4


def test_there_is_no_gradient_through_the_cache():
    model = Decoder(CONFIG).initialise(0)
    batch = next_batch([CachedSequence(PagePool(CONFIG, n_pages=1))], [[1, 2, 3]])
    with pytest.raises(GollmError, match="no_grad"):
        model.hidden(batch)
