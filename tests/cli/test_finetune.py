"""gollm finetune as a user runs it; what it computes is tested in tests/finetuning."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from finetuning.conftest import small_model, sums, write_lines

from .conftest import Run

SHORT = ["--steps", "4", "--batch-size", "2", "--sample-tokens", "5", "--eval-batches", "1"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    small_model().save("base.golm")
    write_lines(Path("sums.jsonl"), sums(40))
    return tmp_path


def test_a_short_run_leaves_its_folder(folder: Path, run: Run) -> None:
    result = run("finetune", "base.golm", "sums.jsonl", "--out", "mine", *SHORT)
    assert (result.status, result.err) == (0, "")
    assert "38 training conversations in 38 sequences" in result.out and "2 validation sequences" in result.out
    assert "step 4/4 | loss " in result.out and "try it: gollm chat mine/best.golm" in result.out
    saved = yaml.safe_load(Path("mine/config.yaml").read_text())
    assert (saved["model"], saved["data"], saved["task"]) == ("base.golm", ["sums.jsonl"], "sft")
    again = run("finetune", "--resume", "mine", "--steps", "6")
    assert again.status == 0 and "resumed    after step 4 of 6" in again.out
    assert run("chat", "mine", "--max-new-tokens", "3", stdin=b"1+1=\n").status == 0


def test_json_lines(folder: Path, run: Run) -> None:
    result = run("finetune", "base.golm", "sums.jsonl", "--json", *SHORT)
    assert (result.status, result.err) == (0, "")
    *steps, last = map(json.loads, result.out.splitlines())
    assert len(steps) == 4 and last["result"]["folder"] == "runs/base-sft-1"


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["base.golm"], 2, "--model and --data are needed: gollm finetune MODEL DATA"),
        (["base.golm", "sums.jsonl", "--too-long", "drop"], 2, "--too-long is 'drop'; it must be one of"),
        (["base.golm", "sums.jsonl", "--context", "97"], 2, "this model reads at most 96 tokens; use 96 or less"),
        (["nothing.golm", "sums.jsonl"], 1, "there is no file or folder nothing.golm"),
        (["base.golm", "wrong.jsonl"], 1, "wrong.jsonl, line 2: its fields are 'text'; a conversation has messages,"),
        (["--resume", "nowhere"], 1, "nowhere"),
    ],
)
def test_mistakes(words: list[str], status: int, message: str, folder: Path, run: Run) -> None:
    write_lines(Path("wrong.jsonl"), [*sums(1), {"text": "Hi"}])
    result = run("finetune", *words)
    assert (result.status, result.out, result.err.count("\n")) == (status, "", 1)
    assert result.err.startswith("gollm: ") and message in result.err and "inside of gollm" not in result.err
    assert not Path("runs").exists() or not list(Path("runs").iterdir())


def test_adapters(folder: Path, run: Run) -> None:
    result = run("finetune", "base.golm", "sums.jsonl", "--lora-rank", "2", "--out", "mine", *SHORT)
    assert result.status == 0 and "try it: gollm chat mine/adapter" in result.out
    shown = run("info", "mine")
    assert "LoRA       rank 2, alpha 4, on down_proj, gate_proj" in shown.out and "base.golm" in shown.out
    assert (
        "\nbase model base.golm\ntrained on sums.jsonl\ncommand    gollm finetune --config mine/config.yaml"
        in shown.out
    )
    assert len(json.loads(run("info", "mine/adapter", "--json").out)["tensors"]) == 2 * 2 * 7
    assert run("convert", "base.golm", "merged.golm", "--merge", "mine").status == 0
    merged, loaded = (
        run("generate", path, "--prompt", "1+1=", "--temperature", "0").out for path in ("merged.golm", "mine")
    )
    assert merged == loaded and merged.startswith("1+1=")
    assert "there is no adapter in sums.jsonl" in run("convert", "base.golm", "x.golm", "--merge", "sums.jsonl").err
