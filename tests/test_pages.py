"""Pages of the key/value cache: the free list, shared pages, sequences that grow."""

import numpy as np
import pytest

import gollm
from gollm.errors import ConfigError, GenerationError, GollmError
from gollm.inference.pages import PAGE_SIZE, CachedSequence, PagePool, next_batch
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder
from gollm.nn import dtypes

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


@pytest.mark.parametrize("dtype", [dtypes.bfloat16, dtypes.float16], ids=str)
def test_narrow_pages_give_the_same_bits_in_any_chunk_and_batch(dtype):
    """Near those of a pool of float32, not equal to them; half the memory."""
    model = Decoder(CONFIG).initialise(0)
    ids = np.random.default_rng(0).integers(0, 31, (3, 300)).astype(np.int32)
    exact = model.logits(ids)
    pool = PagePool(CONFIG, n_pages=20, dtype=dtype)
    assert pool.k_pages.array.nbytes * 2 == PagePool(CONFIG, n_pages=20).k_pages.array.nbytes

    def last(text, *ends):
        sequence, begin = CachedSequence(pool), 0
        for end in ends:
            logits = model.next_logits(next_batch([sequence], [text[begin:end].tolist()]))[0].copy()
            begin = end
        sequence.clear()
        return logits

    at_once = [last(text, 300) for text in ids]
    for text, want in zip(ids, at_once, strict=True):
        for ends in ((1, 64, 300), (290, *range(291, 301)), (255, 256, 257, 300)):
            np.testing.assert_array_equal(last(text, *ends), want)
    together = model.next_logits(next_batch([CachedSequence(pool) for _ in ids], [text.tolist() for text in ids]))
    np.testing.assert_array_equal(together, np.stack(at_once))
    error = np.abs(together - exact[:, -1])
    assert 0 < error.max() < 2**-7 * np.abs(exact).max()


def test_an_engine_takes_the_dtype_of_its_cache_by_name():
    model = gollm.LanguageModel(Decoder(CONFIG).initialise(0))

    def drawn(model=model, **options):
        with gollm.Engine(model, **options) as engine:
            return engine.submit([1, 2, 3], max_new_tokens=20, temperature=0).result().tokens

    assert drawn(cache_dtype="float32") == drawn()
    assert len(drawn(cache_dtype="bfloat16")) == len(drawn(cache_dtype="float16")) == 20
    with pytest.raises(ConfigError, match="cache_dtype is 'bf16'; it must be one of float32, bfloat16, float16"):
        gollm.Engine(model, cache_dtype="bf16")
    assert len(drawn(gollm.LanguageModel(Decoder(CONFIG, np.dtype(np.float64))))) == 20
