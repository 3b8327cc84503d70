"""Answers beside a data set's own, and measures of variety, by hand."""

from __future__ import annotations

import pytest

from finetuning.conftest import small_model
from gollm.errors import EvaluationError
from gollm.evaluation.answers import Asked, answer_all, corpus_scores, distinct, repetition


def test_answers_are_those_of_chat():
    model = small_model()
    asked = [Asked([{"role": "user", "content": f"{i}+1="}], str(i + 1)) for i in range(5)]
    expected = [model.chat(one.messages, temperature=0.0, max_new_tokens=6) for one in asked]
    done = []
    found = answer_all(model, asked, max_new_tokens=6, progress=done.append)
    assert found.answers == tuple(expected) and sum(done) == 5
    right = [Asked(one.messages, f" {answer}\n") for one, answer in zip(asked, expected, strict=True)]
    assert answer_all(model, [*right[:4], asked[4]], max_new_tokens=6).exact_match.value == pytest.approx(0.8)
    with pytest.raises(EvaluationError, match="there are no questions to answer"):
        answer_all(model, [])


def test_a_model_without_a_template_continues_the_question():
    model = small_model(template=None)
    found = answer_all(model, [Asked([{"role": "user", "content": "1+1="}], "2")], max_new_tokens=4)
    assert found.answers == (model.generate("1+1=", temperature=0.0, max_new_tokens=4),)


def test_variety():
    assert distinct(["a b", "a b"], 1) == 0.5 and distinct(["a b", "a c"], 2) == 1.0 and distinct(["a"], 2) == 1.0
    assert repetition("") == 0.0
    for texts, n in (("a b", 1), ([3], 1), (["a"], 0), (["a"], 1.0)):
        with pytest.raises(EvaluationError, match="must be a"):
            distinct(texts, n)
    with pytest.raises(EvaluationError, match="texts is"):
        repetition(None)
    assert repetition("a b a b a b") == pytest.approx(1 - 2 / 5 * 2 / 4 * 2 / 3)


def test_scores_of_the_corpus():
    sacrebleu = pytest.importorskip("sacrebleu")
    answers, references = ["the cat sat on the mat", "a dog"], ["the cat sat on a mat", "the dog"]
    bleu, chrf = corpus_scores(answers, references)
    assert bleu == sacrebleu.BLEU().corpus_score(answers, [references]).score
    assert chrf == sacrebleu.CHRF().corpus_score(answers, [references]).score
    assert corpus_scores(references, references) == (pytest.approx(100), pytest.approx(100))
