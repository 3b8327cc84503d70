"""Mistakes that the words of a command line alone show end with 2; what they name that is not there, with 1."""

from __future__ import annotations

from pathlib import Path

import pytest

import gollm
from gollm.model.config import preset
from gollm.tokenizers import BPETokenizer

from .conftest import Run


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "m.golm"
    tokenizer = BPETokenizer.train("hello world", 257)
    decoder = gollm.Decoder(preset("tiny").replace(vocab_size=257)).initialise(0)
    gollm.LanguageModel(decoder, tokenizer).save(path)
    return path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("convert M new.json --dtype q8_0", "dtype is 'q8_0'; json is written as f32"),
        ("convert none.golm new.json --dtype q8_0", "dtype is 'q8_0'; json is written as f32"),
        ("pull a/b/c", "the model is called 'a/b/c'; it must be ORG/NAME, as on the hub"),
        ("eval none.golm --data none.txt --context 8 --stride 9", "--stride is 9; it must be at most --context (8)"),
        ("eval M --data TEXT --stride 999", "stride is 999; it must be from 1 to the context of a window (64)"),
        ("train TEXT --vocab-size 100", "vocab_size is 100; with 1 special tokens it must be from 257 to 1048575"),
        ("train TEXT --vocab-size 1e7", "vocab_size is 10000000; with 1 special tokens it must be from 257 to"),
        ("train TEXT --tokenizer word --vocab-size 1", "vocab_size is 1; with 1 special tokens it must be from 2 to"),
        ("tokenizer train TEXT --vocab-size 256", "vocab_size is 256; with 1 special tokens it must be from 257 to"),
    ],
)
def test_mistakes_of_the_words(words: str, message: str, model: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "text.txt").write_text("hello world " * 100)
    names = {"M": str(model), "TEXT": str(tmp_path / "text.txt")}
    status, out, err = run(*[names.get(word, word) for word in words.split()])
    assert (status, out, err.count("\n")) == (2, "", 1) and err.startswith(f"gollm: {message}")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("HuggingFaceTB/SmolLM2-135M", True),
        ("gpt2", True),
        ("best.golm", False),
        ("here/gpt2", False),
        ("../gpt2", False),
        ("a b", False),
        ("a/b/c", False),
    ],
)
def test_a_name_of_the_hub_where_a_path_is_meant(
    name: str, hint: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    said = f"; a model on the Hugging Face hub is fetched with: gollm pull {name}" if hint else ""
    for words in (["generate", name, "hi"], ["info", name], ["encode", "hi", "--tokenizer", name]):
        assert run(*words) == (1, "", f"gollm: there is no file or folder {name}{said}\n")
