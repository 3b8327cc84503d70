"""CORE: one figure for what a base model can do, the mean of the centred accuracies of in-context tasks (DataComp-LM,
Li et al. 2024), computed as nanochat does.

    centred accuracy = (accuracy - chance) / (1 - chance)          0 for guessing, 1 for no mistake

A text is solved examples, each "context delimiter continuation" with an empty line behind it, then the item itself. The
examples are drawn from the other items by a generator that the item's number starts. Of an option the model's mean
log-probability of a token counts,

    multiple_choice      of the tokens that the texts of the choices do not have in common at their beginning
    schema               of the tokens that the texts of the contexts have in common at their end
    language_modeling    there is no option: each token of the continuation must be the likeliest

A text begins with the BOS token, or with the one between documents. One that is longer than the context loses its
beginning.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gollm.errors import EvaluationError
from gollm.evaluation.choices import share
from gollm.evaluation.continuations import Score, ids_of_both, score_pairs
from gollm.evaluation.core_tasks import CoreItem, CoreTask
from gollm.evaluation.statistics import Figure
from gollm.language_model import LanguageModel
from gollm.system.strict_json import shorten
from gollm.tokenizers import Tokenizer

_SHUFFLE, _EXAMPLES = 1337, 1234  # nanochat's seeds, so that --limit and few-shot take the same items
ITEMS_AT_ONCE = 256  # whose token ids are in memory: HellaSwag with ten examples has 44 million

Ids = list[int]


@dataclass(frozen=True)
class CoreTaskResult:
    """How a task was solved. `right` has one value for each item, in the order of the file; None for one that `limit`
    left out. n_cut: texts that were longer than the context."""

    name: str
    n_items: int
    few_shot: int
    chance: float
    accuracy: Figure
    centred_accuracy: Figure
    n_cut: int
    right: tuple[bool | None, ...]


@dataclass(frozen=True)
class CoreResult:
    """core: the mean of the tasks' centred accuracies"""

    core: Figure
    tasks: tuple[CoreTaskResult, ...]


def evaluate_core(
    model: LanguageModel,
    tasks: Sequence[CoreTask],
    *,
    limit: int | None = None,
    progress: Callable[[int], object] = lambda n: None,
) -> CoreResult:
    """Solves all tasks, of each at most `limit` items, drawn at random. `progress` is called with the number of
    texts read since the last call.

    Raises EvaluationError for a model without a tokenizer, a classifier, no task, a limit below 1, and a task with
    fewer items than it needs examples."""
    if model.tokenizer is None:
        raise EvaluationError(f"this model has no tokenizer ({model.without_tokenizer}), so it cannot read text")
    if not tasks:
        raise EvaluationError("there are no tasks")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise EvaluationError(f"limit is {shorten(limit)}; it must be a whole number, 1 or more")
    found = tuple(_solve(model, model.tokenizer, task, limit, progress) for task in tasks)
    errors = [one.centred_accuracy.standard_error for one in found]
    known = [error for error in errors if error is not None]
    error = math.hypot(*known) / len(found) if len(known) == len(found) else None
    return CoreResult(Figure(sum(one.centred_accuracy.value for one in found) / len(found), error), found)


def _solve(
    model: LanguageModel, tokenizer: Tokenizer, task: CoreTask, limit: int | None, progress: Callable[[int], object]
) -> CoreTaskResult:
    order = list(range(len(task.items)))
    random.Random(_SHUFFLE).shuffle(order)
    order = order[:limit]
    items = [task.items[number] for number in order]
    if task.few_shot >= len(items):
        raise EvaluationError(
            f"the task {task.name} has {len(items)} items and wants {task.few_shot} examples beside each; use more"
        )
    right: list[bool | None] = [None] * len(task.items)
    n_cut = 0
    for begin in range(0, len(items), ITEMS_AT_ONCE):
        numbers = range(begin, min(begin + ITEMS_AT_ONCE, len(items)))
        options = [pairs_of(tokenizer, task, items[number], examples_of(task, items, number)) for number in numbers]
        pairs = [pair for of_item in options for pair in of_item]
        n_cut += sum(len(prompt) + len(continuation) > model.config.context + 1 for prompt, continuation in pairs)
        scores = iter(score_pairs(model, pairs, progress))
        for number, of_item in zip(numbers, options, strict=True):
            right[order[number]] = _is_right(task, items[number], list(itertools.islice(scores, len(of_item))))
    accuracy = share([bool(right[number]) for number in order])
    p, error = accuracy
    rest = 1 - task.chance
    centred = Figure((p - task.chance) / rest, None if error is None else error / rest)
    return CoreTaskResult(
        task.name, len(items), task.few_shot, task.chance, accuracy, centred, n_cut, tuple(right)
    )  # fmt: skip


def _is_right(task: CoreTask, item: CoreItem, scores: Sequence[Score]) -> bool:
    if task.kind == "language_modeling":
        return scores[0].greedy
    means = [score.logprob / score.n_tokens for score in scores]
    return means.index(max(means)) == item.gold


def examples_of(task: CoreTask, items: Sequence[CoreItem], number: int) -> str:
    """The solved examples before an item: others, drawn by its number."""
    drawn = random.Random(_EXAMPLES + number).sample(range(len(items) - 1), task.few_shot)
    others = (items[i + (i >= number)] for i in drawn)
    return "".join(task.delimiter.join(other.options[other.gold]) + "\n\n" for other in others)


def pairs_of(tokenizer: Tokenizer, task: CoreTask, item: CoreItem, examples: str) -> list[tuple[Ids, Ids]]:
    """What is read and what is scored of each option."""
    start = list(tokenizer.framing.start)
    if task.kind == "language_modeling":
        ((context, continuation),) = item.options
        prompt, rest = ids_of_both(tokenizer, examples + context + task.delimiter, continuation)
        return [(start + prompt, rest)]
    texts = [[*start, *tokenizer.encode(examples + task.delimiter.join(option)).tolist()] for option in item.options]
    if task.kind == "multiple_choice":
        n = min(n_alike(texts), min(map(len, texts)) - 1)
        return [(text[:n], text[n:]) for text in texts]
    n = min(n_alike([text[::-1] for text in texts]), min(map(len, texts)) - 1)
    return [(text[: len(text) - n], text[len(text) - n :]) for text in texts]


def n_alike(texts: Sequence[Sequence[int]]) -> int:
    """How many tokens they have in common at their beginning.

    >>> n_alike([[1, 2, 3], [1, 2, 4, 5]])
    2
    """
    return next((i for i, column in enumerate(zip(*texts, strict=False)) if len(set(column)) > 1), min(map(len, texts)))
