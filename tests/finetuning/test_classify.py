"""gollm finetune --task classify, and gollm.evaluation.classification."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import gollm
from gollm.errors import DataError, EvaluationError, FormatError, GenerationError
from gollm.evaluation import score_tokens
from gollm.evaluation.classification import classify, judged
from gollm.evaluation.continuations import Scorer
from gollm.finetuning.classify import LabelledText, Labels
from gollm.formats import convert, open_model, save
from gollm.quantisation import DTYPES

from .conftest import small_model, write_lines
from .test_sft import check_resumed


def texts(n, seed=0):
    """Whether a text asks something, which its last word tells as a rule."""
    rng = np.random.default_rng(seed)
    for _ in range(n):
        words = " ".join(rng.choice(["we", "you", "go", "home", "now"], rng.integers(1, 6)))
        asks = bool(rng.random() < 0.3)
        yield {"text": words + ("?" if asks else "."), "label": "question" if asks else "statement"}


@pytest.fixture
def data(tmp_path):
    return (str(write_lines(tmp_path / "texts.jsonl", list(texts(120)))),)


def test_the_loss_is_the_weighted_mean_over_last_tokens():
    model = small_model(labels=("a", "b", "c")).decoder
    rng = np.random.default_rng(0)
    items = [
        LabelledText(rng.integers(0, 90, n).astype(np.int32), label) for n, label in ((3, 0), (9, 2), (5, 2), (7, 1))
    ]
    for weights in ([1.0, 1.0, 1.0], [0.5, 3.0, 1.25]):
        objective = Labels(weights)
        batch = objective.collate(items, 16)
        each = np.empty(objective.each_shape(batch), np.float32)
        loss = objective.loss(model, batch, None, each)
        logits = np.array([model.logits(item.inputs[None])[0, -1] for item in items], np.float64)
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        labels = [item.label for item in items]
        w = np.array(weights)[labels]
        assert loss.item() == pytest.approx(-(w * log_p[range(4), labels]).sum() / w.sum(), rel=1e-5)
        assert objective.count(batch) == pytest.approx(w.sum())
        found = objective.metrics([array[None] for array in batch], each[None])
        assert found["accuracy"] == (logits.argmax(axis=1) == labels).mean()


@pytest.mark.parametrize("how", [{}, {"class_weights": "balanced"}, {"lora_rank": 4, "lr": 2e-2}])
def test_a_run_learns_to_tell(how, finetune, data):
    result = finetune(**{"task": "classify", "data": data, "steps": 60, "lr": 1e-2, "batch_size": 8, **how})
    model = gollm.load(result.folder)
    assert model.config.labels == ("question", "statement")
    some = list(texts(60, seed=1))
    probabilities = classify(model, [one["text"] for one in some])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    told = [model.config.labels[i] for i in probabilities.argmax(axis=1)]
    assert judged(model.config.labels, [one["label"] for one in some], told).accuracy.value > 0.95
    lines = [json.loads(line) for line in Path(result.folder, "metrics.jsonl").read_text().splitlines()]
    assert 0 <= lines[0]["accuracy"] <= 1 and lines[-1]["validation_accuracy"] > 0.9


def test_padding_and_batches_change_nothing():
    model = small_model(labels=("a", "b"))
    some = [one["text"] for one in texts(20)]
    together = classify(model, some)
    assert all(np.array_equal(together[i], classify(model, [text])[0]) for i, text in enumerate(some))


@pytest.mark.parametrize("weights", [None, "int8"])
def test_killed_and_resumed_the_bytes_are_the_same(weights, options, base, data, tmp_path):
    run = {"task": "classify", "data": data, "steps": 10, "checkpoint_every": 3, "eval_every": 2}
    if weights is not None:
        with open_model(base) as source:
            save(source.quantised(DTYPES[weights]), tmp_path / "narrow.golm")
        run |= {"model": str(tmp_path / "narrow.golm"), "lora_rank": 4}
    check_resumed(options, tmp_path, ["best.golm", "step-00000010.golm"], **run)


def test_a_classifier_writes_no_text(tmp_path):
    model = small_model(labels=("a", "b"))
    with pytest.raises(GenerationError, match="this model is a classifier, which writes no text; use gollm classify"):
        model.generate("Hi")
    for measure in (lambda: score_tokens(model.decoder, np.arange(9), context=8), lambda: Scorer(model)):
        with pytest.raises(EvaluationError, match="this model is a classifier, which predicts no tokens"):
            measure()
    model.save(tmp_path / "labels.golm")
    assert gollm.load(tmp_path / "labels.golm").config.labels == ("a", "b")
    with pytest.raises(FormatError, match="a classifier, which huggingface has no form for; write it as golm"):
        convert(tmp_path / "labels.golm", tmp_path / "folder")
    with pytest.raises(EvaluationError, match="this model is no classifier; train one with"):
        classify(small_model(), ["Hi"])
    with pytest.raises(EvaluationError, match="text 2: the character '\u20ac'"):
        classify(small_model(labels=("a", "b")), ["Hi", "\u20ac"])


def test_figures():
    found = judged(("a", "b", "c"), list("aaabbc"), list("aabbba"))
    assert found.confusion.tolist() == [[2, 1, 0], [0, 2, 0], [1, 0, 0]]
    assert found.accuracy.value == pytest.approx(4 / 6)
    assert found.accuracy.standard_error == pytest.approx(np.sqrt(4 / 6 * 2 / 6 / 6))
    assert found.f1 == {"a": pytest.approx(4 / 6), "b": pytest.approx(4 / 5), "c": 0.0}
    with pytest.raises(EvaluationError, match="a text has the label 'd'; the model's labels are a, b, c"):
        judged(("a", "b", "c"), ["d"], ["a"])


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([{"text": "Hi"}], "line 1: the label, field 'label', is None; it must be text or a number"),
        ([{"text": "Hi", "label": True}], "line 1: the label, field 'label', is True"),
        ([{"text": "", "label": "a"}, {"text": "b", "label": "b"}], "line 1: the text, field 'text', is ''"),
        ([{"text": "Hi", "label": 1}], "all texts have the label '1'; a classifier needs two labels or more"),
        ([{"text": "1 \u20ac", "label": 1}, {"text": "b", "label": 2}], "line 1: the character '\u20ac' (U+20AC)"),
        ([{"text": "Hi" * 60, "label": 1}, {"text": "b", "label": 2}], "line 1 has 120 tokens, more than the longest"),
    ],
)
def test_mistakes_name_the_line(records, message, finetune, tmp_path):
    with pytest.raises(DataError) as error:
        finetune(task="classify", data=(str(write_lines(tmp_path / "x.jsonl", records)),), validation_fraction=0.0)
    assert message in str(error.value)
