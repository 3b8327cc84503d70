"""The model that comes with gollm: it opens by its name everywhere, and generates what it learned."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import gollm
from gollm import formats
from gollm.errors import FormatError
from gollm.formats.box import BOX

NAMES = [path.stem for path in BOX.glob("*.golm")]
MAX_BYTES = 2 << 20


def command(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "gollm", *words], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_small_and_writes_plays() -> None:
    assert NAMES == ["shakespeare"] and sum(path.stat().st_size for path in BOX.iterdir()) < MAX_BYTES
    text = gollm.load("shakespeare").generate("ROMEO:", max_new_tokens=200, temperature=0.8, seed=1)
    known = {
        word for name in ("the", "and", "my", "to", "thou", "you", "I", "of", "a") for word in (name, name.title())
    }
    words = text.split()
    assert sum(word.strip(",.;:?!") in known for word in words) > len(words) / 10


def test_every_command_takes_its_name(tmp_path: Path) -> None:
    assert command(tmp_path, "generate", "shakespeare", "ROMEO:", "-n", "5", "--seed", "1").startswith("ROMEO:")
    assert "int8" in command(tmp_path, "info", "shakespeare")
    assert command(tmp_path, "encode", "--tokenizer", "shakespeare", "--text", "ROMEO:").split()
    command(tmp_path, "convert", "shakespeare", "s.gguf")
    command(tmp_path, "quantize", "shakespeare", "s.golm", "--weights", "int4")
    expected = gollm.load("shakespeare").generate("ROMEO:", max_new_tokens=8, temperature=0)
    assert gollm.load(tmp_path / "s.gguf").generate("ROMEO:", max_new_tokens=8, temperature=0) == expected


def test_adapters_of_it_find_it_again(tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").write_text('{"prompt": "Who?", "completion": "I."}\n')
    words = (
        "--lora-rank",
        "2",
        "--steps",
        "1",
        "--batch-size",
        "1",
        "--validation-fraction",
        "0",
        "--sample-tokens",
        "0",
    )
    command(tmp_path, "finetune", "shakespeare", "one.jsonl", *words, "--out", "run")
    (tmp_path / "elsewhere").mkdir()
    assert command(tmp_path / "elsewhere", "generate", "../run", "Who?", "-n", "3").startswith("Who?")


def test_a_file_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("shakespeare").write_text("not a model")
    with pytest.raises(FormatError, match="shakespeare is no model"):
        gollm.load("shakespeare")
    with pytest.raises(FormatError, match="there is no file or folder box/shakespeare"):
        formats.open_model("box/shakespeare")
    with pytest.raises(FormatError, match=r"cannot read x+: File name too long"):
        formats.open_model("x" * 5000)
    with pytest.raises(FormatError, match="folder Shakespere; did you mean shakespeare, which comes with gollm"):
        formats.open_model("Shakespere")
