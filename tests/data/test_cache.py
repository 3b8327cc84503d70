"""The token cache: tokenised once, found again, rebuilt when damaged, safe with several processes."""

import json
import os
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from gollm.data import Texts, open_source, prepare, reading
from gollm.data import token_cache as cache
from gollm.data.token_cache import cached_tokens, tokenizer_fingerprint
from gollm.errors import DataError
from gollm.system import files
from gollm.system.files import cache_folder


def folders(root):
    return sorted((root / "tokens").glob("*/")) if root.exists() else []


def only_cache(root):
    (folder,) = [f for f in folders(root) if f.is_dir()]
    return folder


def test_the_second_start_does_not_tokenise(tmp_path, tokenizer):
    source = tmp_path / "a.txt"
    source.write_text("hello wörld")
    first = cached_tokens(open_source(source), tokenizer, tmp_path / "cache")
    assert bytes(first[:].astype(np.uint8)).decode() == "hello wörld"
    assert tokenizer.calls == 1
    moved = tmp_path / "b.txt"
    source.rename(moved)
    again = cached_tokens(open_source(moved), tokenizer, tmp_path / "cache")
    assert tokenizer.calls == 1 and list(again) == list(first) and again.fingerprint == first.fingerprint


def test_other_text_or_tokenizers_have_caches_of_their_own(tmp_path, make_tokenizer):
    one, two = make_tokenizer(), make_tokenizer(["<x>"])
    assert tokenizer_fingerprint(one) != tokenizer_fingerprint(two)
    path = tmp_path / "a.txt"
    path.write_text("same length")
    status = path.stat()
    tokens = [cached_tokens(open_source(path), t, tmp_path / "cache") for t in (one, two)]
    path.write_text("SAME LENGTH")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # an edit that keeps size and modification time
    tokens.append(cached_tokens(open_source(path), one, tmp_path / "cache"))
    assert len({t.fingerprint for t in tokens}) == 3
    assert bytes(tokens[2][:].astype(np.uint8)) == b"SAME LENGTH"


def test_documents_are_framed_or_separated_by_lines(tmp_path, make_tokenizer):
    source = Texts(["ab", "", "c\n", "d"])
    plain = cached_tokens(source, make_tokenizer(), tmp_path)[:]
    assert bytes(plain.astype(np.uint8)) == b"ab\nc\nd"
    ended = cached_tokens(source, make_tokenizer(["<|pad|>", "<|endoftext|>"]), tmp_path)[:]
    assert ended.tolist() == [*b"ab", 257, *b"c\n", 257, *b"d"]
    assert cached_tokens(Texts("ab"), make_tokenizer(["<|endoftext|>"]), tmp_path)[:].tolist() == [*b"ab"]
    begun = cached_tokens(source, make_tokenizer(["<s>"]), tmp_path)[:]
    assert begun.tolist() == [256, *b"ab", 256, *b"c\n", 256, *b"d"]
    both = cached_tokens(source, make_tokenizer(["<s>", "<|endoftext|>"]), tmp_path)[:]
    assert both.tolist() == [256, *b"ab", 257, 256, *b"c\n", 257, 256, *b"d"]


def test_a_document_of_many_pieces_is_framed_once(tmp_path, make_tokenizer, monkeypatch):
    monkeypatch.setattr(reading, "PIECE_CHARACTERS", 100)
    text = "".join(f"line {i}\n" for i in range(100))
    tokens = cached_tokens(Texts([text, text]), make_tokenizer(["<s>", "<|endoftext|>"]), tmp_path)[:]
    assert tokens.tolist() == [256, *text.encode(), 257, 256, *text.encode()]


