"""gollm classify as a user runs it; what it computes is tested in tests/finetuning."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetuning.conftest import small_model

from .conftest import Run

CSV = 'label,text\nquestion,"Who, then?"\nstatement,We do.\nstatement,Go home.\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    small_model(labels=("question", "statement")).save("labels.golm")
    small_model().save("base.golm")
    Path("texts.csv").write_text(CSV)
    return tmp_path


def test_labels_and_figures(folder: Path, run: Run) -> None:
    result = run("classify", "labels.golm", "texts.csv")
    assert (result.status, result.err) == (0, "")
    told = [line.split("\t")[0] for line in result.out.splitlines()[:3]]
    assert set(told) <= {"question", "statement"} and "macro F1" in result.out
    *lines, last = map(json.loads, run("classify", "labels.golm", "texts.csv", "--json").out.splitlines())
    assert [line["label"] for line in lines] == told
    assert all(sum(line["probabilities"].values()) == pytest.approx(1) for line in lines)
    right = sum(label == true for label, true in zip(told, ["question", "statement", "statement"], strict=True))
    assert last["figures"]["accuracy"] == pytest.approx(right / 3) and sum(map(sum, last["confusion"])) == 3


def test_one_text_has_no_figures(folder: Path, run: Run) -> None:
    result = run("classify", "labels.golm", "--text", "Who?")
    assert result.status == 0 and result.out.count("\n") == 1


def test_trained_by_the_command(folder: Path, run: Run) -> None:
    words = ["--task", "classify", "--steps", "2", "--batch-size", "2", "--validation-fraction", "0", "--out", "mine"]
    result = run("finetune", "base.golm", "texts.csv", *words)
    assert result.status == 0 and "3 training texts (1 question, 2 statement)" in result.out
    assert 'try it: gollm classify mine/step-00000002.golm --text "..."' in result.out
    assert run("classify", "mine", "--text", "Who?").status == 0


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["labels.golm"], 2, "give either records to classify, or one --text"),
        (["labels.golm", "texts.csv", "--text", "a"], 2, "give either records to classify, or one --text"),
        (["labels.golm", "texts.csv", "--text-field", "body"], 1, "texts.csv, line 2: the text, field 'body', is None"),
        (["base.golm", "texts.csv"], 1, "this model is no classifier; train one with: gollm finetune"),
    ],
)
def test_mistakes(words: list[str], status: int, message: str, folder: Path, run: Run) -> None:
    result = run("classify", *words)
    assert (result.status, result.out, result.err.count("\n")) == (status, "", 1)
    assert message in result.err
