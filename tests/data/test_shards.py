"""llm.c's token shards, and sequences over them."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gollm.data import Texts, Tokens, TokenShards, open_shard, open_source, prepare, write_shard
from gollm.data import token_cache as cache
from gollm.errors import DataError


def shard_bytes(magic, version, count, tokens):
    header = np.zeros(256, np.int32)
    header[:3] = magic, version, count
    return header.tobytes() + tokens.tobytes()


def test_the_bytes_are_those_of_llm_c(tmp_path):
    write_shard(tmp_path / "a.bin", [1, 2, 50256], vocab_size=50257)
    expected = shard_bytes(20240520, 1, 3, np.array([1, 2, 50256], np.uint16))
    assert (tmp_path / "a.bin").read_bytes() == expected
    write_shard(tmp_path / "b.bin", np.array([7, 128_000]), vocab_size=128_256)
    expected = shard_bytes(20240801, 7, 2, np.array([7, 128_000], np.uint32))
    assert (tmp_path / "b.bin").read_bytes() == expected
    np.testing.assert_array_equal(open_shard(tmp_path / "b.bin"), [7, 128_000])
    assert open_shard(tmp_path / "a.bin").dtype == np.uint16
    with pytest.raises(ValueError, match="read-only"):
        open_shard(tmp_path / "a.bin")[0] = 1


@pytest.mark.parametrize("tokens", [[-1], [70_000], [1.5], [[1]]])
def test_tokens_that_do_not_fit_are_refused(tmp_path, tokens):
    with pytest.raises(DataError):
        write_shard(tmp_path / "a.bin", tokens)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "fewer than"),
        (b"x" * 1023, "fewer than"),
        (b"x" * 2000, "magic number"),
        (shard_bytes(20240520, 2, 1, np.zeros(1, np.uint16)), "version 2"),
        (shard_bytes(20240520, 1, 2, np.zeros(1, np.uint16)), "damaged"),
        (shard_bytes(20240520, 1, 1, np.zeros(2, np.uint16)), "damaged"),
        (shard_bytes(20240520, 1, -1, np.zeros(0, np.uint16)), "damaged"),
        (shard_bytes(20240801, 7, 1, np.zeros(1, np.uint16)), "damaged"),
        (shard_bytes(20240801, 7, 2**31 - 1, np.zeros(1, np.uint32)), "damaged"),
    ],
)
def test_a_damaged_shard_is_refused(tmp_path, data, word):
    path = tmp_path / "a.bin"
    path.write_bytes(data)
    with pytest.raises(DataError, match=word) as info:
        open_shard(path)
    assert str(path) in str(info.value)


def test_a_missing_shard(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        open_shard(tmp_path / "no.bin")


@given(
    st.lists(st.lists(st.integers(0, 99), max_size=20), min_size=1, max_size=6),
    st.integers(-130, 130),
    st.integers(-130, 130),
    st.integers(0, 130),
    st.integers(0, 130),
)
def test_several_shards_are_one_sequence(parts, start, stop, a, b):
    flat = [token for part in parts for token in part]
    dtypes = [np.uint16, np.uint32]
    tokens = Tokens([np.array(part, dtypes[i % 2]) for i, part in enumerate(parts)], vocab_size=100)
    assert len(tokens) == len(flat) and list(tokens) == flat
    assert tokens[start:stop].tolist() == flat[start:stop]
    assert tokens[start:stop].dtype == np.int32
    inner = tokens.part([(a, b)])
    assert len(inner) == len(flat[a:b])
    assert inner[start:stop].tolist() == flat[a:b][start:stop]
    assert list(inner.part([(1, 5)])) == flat[a:b][1:5]
    several = tokens.part([(a, b), (0, 3), (b, a)])
    assert list(several) == flat[a:b] + flat[:3] + flat[b:a]
    assert [several[begin:end].tolist() for begin, end in several.runs] == [flat[a:b], flat[:3], flat[b:a]]
    if -len(inner) <= start < len(inner):
        assert inner[start] == flat[a:b][start]
    else:
        with pytest.raises(IndexError):
            inner[start]


def test_bytes_of_a_range():
    tokens = Tokens([np.arange(10, dtype=np.uint16), np.arange(20, dtype=np.uint32), np.arange(5, dtype=np.uint16)])
    assert tokens.n_bytes == 20 + 80 + 10
    ranges = [(0, 10), (0, 11), (10, 30), (29, 31), (30, 35), (7, 7), (9, 9)]
    assert [tokens.part([(a, b)]).n_bytes for a, b in ranges] == [20, 24, 80, 6, 10, 0, 0]


def test_reading_outside_is_refused():
    tokens = Tokens([np.arange(10, dtype=np.uint16)]).part([(2, 6)])
    with pytest.raises(IndexError):
        tokens.read_into(1, np.empty(4, np.int32))
    with pytest.raises(ValueError, match="step 1"):
        tokens[::2]


@pytest.mark.parametrize("bad", [100, 2**31, 2**32 - 1])
def test_an_id_outside_of_the_vocabulary_is_refused_when_it_is_read(bad):
    tokens = Tokens([np.array([1, 2, bad, 3], np.uint32)], vocab_size=100, name="x")
    assert tokens[0:2].tolist() == [1, 2] and tokens[3] == 3
    with pytest.raises(DataError, match=f"token {bad} at position 2 of x is outside of the vocabulary \\(0 to 99\\)"):
        tokens[1:4]


def test_shards_are_a_source(tmp_path, tokenizer):
    for i in range(3):
        write_shard(tmp_path / f"train_{i}.bin", np.arange(10 * i, 10 * i + 10))
    source = open_source(str(tmp_path / "train_*.bin"))
    assert isinstance(source, TokenShards) and len(source.paths) == 3
    assert isinstance(open_source(tmp_path), TokenShards)
    dataset = prepare(source, tokenizer, validation_fraction=0.1, validation_split="end", cache_dir=tmp_path / "cache")
    assert dataset.train[:].tolist() == list(range(27)) and dataset.validation[:].tolist() == [27, 28, 29]
    assert not (tmp_path / "cache").exists()
    with pytest.raises(DataError, match="pass the tokenizer that they were made with"):
        next(iter(source.iter_text()))
    other = open_source(tmp_path / "train_0.bin")
    assert other.fingerprint() != source.fingerprint() == open_source(tmp_path).fingerprint()


def test_an_edit_anywhere_in_a_shard_is_noticed(tmp_path, tokenizer):
    """Far behind the header, with the size and the time of before."""
    path = tmp_path / "a.bin"
    write_shard(path, np.arange(20_000) % 250)
    before = prepare(open_source(path), tokenizer, cache_dir=tmp_path).fingerprint
    times = path.stat()
    write_shard(path, np.where(np.arange(20_000) == 15_000, 7, np.arange(20_000) % 250))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_size == times.st_size
    assert prepare(open_source(path), tokenizer, cache_dir=tmp_path).fingerprint != before


def test_the_hash_of_large_shards_is_remembered(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(cache, "REMEMBER_FROM_BYTES", 10)
    monkeypatch.setattr(TokenShards, "newest_change", lambda self: 0.0)
    write_shard(tmp_path / "a.bin", range(100))
    first = prepare(open_source(tmp_path / "a.bin"), tokenizer, cache_dir=tmp_path / "cache").fingerprint
    monkeypatch.setattr(TokenShards, "fingerprint", lambda self: pytest.fail("hashed again"))
    assert prepare(open_source(tmp_path / "a.bin"), tokenizer, cache_dir=tmp_path / "cache").fingerprint == first


def test_shards_and_text_do_not_mix(tmp_path):
    write_shard(tmp_path / "a.bin", [1])
    (tmp_path / "b.txt").write_text("x")
    with pytest.raises(DataError, match=r"b\.txt is no token shard, but .*a\.bin is"):
        open_source(tmp_path)


def test_empty_shards_are_no_corpus(tmp_path, tokenizer):
    write_shard(tmp_path / "a.bin", [])
    with pytest.raises(DataError, match="holds no tokens"):
        prepare(open_source(tmp_path / "a.bin"), tokenizer)


def test_ids_of_another_tokenizer_are_noticed(tmp_path, tokenizer):
    write_shard(tmp_path / "a.bin", [1, 300] * 50)
    dataset = prepare(TokenShards([tmp_path / "a.bin"]), tokenizer)
    with pytest.raises(DataError, match="token 300 at position 1"):
        dataset.train[:]


def test_our_cache_is_llm_c_data(tmp_path, tokenizer):
    prepare(Texts("hello world"), tokenizer, cache_dir=tmp_path)
    (shard,) = tmp_path.glob("tokens/*/tokens_000000.bin")
    assert shard.read_bytes() == shard_bytes(20240520, 1, 11, np.frombuffer(b"hello world", np.uint8).astype(np.uint16))
