"""gollm tokenizer train|encode|decode and gollm encode, as a user runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gollm import tokenizers
from gollm.formats.golm.checkpoint import write_checkpoint

from .conftest import Run

TEXT = "the cat sat on the mat. the dog sat on the cat!\n" * 20 + "Grüße, 世界 🙂\n"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    (tmp_path / "corpus.txt").write_text(TEXT, encoding="utf-8")
    return tmp_path / "corpus.txt"


@pytest.fixture
def bpe(tmp_path: Path) -> Path:
    tokenizers.save(tokenizers.BPETokenizer.train(TEXT, 270, special_tokens=["<|endoftext|>"]), tmp_path / "bpe.json")
    return tmp_path / "bpe.json"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("bpe", ["--vocab-size", "270"]),
        ("character", []),
        ("word", []),
        ("word", ["--vocab_size=12"]),
        ("wordpiece", ["--vocab-size", "90"]),
    ],
)
def test_train_writes_what_the_library_learns(
    kind: str, words: list[str], corpus: Path, tmp_path: Path, run: Run
) -> None:
    out = tmp_path / "t.json"
    result = run("tokenizer", "train", "--corpus", corpus, "--kind", kind, "--out", out, "--json", *words)
    assert (result.status, result.err) == (0, "")
    made = tokenizers.load(out)
    assert made.kind == kind and "<|endoftext|>" in made.special_tokens
    assert json.loads(result.out) == {
        "path": str(out),
        "kind": kind,
        "vocab_size": made.vocab_size,
        "special_tokens": made.special_tokens,
        "corpus": str(corpus),
        "corpus_bytes": len(TEXT.encode()),
    }


@pytest.mark.parametrize("split", ["llama3", r"\w+|\W"])
def test_train_with_another_split(split: str, corpus: Path, tmp_path: Path, run: Run) -> None:
    out = tmp_path / "t.json"
    assert run("tokenizer", "train", corpus, "--vocab-size", "270", "--split", split, "--out", out).status == 0
    made = tokenizers.load(out)
    assert isinstance(made, tokenizers.BPETokenizer) and made.pattern == split
    assert (made.merges == tokenizers.BPETokenizer.train(TEXT, 269, pattern=split).merges).all()
    wrong = run("tokenizer", "train", corpus, "--split", "llama-3", "--out", tmp_path / "x.json")
    assert wrong.status == 2 and "unknown pre-tokenizer pattern 'llama-3'; known are gpt2" in wrong.err
    other = run("tokenizer", "train", corpus, "--kind", "word", "--split", split, "--out", tmp_path / "x.json")
    assert other.status == 2 and "only bpe has a choice of patterns" in other.err


def test_train_from_a_folder_with_a_pattern(corpus: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "other.md").write_text("XYZ" * 50)
    out = tmp_path / "out" / "t.json"
    out.parent.mkdir()
    result = run("tokenizer", "train", "--data", tmp_path, "--pattern", "*.txt", "--kind", "character", "--output", out)
    assert result.status == 0 and result.out.startswith(f"{out}: character with ")
    ordinary = set(map(chr, range(65, 91))) & {t.decode() for t in tokenizers.load(out).vocabulary if len(t) == 1}
    assert ordinary == {"G"}


def test_train_from_standard_input() -> None:
    command = [sys.executable, "-m", "gollm", "tokenizer", "train", "-", "--kind", "character", "--out", "/dev/null"]
    result = subprocess.run([*command, "--json"], input=b"abc", capture_output=True)
    assert result.returncode == 1 and b"/dev/null is there already" in result.stderr


def test_train_keeps_what_is_there(corpus: Path, bpe: Path, run: Run) -> None:
    before = bpe.read_bytes()
    result = run("tokenizer", "train", corpus, "--out", bpe)
    assert result.status == 1 and result.out == ""
    assert result.err == f"gollm: {bpe} is there already; choose another file with --out, or --overwrite it\n"
    assert bpe.read_bytes() == before
    assert run("tokenizer", "train", corpus, "--out", bpe, "--vocab-size", 265, "--overwrite").status == 0
    assert tokenizers.load(bpe).vocab_size == 265


@pytest.mark.parametrize("front", [("encode",), ("tokenizer", "encode")])
def test_encode(front: tuple[str, ...], bpe: Path, run: Run) -> None:
    ids = tokenizers.load(bpe).encode("the cat").tolist()
    for words in (["--text", "the cat"], ["the cat"]):
        assert run(*front, "--tokenizer", bpe, *words) == (0, " ".join(map(str, ids)) + "\n", "")
    assert run(*front, "--model", bpe, "-", stdin=b"the cat").out.split() == [str(i) for i in ids]
    assert json.loads(run(*front, "--tokenizer", bpe, "the cat", "--json").out) == {
        "ids": ids,
        "pieces": [tokenizers.load(bpe).decode([i]) for i in ids],
        "vocab_size": 270,
    }


def test_special_tokens_are_text_unless_allowed(bpe: Path, run: Run) -> None:
    end = tokenizers.load(bpe).special_tokens["<|endoftext|>"]
    plain = run("encode", "--tokenizer", bpe, "<|endoftext|>").out.split()
    assert len(plain) > 1 and str(end) not in plain
    assert run("encode", "--tokenizer", bpe, "<|endoftext|>", "--special").out.split() == [str(end)]


def test_decode_gives_the_bytes_back(bpe: Path, run: Run) -> None:
    ids = run("encode", "--tokenizer", bpe, TEXT).out
    assert run("tokenizer", "decode", "--tokenizer", bpe, *ids.split()) == (0, TEXT, "")
    assert run("tokenizer", "decode", "--tokenizer", bpe, "--ids", "-", stdin=ids.encode()).out == TEXT
    found = json.loads(run("tokenizer", "decode", "--tokenizer", bpe, "--json", *ids.split()).out)
    assert found == {"ids": [int(i) for i in ids.split()], "text": TEXT}


def test_decode_writes_bytes_that_are_no_text(bpe: Path) -> None:
    ids = [tokenizers.load(bpe).encode("世").tolist()[0]]
    command = [sys.executable, "-m", "gollm", "tokenizer", "decode", "--tokenizer", bpe, *map(str, ids)]
    assert subprocess.run(command, capture_output=True, check=True).stdout == tokenizers.load(bpe).decode_bytes(ids)


def test_the_tokenizer_inside_of_a_checkpoint(bpe: Path, tmp_path: Path, run: Run) -> None:
    weights = {"w": np.zeros(1, np.float32)}
    with_one, without = tmp_path / "a.golm", tmp_path / "b.golm"
    write_checkpoint(with_one, config={}, tensors=weights, tokenizer_state=tokenizers.load(bpe).to_state())
    write_checkpoint(without, config={}, tensors=weights)
    assert run("encode", "--model", with_one, "the cat") == run("encode", "--tokenizer", bpe, "the cat")
    result = run("encode", "--model", without, "the cat")
    assert result == (1, "", f"gollm: {without} has no tokenizer inside; name one with --tokenizer\n")


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["encode", "text"], 2, "--tokenizer is needed: tokenizer file or folder"),
        (["encode", "--tokenizer", "T"], 2, "--text is needed: text, or - for standard input"),
        (["encode", "--tokenizer", "T", "two", "words"], 2, "unexpected argument 'words'; --text has its value"),
        (["encode", "--tokenizer", "none.json", "x"], 1, "none.json"),
        (["encode", "--tokenizer", "none.golm", "x"], 1, "none.golm"),
        (["encode", "--tokenizer", "corpus.txt", "x"], 1, "corpus.txt"),
        (["encode", "--tokenizer", "T", "\udcff"], 1, "surrogate"),
        (["tokenizer", "decode", "--tokenizer", "T"], 2, "--ids is needed"),
        (["tokenizer", "decode", "--tokenizer", "T", "1", "x"], 2, "'x' is no token id; ids are whole numbers"),
        (["tokenizer", "decode", "--tokenizer", "T", "1", "300"], 1, "300"),
        (["tokenizer", "decode", "--tokenizer", "T", "99999999999999999999"], 2, "is no token id"),
        (["tokenizer", "train", "--corpus", "missing.txt"], 1, "missing.txt"),
        (["tokenizer", "train", "--corpus", "empty.txt"], 1, "no text"),
        (["tokenizer", "train", "--corpus", "latin1.txt"], 1, "latin1.txt"),
        (["tokenizer", "train", "--corpus", "corpus.txt", "--vocab-size", "0"], 2, "--vocab-size is 0; it must be"),
        (["tokenizer", "train", "--corpus", "corpus.txt", "--vocab-size", "100"], 2, "100"),
        (
            ["tokenizer", "train", "--corpus", "corpus.txt", "--kind", "unigram"],
            2,
            "--kind is 'unigram'; it must be one",
        ),
        (["tokenizer", "train", "--corpus", "corpus.txt", "--out", "no/folder/t.json"], 1, "no/folder/t.json"),
        (["tokenizer", "train", "--corpus", "corpus.txt", "--special-tokens", "a", "a"], 1, "'a'"),
    ],
)
def test_mistakes(
    words: list[str], status: int, message: str, bpe: Path, corpus: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(corpus.parent)
    Path("empty.txt").touch()
    Path("latin1.txt").write_bytes("Grüße".encode("latin-1"))
    result = run(*[str(bpe) if word == "T" else word for word in words])
    assert (result.status, result.out) == (status, "")
    assert result.err.startswith("gollm: ") and result.err.count("\n") == 1 and message in result.err
    assert "inside of gollm" not in result.err
    assert not os.path.exists("tokenizer.json")


def test_standard_input_that_is_no_text(bpe: Path, run: Run) -> None:
    result = run("encode", "--tokenizer", bpe, "-", stdin=b"ab\xffc")
    assert result == (
        1,
        "",
        "gollm: standard input is not UTF-8 text: byte 0xff at line 1, byte 2. Convert it to UTF-8 first\n",
    )
