"""Generated answers beside those of a data set, and how varied a model writes.

exact match      how often an answer is the reference, but for spaces at both ends
BLEU, chrF       of the whole corpus, by sacrebleu (Post 2018; Popović 2015), where it is installed
distinct-n       different n-grams of words, by all n-grams (Li et al. 2016, "A Diversity-Promoting Objective Function
                 for Neural Conversation Models")
repetition       1 - distinct-2 · distinct-3 · distinct-4 of an answer, averaged: 1 - diversity in Su et al. 2022, "A
                 Contrastive Framework for Neural Text Generation"
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gollm.errors import EvaluationError
from gollm.evaluation.choices import share
from gollm.evaluation.statistics import Figure
from gollm.inference.chat_template import template_of
from gollm.inference.engine import Engine
from gollm.language_model import LanguageModel
from gollm.system.strict_json import shorten

MAX_TOKENS = 256  # of an answer


@dataclass(frozen=True)
class Asked:
    """The messages of a question, and the answer that a data set has to it."""

    messages: Sequence[dict[str, object]]
    reference: str


@dataclass(frozen=True)
class AnswerResult:
    """gollm.evaluation.answers defines the figures; BLEU and chrF are None without sacrebleu."""

    n_answers: int
    exact_match: Figure
    bleu: float | None
    chrf: float | None
    distinct_1: float
    distinct_2: float
    repetition: float
    answers: tuple[str, ...]


def answer_all(
    model: LanguageModel,
    asked: Sequence[Asked],
    *,
    max_new_tokens: int = MAX_TOKENS,
    progress: Callable[[int], object] = lambda n: None,
) -> AnswerResult:
    """The model's likeliest answer to each question, many at once. A model without a chat template continues the last
    message. `progress` is called with the number of answers since the last call. Raises EvaluationError where nothing
    is asked."""
    if not asked:
        raise EvaluationError("there are no questions to answer")
    template = None if model.defaults.chat_template is None else template_of(model)
    answers = []
    with Engine(model) as engine:
        streams = []
        for one in asked:
            prompt = str(one.messages[-1]["content"]) if template is None else template.ids(one.messages)
            streams.append(engine.submit(prompt, temperature=0.0, max_new_tokens=max_new_tokens))
        for stream in streams:
            answers.append(stream.result().text)
            progress(1)
    references = [one.reference for one in asked]
    right = [answer.strip() == reference.strip() for answer, reference in zip(answers, references, strict=True)]
    bleu, chrf = corpus_scores(answers, references)
    return AnswerResult(
        n_answers=len(answers),
        exact_match=share(right),
        bleu=bleu,
        chrf=chrf,
        distinct_1=distinct(answers, 1),
        distinct_2=distinct(answers, 2),
        repetition=float(np.mean([repetition(answer) for answer in answers])),
        answers=tuple(answers),
    )


def corpus_scores(answers: Sequence[str], references: Sequence[str]) -> tuple[float | None, float | None]:
    """BLEU and chrF, from 0 to 100; None where sacrebleu is not installed."""
    try:
        import sacrebleu
    except ImportError:
        return None, None
    found = (metric(list(answers), [list(references)]) for metric in (sacrebleu.corpus_bleu, sacrebleu.corpus_chrf))
    bleu, chrf = (float(one.score) for one in found)
    return bleu, chrf


def distinct(texts: Sequence[str], n: int) -> float:
    """The share of different n-grams among all n-grams of words; 1 where there are none. Raises EvaluationError for
    what is no list of texts, and an n below 1.

    >>> distinct(["a b a b"], 2)
    0.6666666666666666
    """
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise EvaluationError(f"texts is {shorten(texts)}; it must be a list of texts")
    if type(n) is not int or n < 1:
        raise EvaluationError(f"n is {shorten(n)}; it must be a whole number, 1 or more")
    grams = [gram for text in texts for gram in _grams(text.split(), n)]
    return len(set(grams)) / len(grams) if grams else 1.0


def repetition(text: str) -> float:
    """1 - distinct-2 x distinct-3 x distinct-4 of one text: 0 without repetition, near 1 for a text that goes in
    circles.

    >>> repetition("a b c d e"), round(repetition("a a a a a"), 3)
    (0.0, 0.958)
    """
    return 1 - float(np.prod([distinct([text], n) for n in (2, 3, 4)]))


def _grams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
