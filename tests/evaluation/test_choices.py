"""Multiple choice: scores are those of the whole text, shared prefixes change no bits, figures by hand."""

from __future__ import annotations

import numpy as np
import pytest

from finetuning.conftest import small_model
from gollm.data.records import Record
from gollm.errors import DataError, EvaluationError
from gollm.evaluation.choices import Question, answer_questions, question_of, share
from gollm.evaluation.continuations import Scorer, prompt_and_continuation
from gollm.evaluation.token_scores import score_tokens

MODEL = small_model(context=256)


def ids(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 90, shape).tolist()


def alone(prompt, continuation):
    scores = score_tokens(MODEL.decoder, np.array([*prompt, *continuation], np.int32), context=256).log_probs
    return scores[len(prompt) - 1 :].sum()


def test_scores_are_those_of_the_whole_text():
    scorer = Scorer(MODEL)
    first = ids(70)
    prompts = [first, [*first[:66], *ids(40, seed=1)], first[:3], first, [*first, 5]]
    for i, prompt in enumerate(prompts):
        continuations = [ids(n, seed=i + n) for n in (1, 7, 2, 1)]
        together = scorer.scores(prompt, continuations)
        fresh = [Scorer(MODEL).scores(prompt, [one])[0] for one in continuations]
        assert together == fresh
        for score, continuation in zip(together, continuations, strict=True):
            assert score.logprob == pytest.approx(alone(prompt, continuation), abs=1e-9)
            assert score.n_tokens == len(continuation)


def test_greedy_is_whether_generation_would_write_it():
    prompt = ids(9)
    tokens = []
    for _ in range(4):
        tokens.append(int(MODEL.logits([*prompt, *tokens])[0, -1].argmax()))
    scores = Scorer(MODEL).scores(prompt, [tokens, [*tokens[:3], (tokens[3] + 1) % 90]])
    assert [score.greedy for score in scores] == [True, False]


def test_spaces_belong_to_the_continuation():
    prompt, continuation = prompt_and_continuation(MODEL.tokenizer, "One two ", "three")
    assert MODEL.tokenizer.decode(prompt) == "One two" and MODEL.tokenizer.decode(continuation) == " three"


def test_the_likeliest_choice_is_taken():
    questions = [Question(f"What is {i}?", ("one", "two", "three or more"), i % 3) for i in range(8)]
    for few_shot in (0, 2):
        found = answer_questions(MODEL, questions, few_shot=few_shot)
        examples = "".join(question.solved for question in questions[:few_shot])
        plain, normalised = [], []
        for question in questions[few_shot:]:
            totals = []
            for choice in question.choices:
                prompt, continuation = prompt_and_continuation(
                    MODEL.tokenizer, examples + question.prompt, " " + choice
                )
                totals.append(alone(prompt, continuation))
            plain.append(int(np.argmax(totals)) == question.answer)
            normalised.append(int(np.argmax([t / (len(c) + 1) for t, c in zip(totals, question.choices, strict=True)])))
        assert found.n_questions == 8 - few_shot and found.few_shot == few_shot
        assert found.accuracy == share(plain) and list(found.chosen) == normalised
        right = np.mean([one == q.answer for one, q in zip(normalised, questions[few_shot:], strict=True)])
        assert found.normalized_accuracy.value == pytest.approx(right)
    with pytest.raises(EvaluationError, match="there are 8 questions, of which 8 are examples; none is left"):
        answer_questions(MODEL, questions, few_shot=8)
    with pytest.raises(EvaluationError, match="tokens, more than this model's context"):
        answer_questions(MODEL, [Question("x" * 300, ("a", "b"), 0)])


def test_standard_error():
    assert share([True, True, False, False, True]).standard_error == pytest.approx(
        np.std([1, 1, 0, 0, 1], ddof=1) / 5**0.5
    )
    assert share([True]).standard_error is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"choices": ["a", "b"], "answer": 0}, "question is None; it must be text"),
        ({"question": "Q", "choices": ["a"], "answer": 0}, "choices is ['a']; it must be a list of two texts"),
        (
            {"question": "Q", "choices": ["a", "b"], "answer": 2},
            "answer is 2; it must be one of the choices, or its number",
        ),
        ({"question": "Q", "choices": ["a", "b"], "answer": "c"}, "answer is 'c'"),
    ],
)
def test_mistakes_name_the_line(values, message):
    with pytest.raises(DataError) as error:
        question_of(Record(values, "q.jsonl, line 3"))
    assert str(error.value).startswith("q.jsonl, line 3: ") and message in str(error.value)
    assert question_of(Record({"question": "Q", "choices": ["a", "b"], "answer": "b"}, "")).answer == 1
