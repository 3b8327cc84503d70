"""Multiple choice: which of several answers the model finds likeliest.

    {"question": "2 + 2 = ?", "choices": ["3", "4"], "answer": 1}          answer: a number from 0, or the choice itself

The model reads "Question: ... \\nAnswer:", behind as many solved questions as asked for, and each choice is scored by
its log-probability there. With n questions of which a share p was answered rightly,

    accuracy              by the sum of a choice's log-probabilities
    normalised accuracy   by the sum divided by the choice's bytes, so that long choices are not at a disadvantage
    standard error        √(p (1 - p) / (n - 1))

as EleutherAI's lm-evaluation-harness has them (acc, acc_norm).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gollm.data.records import Record
from gollm.errors import DataError, EvaluationError
from gollm.evaluation.continuations import Scorer, prompt_and_continuation
from gollm.evaluation.statistics import Figure
from gollm.language_model import LanguageModel
from gollm.system.strict_json import shorten


@dataclass(frozen=True)
class Question:
    question: str
    choices: tuple[str, ...]
    answer: int

    @property
    def prompt(self) -> str:
        return f"Question: {self.question}\nAnswer:"

    @property
    def solved(self) -> str:
        return f"{self.prompt} {self.choices[self.answer]}\n\n"


@dataclass(frozen=True)
class ChoiceResult:
    """How well questions were answered; gollm.evaluation.choices defines the figures. `chosen` has the choices by
    normalised log-probability, one for each question."""

    n_questions: int
    few_shot: int
    accuracy: Figure
    normalized_accuracy: Figure
    chosen: tuple[int, ...]


def question_of(record: Record) -> Question:
    """Raises DataError, with file and line, for a record that is no question."""
    values, where = record.values, record.where
    question, choices, answer = (values.get(name) for name in ("question", "choices", "answer"))
    if not isinstance(question, str) or not question.strip():
        raise DataError(f"{where}: question is {shorten(question)}; it must be text")
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(one, str) and one for one in choices):
        raise DataError(f"{where}: choices is {shorten(choices)}; it must be a list of two texts or more")
    if isinstance(answer, str) and answer in choices:
        answer = choices.index(answer)
    if type(answer) is not int or not 0 <= answer < len(choices):
        raise DataError(
            f"{where}: answer is {shorten(answer)}; it must be one of the choices, or its number from 0 to "
            f"{len(choices) - 1}"
        )
    return Question(question, tuple(choices), answer)


def answer_questions(
    model: LanguageModel,
    questions: Sequence[Question],
    *,
    few_shot: int = 0,
    progress: Callable[[int], object] = lambda n: None,
) -> ChoiceResult:
    """Answers the questions behind the first `few_shot` ones, which are solved and not counted. `progress` is called
    with the number of questions answered since the last call.

    Raises EvaluationError for a model without a tokenizer, and for too few questions."""
    if model.tokenizer is None:
        raise EvaluationError(f"this model has no tokenizer ({model.without_tokenizer}), so it cannot read text")
    asked = questions[few_shot:]
    if not asked:
        raise EvaluationError(f"there are {len(questions)} questions, of which {few_shot} are examples; none is left")
    examples = "".join(question.solved for question in questions[:few_shot])
    scorer = Scorer(model)
    plain, chosen = [], []
    for question in asked:
        pairs = [
            prompt_and_continuation(model.tokenizer, examples + question.prompt, f" {c}") for c in question.choices
        ]
        found = scorer.scores(pairs[0][0], [continuation for _, continuation in pairs])
        logprobs = np.array([score.logprob for score in found])
        n_bytes = np.array([len(choice.encode()) + 1 for choice in question.choices])
        plain.append(int(logprobs.argmax()) == question.answer)
        chosen.append(int((logprobs / n_bytes).argmax()))
        progress(1)
    right = [one == question.answer for one, question in zip(chosen, asked, strict=True)]
    return ChoiceResult(len(asked), few_shot, share(plain), share(right), tuple(chosen))


def share(right: Sequence[bool]) -> Figure:
    """How often something is so."""
    n = len(right)
    p = sum(right) / n
    return Figure(p, math.sqrt(p * (1 - p) / (n - 1)) if n > 1 else None)
