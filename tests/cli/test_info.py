"""gollm info."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gollm import tokenizers
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
    assert found.pop("provenance") is None
    assert found == checkpoint_info(checkpoint)


def test_what_is_not_said_is_not_shown(checkpoint: Path, run: Run, tmp_path: Path) -> None:
    config = {"n_layers": 2, "qkv_bias": None, "bias": False}
    write_checkpoint(tmp_path / "b.golm", config=config, tensors={"norm": np.zeros(3, np.float32)})
    out = run("info", tmp_path / "b.golm").out
    assert "\nmodel      bias no, n_layers 2\n" in out and "None" not in out


def test_a_run_says_where_its_model_comes_from(checkpoint: Path, run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "my run"
    folder.mkdir()
    (folder / "config.yaml").write_text("data: [a.txt, b.txt]\nsteps: 1400\n")
    lines = [{"step": n, "loss": 3 - n / 1000} for n in range(1, 1401)]
    lines[1249]["validation_loss"], lines[1399]["validation_loss"] = 2.5, 2.75
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for name in ("step-00001234.golm", "best.golm"):
        (folder / name).write_bytes(checkpoint.read_bytes())
    out = run("info", folder / "step-00001234.golm").out
    command = f"gollm train --config '{folder / 'config.yaml'}' --out NEW_FOLDER"
    assert f"\ntrained on a.txt, b.txt\ncommand    {command}\nweights of step 1,234 of 1,400, loss 1.7660\n" in out
    found = json.loads(run("info", folder / "step-00001234.golm", "--json").out)["provenance"]
    assert (found["data"], found["command"], found["step"]) == (["a.txt", "b.txt"], command, 1234)
    write_checkpoint(folder / "best.golm", config={"n_layers": 2}, tensors={"norm": np.zeros(3, np.float32)})
    assert "weights of step 1,250 of 1,400, loss 1.7500, validation loss 2.5000\n" in run("info", folder).out + "\n"
    (folder / "metrics.jsonl").unlink()
    assert "trained on a.txt, b.txt" in run("info", folder).out and "weights of" not in run("info", folder).out
    (folder / "config.yaml").write_text(": : :")
    assert "trained on" not in run("info", folder).out


def test_tokenizers_too(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    tokenizers.save(CharacterTokenizer.train("abc", special_tokens=["<|endoftext|>"]), file)
    lines = [f"file       {file}, a tokenizer", "tokenizer  character, 4 tokens", "special    '<|endoftext|>' 3"]
    assert run("info", file) == (0, "\n".join([*lines, "documents  end 3\n"]), "")
    assert json.loads(run("info", tmp_path, "--json").out) == {
        "path": str(tmp_path), "kind": "character", "vocab_size": 4, "special_tokens": {"<|endoftext|>": 3},
        "begin": [], "end": [3],
    }  # fmt: skip


def test_mistakes(tmp_path: Path, run: Run) -> None:
    (tmp_path / "a.txt").write_text("this is no checkpoint")
    for path in (tmp_path / "a.txt", tmp_path / "none.golm", tmp_path):
        result = run("info", path)
        assert (result.status, result.out, result.err.count("\n")) == (1, "", 1)
        assert result.err.startswith("gollm: ") and str(path) in result.err and "inside of gollm" not in result.err
    assert run("info").err.startswith("gollm: --model is needed: model")


def test_a_run_folder_stands_for_its_best_checkpoint(checkpoint: Path, run: Run) -> None:
    folder = checkpoint.parent / "run"
    folder.mkdir()
    for name in ("step-00000900.golm", "step-00001000.golm", "step-100000000.golm"):
        (folder / name).write_bytes(checkpoint.read_bytes())
    assert run("info", folder).out.startswith(f"file       {folder / 'step-100000000.golm'}, ")
    (folder / "best.golm").write_bytes(checkpoint.read_bytes())
    assert run("info", folder).out.startswith(f"file       {folder / 'best.golm'}, ")
