"""gollm generate."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import gollm
from gollm.language_model import LanguageModel
from gollm.model.config import preset
from gollm.model.decoder import Decoder
from gollm.tokenizers import CharacterTokenizer

from .conftest import Run

PROMPT = "hello"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained tiny model of characters."""
    path = tmp_path_factory.mktemp("model") / "tiny.golm"
    tokenizer = CharacterTokenizer.train("hello world, this is a text ü\n")
    LanguageModel(Decoder(preset("tiny").replace(vocab_size=tokenizer.vocab_size)).initialise(0), tokenizer).save(path)
    return path


def test_prints_prompt_and_continuation(checkpoint: Path, run: Run) -> None:
    words = ["--max-new-tokens", "30", "--temperature", "0.9", "--top-k", "5", "--top-p=0.9", "--seed", "3"]
    text = gollm.load(checkpoint).generate(PROMPT, max_new_tokens=30, temperature=0.9, top_k=5, top_p=0.9, seed=3)
    assert run("generate", "--model", checkpoint, "--prompt", PROMPT, *words) == (0, PROMPT + text + "\n", "")
    assert run("generate", checkpoint, "--prompt", PROMPT, "--no-echo", *words) == (0, text + "\n", "")
    assert run("generate", checkpoint, "--prompt", "-", *words, stdin=PROMPT.encode()).out == PROMPT + text + "\n"


def test_json(checkpoint: Path, run: Run) -> None:
    found = json.loads(run("generate", checkpoint, "--prompt", PROMPT, "--max_new_tokens=10", "--seed=4", "--json").out)
    text = gollm.load(checkpoint).generate(PROMPT, max_new_tokens=10, seed=4)
    assert found == {"model": str(checkpoint), "prompt": PROMPT, "text": text, "seed": 4}


def test_options_from_a_file(checkpoint: Path, tmp_path: Path, run: Run) -> None:
    file = tmp_path / "g.yaml"
    file.write_text(f"model: {checkpoint}\nprompt: {PROMPT}\nmax-new-tokens: 5\ntemperature: 0\n")
    assert run("generate", "--config", file) == run(
        "generate", checkpoint, "--prompt", PROMPT, "--max-new-tokens", 5, "--temperature", 0
    )


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["generate"], 2, "--model is needed"),
        (["generate", "none.golm"], 1, "none.golm"),
        (["generate", "M"], 1, "the prompt is empty"),
        (["generate", "M", "--prompt", "x" * 65], 1, "x"),
        (["generate", "M", "--prompt", "hello " * 11], 1, "context (64)"),
        (
            ["generate", "M", "--prompt", "h", "--temperature", "-1"],
            2,
            "--temperature is -1.0; it must be a number, at",
        ),
        (["generate", "M", "--prompt", "h", "--top-p", "0"], 2, "--top-p is 0.0; it must be a number, above 0 and at"),
        (["generate", "M", "--prompt", "h", "--top-p", "1.5"], 2, "--top-p is 1.5"),
        (
            ["generate", "M", "--prompt", "h", "--top-k", "-1"],
            2,
            "--top-k is -1; it must be a whole number, at least 0",
        ),
        (["generate", "M", "--prompt", "h", "--max-tokens", "5"], 2, "did you mean --max-new-tokens?"),
        (["generate", "M", "--prompt", "two", "words"], 2, "'words' is one value too many for --model"),
    ],
)
def test_mistakes(words: list[str], status: int, message: str, checkpoint: Path, run: Run) -> None:
    result = run(*[str(checkpoint) if word == "M" else word for word in words])
    assert (result.status, result.out, result.err.count("\n")) == (status, "", 1)
    assert result.err.startswith("gollm: ") and message in result.err and "inside of gollm" not in result.err


def test_the_text_streams_and_an_interruption_is_quiet(checkpoint: Path) -> None:
    command = [sys.executable, "-m", "gollm", "generate", checkpoint, "--prompt", PROMPT, "--max-new-tokens", "9999999"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None and child.stderr is not None
    assert child.stdout.read(len(PROMPT) + 20).startswith(PROMPT.encode())  # long before the end
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130 and err == b"" and out.endswith(b"\n")


def test_a_reader_that_leaves_is_no_error(checkpoint: Path) -> None:
    command = [sys.executable, "-m", "gollm", "generate", checkpoint, "--prompt", PROMPT, "--max-new-tokens", "9999999"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None and child.stderr is not None
    child.stdout.read(10)
    child.stdout.close()
    assert child.stderr.read() == b""
    child.stderr.close()
    assert child.wait(timeout=60) == 141
