"""gollm eval choices, eval answers, eval --per-file and compare as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetuning.conftest import small_model, sums, write_lines

from .conftest import Run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GOLLM_CACHE", str(tmp_path / "cache"))
    small_model().save("base.golm")
    write_lines(Path("sums.jsonl"), sums(12))
    questions = [{"question": f"{i}?", "choices": ["a", "bc", "d"], "answer": i % 3} for i in range(7)]
    Path("tasks").mkdir()
    for name in ("one", "two"):
        write_lines(Path(f"tasks/{name}.jsonl"), questions)
    return tmp_path


def test_choices(folder: Path, run: Run) -> None:
    result = run("eval", "choices", "base.golm", "tasks", "--few-shot", "1", "--limit", "4")
    assert (result.status, result.err) == (0, "")
    lines = result.out.splitlines()
    assert len(lines) == 3 and lines[1].split()[:2] == ["tasks/one.jsonl", "4"]
    found = json.loads(run("eval", "choices", "base.golm", "tasks", "--few-shot", "1", "--limit", "4", "--json").out)
    one, two = found["files"].values()
    assert one == two and one["n_questions"] == 4
    assert run("eval", "choices", "base.golm", "sums.jsonl").err == (
        "gollm: sums.jsonl, line 1: question is None; it must be text\n"
    )


def test_core(folder: Path, run: Run) -> None:
    items = [{"query": f"{i}?", "choices": ["a", "bc", "d"], "gold": i % 3} for i in range(7)]
    Path("core/eval_data").mkdir(parents=True)
    write_lines(Path("core/eval_data/one.jsonl"), items)
    task = {"dataset_uri": "one.jsonl", "icl_task_type": "multiple_choice"}
    tasks = [{"label": "none", "num_fewshot": [0], **task}, {"label": "three", "num_fewshot": [3], **task}]
    Path("core/core.yaml").write_text(json.dumps({"icl_tasks": tasks}))
    result = run("eval", "core", "base.golm", "core")
    assert (result.status, result.err) == (0, "")
    lines = [line.split() for line in result.out.splitlines()]
    assert [line[0] for line in lines] == ["task", "none", "three", "CORE"] and lines[2][1:3] == ["7", "3"]
    found = json.loads(run("eval", "core", "base.golm", "core", "--limit", "5", "--json").out)
    assert [task["n_items"] for task in found["tasks"]] == [5, 5]
    assert found["core"][0] == pytest.approx(sum(task["centred_accuracy"][0] for task in found["tasks"]) / 2)
    assert "wants 3 examples beside each" in run("eval", "core", "base.golm", "core", "--limit", "3").err
    assert run("eval", "core", "base.golm", "nowhere").err.startswith("gollm: there is no core.yaml in nowhere;")


def test_answers(folder: Path, run: Run) -> None:
    words = ["eval", "answers", "base.golm", "sums.jsonl", "--limit", "5", "--max-new-tokens", "4"]
    result = run(*words, "--out", "answers.jsonl")
    assert (result.status, result.err) == (0, "")
    assert "exact match" in result.out and "distinct-1, -2" in result.out
    lines = [json.loads(line) for line in Path("answers.jsonl").read_text().splitlines()]
    assert len(lines) == 5 and lines[0]["where"] == "sums.jsonl, line 1" and lines[0]["reference"] == "0"
    assert json.loads(run(*words, "--json").out)["n_answers"] == 5


def test_each_file_by_itself(folder: Path, run: Run) -> None:
    for name in ("a", "b"):
        Path(f"{name}.txt").write_text(f"The text of {name}. " * 9)
    found = json.loads(run("eval", "base.golm", "--data", "a.txt", "b.txt", "--per-file", "--json").out)["files"]
    alone = [json.loads(run("eval", "base.golm", "--data", f"{name}.txt", "--json").out) for name in "ab"]
    assert found == alone
    table = run("eval", "base.golm", "--data", "a.txt", "b.txt", "--per-file").out.splitlines()
    assert len(table) == 3 and f"{found[1]['bits_per_byte']:.4f}" in table[2]


def test_runs_beside_each_other(folder: Path, run: Run) -> None:
    for name, lr in (("first", "1e-3"), ("second", "1e-2")):
        words = ["--steps", "8", "--batch-size", "2", "--lr", lr, "--sample-tokens", "0", "--out", name]
        assert run("finetune", "base.golm", "sums.jsonl", *words).status == 0
        assert run("eval", "choices", name, "tasks").status == 0
    result = run("compare", "first", "second")
    assert (result.status, result.err) == (0, "")
    rows = {line[:30].split("  ")[0]: line.split()[-2:] for line in result.out.splitlines()}
    assert rows["lr"] == ["0.001", "0.01"] and "seed" not in rows and rows["steps"] == ["8", "8"]
    assert rows["choices: tasks/one.jsonl"][0] == rows["choices: tasks/two.jsonl"][0]
    one, two = json.loads(run("compare", "first", "second", "--json").out)
    for found, name in ((one, "first"), (two, "second")):
        losses = [json.loads(line)["loss"] for line in Path(name, "metrics.jsonl").read_text().splitlines()]
        assert found["losses"][-1] == pytest.approx(sum(losses) / 8) and found["n_tokens"] == one["n_tokens"]
    assert "there is no run in nowhere" in run("compare", "nowhere").err


def test_memorisation_and_positions(folder: Path, run: Run) -> None:
    Path("a.txt").write_text("The text of a file. " * 9)
    words = ["eval", "memorization", "base.golm", "a.txt", "--places", "3", "--prefix", "9", "--length", "5"]
    result = run(*words)
    assert (result.status, result.err) == (0, "") and result.out.startswith("places          3: 9 tokens read")
    assert json.loads(run(*words, "--json").out)["n_places"] == 3
    shown = run("eval", "base.golm", "--data", "a.txt", "--context", "8", "--by-position").out
    assert [line.split()[0] for line in shown.splitlines()[-4:]] == ["1-1", "2-3", "4-7", "8-8"]