def test_several_shards_and_many_pieces(tmp_path, make_tokenizer, monkeypatch):
    monkeypatch.setattr(cache, "SHARD_TOKENS", 1000)
    monkeypatch.setattr(reading, "PIECE_CHARACTERS", 100)
    text = "".join(f"line {i}\n" for i in range(700))
    told = []
    tokens = cached_tokens(Texts(text), make_tokenizer(), tmp_path, progress=lambda *n: told.append(n))
    assert bytes(tokens[:].astype(np.uint8)).decode() == text
    files = sorted(only_cache(tmp_path).glob("*.bin"))
    assert [f.stat().st_size for f in files] == [1024 + 2000] * (len(text) // 1000) + [1024 + 2 * (len(text) % 1000)]
    assert told[-1] == (len(text), len(text)) and told == sorted(told) and len(told) > 10
    exact = cached_tokens(Texts(text[:2000]), make_tokenizer(), tmp_path)
    assert len(exact) == 2000


def test_a_large_vocabulary_takes_four_bytes(tmp_path, make_tokenizer):
    tokenizer = make_tokenizer()
    tokenizer.vocab_size = 70_000
    tokenizer.encode_pieces = lambda pieces: [(np.array([69_999, 1], np.int32), first) for _, first in pieces]
    tokens = cached_tokens(Texts("x"), tokenizer, tmp_path)
    assert tokens[:].tolist() == [69_999, 1]
    assert (only_cache(tmp_path) / "tokens_000000.bin").stat().st_size == 1024 + 8


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "flipped token": lambda f: flip(f / "tokens_000000.bin", 1024 + 77),
    "flipped count": lambda f: flip(f / "tokens_000000.bin", 8),
    "flipped magic": lambda f: flip(f / "tokens_000000.bin", 0),
    "cut off": lambda f: os.truncate(f / "tokens_000000.bin", 1500),
    "empty shard file": lambda f: os.truncate(f / "tokens_000000.bin", 0),
    "no shard": lambda f: (f / "tokens_000000.bin").unlink(),
    "no manifest": lambda f: (f / "manifest.json").unlink(),
    "empty manifest": lambda f: os.truncate(f / "manifest.json", 0),
    "manifest of another kind": lambda f: (f / "manifest.json").write_text('{"shards": 7}'),
    "deep manifest": lambda f: (f / "manifest.json").write_text("[" * 100_000),
    "binary manifest": lambda f: (f / "manifest.json").write_bytes(b"\xff\xfe\x00"),
    "no checksums": lambda f: (f / "manifest.json").write_text(
        json.dumps({"shards": [{**s, "crc32": []} for s in json.loads((f / "manifest.json").read_text())["shards"]]})
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_is_built_again(tmp_path, tokenizer, damage, caplog):
    text = "a corpus of some length " * 100
    cached_tokens(Texts(text), tokenizer, tmp_path)
    DAMAGE[damage](only_cache(tmp_path))
    for _ in range(2):
        tokens = cached_tokens(Texts(text), tokenizer, tmp_path)
        assert bytes(tokens[:].astype(np.uint8)).decode() == text
    assert tokenizer.calls == 2
    assert ("is damaged" in caplog.text) == (damage != "no manifest")
    only_cache(tmp_path)


def test_checks_of_a_large_cache_are_spread_over_it(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(cache, "BLOCK_BYTES", 100)
    monkeypatch.setattr(cache, "CHECKED_BLOCKS", 4)
    monkeypatch.setattr(cache, "SHARD_TOKENS", 500)
    text = "x" * 2000
    cached_tokens(Texts(text), tokenizer, tmp_path)
    checked = []
    crc = cache._crc
    monkeypatch.setattr(cache, "_crc", lambda part, block: checked.append(block) or crc(part, block))
    cached_tokens(Texts(text), tokenizer, tmp_path)
    assert len(checked) == 4 and tokenizer.calls == 1
    flip(only_cache(tmp_path) / "tokens_000003.bin", 1024 + 999)  # the last block is always among them
    cached_tokens(Texts(text), tokenizer, tmp_path)
    assert tokenizer.calls == 2


def test_leftovers_of_a_killed_build_go(tmp_path, tokenizer):
    cached_tokens(Texts("one"), tokenizer, tmp_path)
    folder = only_cache(tmp_path)
    left = folder.with_name(f".{folder.name}.123-0123abcd.tmp")
    shutil.copytree(folder, left)
    shutil.rmtree(folder)
    cached_tokens(Texts("one"), tokenizer, tmp_path)
    assert not left.exists() and only_cache(tmp_path) == folder


def test_a_failed_build_leaves_nothing(tmp_path, tokenizer):
    class Failing(Texts):
        def pieces(self, on_read=None):
            yield reading.DocumentPiece("x" * 10, True)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_tokens(Failing("abc"), tokenizer, tmp_path)
    assert [p.suffix for p in (tmp_path / "tokens").iterdir()] == [".lock"]


def test_text_that_changes_while_it_is_read_is_noticed(tmp_path, tokenizer):
    path = tmp_path / "a.txt"
    path.write_text("before")

    class Writing(type(tokenizer)):
        def encode_pieces(self, pieces):
            path.write_text("after, longer")
            return super().encode_pieces(pieces)

    with pytest.raises(DataError, match="changed while it was being read"):
        cached_tokens(open_source(path), Writing(), tmp_path / "cache")


def test_empty_corpora_are_refused(tmp_path, tokenizer):
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "b.jsonl").write_text('{"text": ""}\n')
    for source in (Texts([]), Texts(["", ""]), open_source(tmp_path / "a.txt"), open_source(tmp_path / "b.jsonl")):
        with pytest.raises(DataError, match="holds no text"):
            prepare(source, tokenizer, cache_dir=tmp_path / "cache")


def test_a_cache_that_cannot_be_written(tmp_path, tokenizer):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot use the cache folder .*GOLLM_CACHE"):
        cached_tokens(Texts("abc"), tokenizer, tmp_path / "file" / "cache")


def test_a_cache_that_can_only_be_read_serves(tmp_path, tokenizer, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("abc")
    cached_tokens(open_source(path), tokenizer, tmp_path)

    def refuse(*_):
        raise PermissionError("a write")

    for module, name in ((cache, "_lock"), (cache, "temporary_name"), (files, "temporary_name")):
        monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr(cache, "REMEMBER_FROM_BYTES", 1)
    monkeypatch.setattr(type(open_source(path)), "newest_change", lambda self: 0.0)
    assert len(cached_tokens(open_source(path), tokenizer, tmp_path)) == 3
    assert not list(tmp_path.glob("sources/*"))


FULL_DISK = """
import resource, sys
from gollm.data import Texts
from gollm.data.token_cache import cached_tokens
from gollm.errors import DataError

sys.path.insert(0, sys.argv[2])
from conftest import ByteTokenizer

resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    cached_tokens(Texts("x" * 100_000), ByteTokenizer(), sys.argv[1])
except DataError as error:
    print(error)
"""


def test_a_full_disk(tmp_path):
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path), os.path.dirname(__file__)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "cannot use the cache folder" in done.stdout and "File too large" in done.stdout
    assert [p.suffix for p in (tmp_path / "tokens").iterdir()] == [".lock"]


def test_the_hash_of_a_large_corpus_is_remembered(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(cache, "REMEMBER_FROM_BYTES", 10)
    path = tmp_path / "a.txt"
    path.write_text("a corpus that counts as large")
    source = open_source(path)
    hashed = []
    monkeypatch.setattr(type(source), "fingerprint", lambda self: hashed.append(1) or "ab" * 32)
    cached_tokens(source, tokenizer, tmp_path / "cache")
    cached_tokens(source, tokenizer, tmp_path / "cache")
    assert len(hashed) == 2  # too fresh: it might change within the clock's tick
    monkeypatch.setattr(type(source), "newest_change", lambda self: 0.0)
    cached_tokens(source, tokenizer, tmp_path / "cache")
    cached_tokens(source, tokenizer, tmp_path / "cache")
    assert len(hashed) == 3
    (memory,) = (tmp_path / "cache" / "sources").iterdir()
    memory.write_text("damaged")
    cached_tokens(source, tokenizer, tmp_path / "cache")
    assert len(hashed) == 4
    path.write_text("a corpus that counts as large!")
    cached_tokens(source, tokenizer, tmp_path / "cache")
    assert len(hashed) == 5


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.delenv("GOLLM_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "gollm"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert str(cache_folder()) == "/x/gollm"
    monkeypatch.setenv("GOLLM_CACHE", "/y")
    assert str(cache_folder()) == "/y"
    assert str(cache_folder("/z")) == "/z"


WORKER = textwrap.dedent("""
    import os, sys, time
    sys.path.insert(0, sys.argv[2])
    from conftest import ByteTokenizer
    from gollm.data import Texts
    from gollm.data.token_cache import cached_tokens

    class Slow(ByteTokenizer):
        def encode_pieces(self, pieces):
            open(os.path.join(sys.argv[1], f"built-{os.getpid()}"), "w").close()
            time.sleep(0.3)
            return super().encode_pieces(pieces)

    tokens = cached_tokens(Texts("shared corpus " * 1000), Slow(), os.path.join(sys.argv[1], "cache"))
    print(len(tokens), tokens[:].sum())
""")


def test_processes_that_start_at_once_share_one_build(tmp_path):
    command = [sys.executable, "-c", WORKER, str(tmp_path), os.path.dirname(__file__)]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    outputs = {worker.communicate(timeout=60)[0] for worker in workers}
    assert outputs == {f"14000 {sum(b'shared corpus ') * 1000}\n"}
    assert [worker.returncode for worker in workers] == [0] * 4
    assert len(list(tmp_path.glob("built-*"))) == 1


def test_a_build_that_is_killed_is_done_again(tmp_path):
    command = [sys.executable, "-c", WORKER, str(tmp_path), os.path.dirname(__file__)]
    worker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("built-*")):
        assert worker.poll() is None
    worker.kill()
    worker.communicate()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("14000 ")
    assert len(list((tmp_path / "cache" / "tokens").iterdir())) == 2  # the cache and its lock


def test_the_split(tmp_path, tokenizer):
    text = "x" * 1000
    dataset = prepare(Texts(text), tokenizer, validation_fraction=0.25, cache_dir=tmp_path)
    assert (len(dataset.train), len(dataset.validation)) == (750, 250)
    dataset = prepare(Texts(text), tokenizer, validation_fraction=0, cache_dir=tmp_path)
    assert (len(dataset.train), len(dataset.validation)) == (1000, 0)
    other = prepare(Texts(text), tokenizer, validation_source=Texts("yyy"), cache_dir=tmp_path)
    assert (len(other.train), other.validation[:].tolist()) == (1000, [121] * 3)
    assert dataset.fingerprint != other.fingerprint
    assert tokenizer.calls == 2
    for fraction in (1, -0.1, float("nan")):
        with pytest.raises(DataError, match="validation fraction"):
            prepare(Texts(text), tokenizer, validation_fraction=fraction, cache_dir=tmp_path)
    with pytest.raises(DataError, match="leaves none to train on"):
        prepare(Texts("ab"), tokenizer, validation_fraction=0.9, cache_dir=tmp_path)


def test_tiny_shakespeare_splits_as_nanogpt_does(tmp_path, tokenizer):
    path = os.path.join(os.path.dirname(__file__), "../../../shared/data/tinyshakespeare.txt")
    if not os.path.exists(path):
        pytest.skip("no tinyshakespeare.txt beside the repository")
    dataset = prepare(open_source(path), tokenizer, validation_split="end", cache_dir=tmp_path)
    assert (len(dataset.train), len(dataset.validation)) == (1_003_854, 111_540)
