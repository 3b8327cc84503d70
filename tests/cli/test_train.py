"""gollm train as a user runs it; what training computes is tested in tests/training."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from .conftest import Run

TEXT = "the cat sat on the mat. the dog sat on the cat!\n" * 40
SMALL = ["--preset", "tiny", "--n_layer=1", "--n_embd=16", "--block_size=8", "--tokenizer", "character"]
SHORT = ["--steps", "4", "--batch-size", "2", "--warmup-steps", "1", "--sample-tokens", "5", "--eval-batches", "1"]


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GOLLM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cats.txt").write_text(TEXT)
    return tmp_path / "cats.txt"


@pytest.mark.parametrize("front", ["train", "pretrain"])
def test_a_short_run_leaves_its_folder(front: str, corpus: Path, run: Run) -> None:
    result = run(front, "--corpus", corpus, "--out", "mine", *SMALL, *SHORT)
    assert (result.status, result.err) == (0, "")
    assert "done: 4 steps" in result.out and "step 4/4 | loss " in result.out
    assert len(Path("mine/metrics.jsonl").read_text().splitlines()) == 4
    saved = yaml.safe_load(Path("mine/config.yaml").read_text())
    assert (saved["d_model"], saved["n_layers"], saved["context"], saved["steps"]) == (16, 1, 8, 4)
    assert json.loads(run("info", "mine", "--json").out)["config"]["d_model"] == 16
    assert run("generate", "mine", "--prompt", "the", "--max-new-tokens", "5").out.startswith("the")


def test_json_lines(corpus: Path, run: Run) -> None:
    result = run("train", corpus, "--out", "mine", "--json", *SMALL, *SHORT)
    assert (result.status, result.err) == (0, "")
    *steps, last = map(json.loads, result.out.splitlines())
    assert steps == [json.loads(line) for line in Path("mine/metrics.jsonl").read_text().splitlines()]
    assert last["result"]["steps"] == 4 and last["result"]["folder"] == "mine"
    assert Path(last["result"]["checkpoint"]).is_file()
    assert "json" not in yaml.safe_load(Path("mine/config.yaml").read_text())


def test_a_file_of_options_and_a_flag_over_it(corpus: Path, run: Run) -> None:
    run("train", corpus, "--out", "a", *SMALL, *SHORT)
    options = yaml.safe_load(Path("a/config.yaml").read_text())
    options.update(out="b", steps=3)
    Path("again.yaml").write_text(yaml.safe_dump(options))
    assert run("train", "--config", "again.yaml", "--out", "c").status == 0
    assert not Path("b").exists()
    assert len(Path("c/metrics.jsonl").read_text().splitlines()) == 3
    Path("epochs.yaml").write_text(yaml.safe_dump({**options, "steps": None, "epochs": 1}))
    assert run("train", "--config", "epochs.yaml", "--out", "d", "--steps", "2").status == 0
    assert len(Path("d/metrics.jsonl").read_text().splitlines()) == 2
    both = run("train", "--config", "epochs.yaml", "--out", "e", "--steps", "2", "--epochs", "1")
    assert both.status == 2 and "--steps and --epochs" in both.err


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--bacth-size", "3"], 2, "unknown option --bacth-size; did you mean --batch-size?"),
        (["--learning-rte", "3"], 2, "unknown option --learning-rte; did you mean --learning-rate?"),
        (["--lr", "fast"], 2, "--lr is 'fast'; it must be a number, at least 0"),
        (["--steps", "1", "--epochs", "1"], 2, "--steps and --epochs cannot both be given"),
        (["--preset", "huge"], 2, "preset is 'huge'; it must be one of tiny, small"),
        (["--n-heads", "5"], 2, "n_heads is 5; it must divide d_model (128), or give head_dim"),
        (["--data", "missing.txt"], 1, "missing.txt"),
        (["--data", "short.txt", "--tokenizer", "character"], 1, "short.txt"),
        (["--resume", "nowhere"], 1, "nowhere"),
        (["--out", "cats.txt/run"], 1, "cats.txt/run"),
        (["--config", "wrong.yaml"], 2, "wrong.yaml: unknown option 'bacth_size'; did you mean 'batch_size'?"),
    ],
)
def test_mistakes(words: list[str], status: int, message: str, corpus: Path, run: Run) -> None:
    Path("wrong.yaml").write_text("bacth_size: 3\n")
    Path("short.txt").write_text("ab")
    result = run("train", *([] if "--data" in words else ["--data", corpus]), *words)
    assert (result.status, result.out, result.err.count("\n")) == (status, "", 1)
    assert result.err.startswith("gollm: ") and message in result.err and "inside of gollm" not in result.err


def test_the_module_is_a_front_door_too(corpus: Path) -> None:
    command = [sys.executable, "-m", "gollm.train", "--bacth-size", "3"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "gollm: unknown option --bacth-size; did you mean --batch-size?\n"
