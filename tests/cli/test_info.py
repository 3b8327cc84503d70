"""gollm info."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gollm.formats.golm.checkpoint import checkpoint_info, write_checkpoint
from gollm.tokenizers import CharacterTokenizer

from .conftest import Run


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "a.golm"
    write_checkpoint(
        path,
        config={"n_layers": 2, "bias": True, "vocab_size": 5},
        tensors={"head": np.zeros((5, 3), np.float32), "norm": np.zeros(3, np.float32)},
        generation={"top_k": 5, "min_p": 0.5, "chat_template": "{{ a }}", "chat_templates": {"tool_use": "{{ b }}"}},
        tokenizer_state=CharacterTokenizer.train("abcde").to_state(),
        training={"step": 1234},
        training_tensors={"moments": np.zeros(36, np.float32)},
    )
    return path


def test_lines(checkpoint: Path, run: Run) -> None:
    result = run("info", checkpoint)
    assert (result.status, result.err) == (0, "")
    for part in (
        f"{checkpoint}, {checkpoint.stat().st_size:,} bytes",
        "18 in ",
        "n_layers 2",
        "bias yes",
        "character, 5 tokens",
        "after step 1,234, ",
        "generation min_p 0.5, top_k 5, chat template, chat template 'tool_use'\n",
        "sampling   max_new_tokens 200, temperature 0.8, top_k 5, top_p 1.0, min_p 0.5, repetition_penalty 1.0\n",
    ):
        assert part in result.out
    assert "moments" not in result.out
    listed = run("info", "--tensors", checkpoint).out
    table = [line.split(maxsplit=2) for line in listed.splitlines()]
    assert ["head", "f32", f"{'5 x 3':16} weights"] in table
    assert ["training/moments", "f32", f"{'36':16} training"] in table


def test_json(checkpoint: Path, run: Run) -> None:
    found = json.loads(run("info", "--model", checkpoint, "--json").out)
    assert found.pop("sampling") == {
        "max_new_tokens": 200, "temperature": 0.8, "top_k": 5, "top_p": 1.0, "min_p": 0.5, "repetition_penalty": 1.0,
    }  # fmt: skip
    assert found == checkpoint_info(checkpoint)


def test_mistakes(tmp_path: Path, run: Run) -> None:
    (tmp_path / "a.txt").write_text("this is no checkpoint")
    for path in (tmp_path / "a.txt", tmp_path / "none.golm", tmp_path):
        result = run("info", path)
        assert (result.status, result.out, result.err.count("\n")) == (1, "", 1)
        assert result.err.startswith("gollm: ") and str(path) in result.err and "inside of gollm" not in result.err
    assert run("info").err.startswith("gollm: --model is needed: a model")


def test_a_run_folder_stands_for_its_best_checkpoint(checkpoint: Path, run: Run) -> None:
    folder = checkpoint.parent / "run"
    folder.mkdir()
    for name in ("step-00000900.golm", "step-00001000.golm", "step-100000000.golm"):
        (folder / name).write_bytes(checkpoint.read_bytes())
    assert run("info", folder).out.startswith(f"file       {folder / 'step-100000000.golm'}, ")
    (folder / "best.golm").write_bytes(checkpoint.read_bytes())
    assert run("info", folder).out.startswith(f"file       {folder / 'best.golm'}, ")
