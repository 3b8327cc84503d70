"""The log-probabilities of continuations of a prompt: of the answers to a question, for one.

A prompt is computed once, and its keys and values are shared by all of its continuations, which go through the model
together. The bits are those of each alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from gollm.errors import EvaluationError
from gollm.evaluation.token_scores import log_softmax, refuse_classifier
from gollm.inference.pages import CachedSequence, PagePool, cache_dtype_of, next_batch, pages_for
from gollm.kernels import Array
from gollm.language_model import LanguageModel
from gollm.tokenizers import Tokenizer

AT_ONCE = 32  # continuations in a batch


class Score(NamedTuple):
    """The sum of a continuation's log-probabilities, its number of tokens, and whether each was the likeliest."""

    logprob: float
    n_tokens: int
    greedy: bool


class Scorer:
    """Scores continuations of prompts, and remembers the last prompt: the next one may begin in the same way, with the
    same examples for instance."""

    def __init__(self, model: LanguageModel) -> None:
        """Raises EvaluationError for a classifier."""
        refuse_classifier(model.decoder)
        self.model = model
        self._make_room(0)

    def scores(self, prompt: Sequence[int], continuations: Sequence[Sequence[int]]) -> list[Score]:
        """Of each continuation. Raises EvaluationError for an empty prompt or continuation, and where both are longer
        than the context."""
        context = self.model.config.context
        for continuation in continuations:
            if not prompt or not continuation:
                raise EvaluationError("a prompt or a continuation has no tokens, so there is nothing to score")
            if len(prompt) + len(continuation) - 1 > context:
                raise EvaluationError(
                    f"a prompt and its continuation have {len(prompt) + len(continuation)} tokens, more than this "
                    f"model's context ({context}); shorten them, or use fewer examples"
                )
        longest = max(map(len, continuations), default=1)
        n_pages = pages_for(len(prompt)) + min(AT_ONCE, len(continuations)) * (1 + pages_for(longest))
        if n_pages > self._n_pages:
            self._make_room(n_pages)
        self._read(list(prompt))
        found = []
        for begin in range(0, len(continuations), AT_ONCE):
            found += self._batch(continuations[begin : begin + AT_ONCE])
        return found

    def _make_room(self, n_pages: int) -> None:
        """A pool of so many pages. Nothing is computed in it yet."""
        self._n_pages = n_pages
        decoder = self.model.decoder
        pool = PagePool(decoder.config, n_pages, cache_dtype_of(decoder), decoder.parameters.kernels)
        self._sequence = CachedSequence(pool)
        self._prompt: list[int] = []
        self._after = np.empty(0, np.float32)  # the logits behind the prompt

    def _read(self, prompt: list[int]) -> None:
        """Computes what the last prompt did not have."""
        same = 0
        while same < min(len(prompt), len(self._prompt)) and prompt[same] == self._prompt[same]:
            same += 1
        if same == len(prompt) == len(self._prompt):
            return
        same = min(same, len(prompt) - 1)  # the last token is computed again for its logits
        self._sequence.truncate(same)
        batch = next_batch([self._sequence], [prompt[same:]])
        self._after = self.model.decoder.next_logits(batch)[0].copy()
        self._prompt = prompt

    def _batch(self, continuations: Sequence[Sequence[int]]) -> list[Score]:
        fed = [list(one[:-1]) for one in continuations]  # what the next token follows
        longer = [i for i, one in enumerate(fed) if one]
        logits: dict[int, Array] = {}
        if longer:
            sequences = [self._sequence.copy() for _ in longer]
            rows = self.model.decoder.cached_logits(next_batch(sequences, [fed[i] for i in longer])).data
            at = 0
            for i in longer:
                logits[i] = rows[at : at + len(fed[i])]
                at += len(fed[i])
            for sequence in sequences:
                sequence.clear()
        return [self._score(one, logits.get(i)) for i, one in enumerate(continuations)]

    def _score(self, continuation: Sequence[int], rest: Array | None) -> Score:
        rows = self._after[None] if rest is None else np.concatenate([self._after[None], rest])
        log_p = log_softmax(rows)
        ids = np.asarray(continuation)
        greedy = bool((log_p.argmax(axis=1) == ids).all())
        return Score(float(log_p[np.arange(len(ids)), ids].sum()), len(ids), greedy)


def score_pairs(
    model: LanguageModel,
    pairs: Sequence[tuple[list[int], list[int]]],
    progress: Callable[[int], object] = lambda n: None,
) -> list[Score]:
    """Of each prompt and continuation; a prompt loses its beginning where both are longer than the context.
    Continuations of one prompt go together, and prompts that begin alike one after the other. `progress` is called with
    the number of pairs since the last call."""
    most = model.config.context + 1
    cut = [(prompt[max(0, min(len(prompt) - 1, len(prompt) + len(rest) - most)) :], rest) for prompt, rest in pairs]
    alike: dict[tuple[int, ...], list[int]] = {}
    for number, (prompt, _) in enumerate(cut):
        alike.setdefault(tuple(prompt), []).append(number)
    scorer, found = Scorer(model), dict[int, Score]()
    for same in sorted(alike):
        numbers = alike[same]
        scores = scorer.scores(same, [cut[number][1] for number in numbers])
        found.update(zip(numbers, scores, strict=True))
        progress(len(numbers))
    return [found[number] for number in range(len(pairs))]


def prompt_and_continuation(tokenizer: Tokenizer, prompt: str, continuation: str) -> tuple[list[int], list[int]]:
    """The ids of both, the prompt framed as documents are."""
    begin = list(tokenizer.framing.begin if prompt.strip() else tokenizer.framing.start)
    ids, rest = ids_of_both(tokenizer, prompt, continuation)
    return begin + ids, rest


def ids_of_both(tokenizer: Tokenizer, prompt: str, continuation: str) -> tuple[list[int], list[int]]:
    """The ids of both: those of the whole text, cut where the continuation begins. Spaces at the prompt's end go to the
    continuation, since tokens begin with them."""
    n_spaces = len(prompt) - len(prompt.rstrip())
    if n_spaces:
        prompt, continuation = prompt[:-n_spaces], prompt[-n_spaces:] + continuation
    ids: list[int] = tokenizer.encode(prompt).tolist()
    whole: list[int] = tokenizer.encode(prompt + continuation).tolist()
    if whole[: len(ids)] == ids and len(whole) > len(ids):
        return ids, whole[len(ids) :]
    return ids, tokenizer.encode(continuation).tolist()
