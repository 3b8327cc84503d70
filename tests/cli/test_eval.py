"""gollm eval."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import gollm.evaluation
from gollm.data import open_source
from gollm.evaluation import evaluate_model
from gollm.language_model import LanguageModel, load
from gollm.model.config import preset
from gollm.model.decoder import Decoder
from gollm.tokenizers import BPETokenizer

from .conftest import Run

TEXT = "hello world, this is a text\nand this is another one\n" * 9


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two models, full.golm and model.golm, and text.txt."""
    monkeypatch.setenv("GOLLM_CACHE", str(tmp_path / "cache"))
    tokenizer = BPETokenizer.train(TEXT, 270, special_tokens=["<|endoftext|>"])
    decoder = Decoder(preset("tiny").replace(vocab_size=270, context=16)).initialise(1)
    LanguageModel(decoder, tokenizer).save(tmp_path / "full.golm")
    table = decoder.parameters["token_embedding"].data
    table += 0.01 * np.random.default_rng(1).standard_normal(table.shape, dtype=np.float32)
    LanguageModel(decoder, tokenizer).save(tmp_path / "model.golm")
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path


def test_table(run: Run, files: Path) -> None:
    found = evaluate_model(load(files / "model.golm"), open_source(files / "text.txt"))
    result = run("eval", files / "model.golm", "--data", files / "text.txt")
    assert (result.status, result.err) == (0, "")
    assert f"text.txt: {found.n_tokens:,} tokens scored, windows of 16, 16 apart" in result.out
    assert f"perplexity      {found.perplexity}\n" in result.out
    assert f"{found.bits_per_byte:.4f} bits per byte" in result.out and "full model" not in result.out


def test_table_of_two(run: Run, files: Path) -> None:
    command = ["eval", files / "model.golm", "--data", files / "text.txt", "--against", files / "full.golm"]
    result = run(*command)
    assert (result.status, result.err) == (0, "")
    rows = [line[:16].strip() for line in result.out.splitlines()]
    assert rows == [
        *("model", "data", "perplexity", "cross-entropy", "", "full model", "its perplexity", "ratio", "log ratio"),
        *("KL, mean", "KL, median", "KL, 99 %", "RMS Δp", "same top token"),
    ]
    itself = run(*command[:-1], files / "model.golm").out
    assert "ratio           1 ± 0 (" in itself and "same top token  100 ± 0 %" in itself


def test_json(run: Run, files: Path) -> None:
    command = ["eval", "--model", files / "model.golm", "--data", files / "text.txt", "--json"]
    alone = json.loads(run(*command).out)
    assert alone["full_model"] is None and alone["against"] is None
    options = ["--context", "8", "--stride", "4", "--max-tokens", "50", "--against", files / "full.golm"]
    result = run(*command, *options)
    found = json.loads(result.out)
    expected = evaluate_model(
        load(files / "model.golm"),
        open_source(files / "text.txt"),
        against=load(files / "full.golm"),
        context=8,
        stride=4,
        max_tokens=50,
    )
    assert (result.status, result.err) == (0, "")
    assert {name: found[name] for name in expected.to_dict()} == expected.to_dict()
    assert found["n_tokens"] == 50 and found["model"] == str(files / "model.golm")
    assert found["full_model"] == str(files / "full.golm") and found["data"] == str(files / "text.txt")


def test_standard_input_and_folders(run: Run, files: Path) -> None:
    (files / "folder").mkdir()
    (files / "folder" / "a.jsonl").write_text(json.dumps({"words": TEXT}))
    (files / "folder" / "b.txt").write_text("left out")
    command = ["eval", files / "model.golm", "--json", "--data"]
    piped = json.loads(run(*command, "-", stdin=TEXT.encode()).out)
    folder = json.loads(run(*command, files / "folder", "--pattern", "*.jsonl", "--field", "words").out)
    assert piped["perplexity"] == folder["perplexity"]


def test_mistakes(run: Run, files: Path) -> None:
    (files / "empty.txt").write_text("")
    (files / "short.txt").write_text("h")
    model, text = files / "model.golm", files / "text.txt"
    assert run("eval", model).status == 2
    result = run("eval", model, "--data", files / "empty.txt")
    assert (result.status, result.err.count("\n")) == (1, 1) and "empty.txt holds no text" in result.err
    result = run("eval", model, "--data", files / "short.txt")
    assert (result.status, result.err.count("\n")) == (1, 1) and "has 1 token, and the first" in result.err
    result = run("eval", model, "--data", text, "--context", "17")
    assert result == (2, "", "gollm: context is 17; it must be from 1 to the model's context (16)\n")
    assert "nothing" in run("eval", model, "--data", text, "--against", files / "nothing").err


def test_an_interruption(run: Run, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, progress, **__: object) -> None:
        progress(3, 10)
        raise KeyboardInterrupt

    monkeypatch.setattr(gollm.evaluation, "evaluate_model", interrupted)
    assert run("eval", files / "model.golm", "--data", files / "text.txt") == (130, "", "")
