"""Speculation: tokens are guessed cheaply, and one forward pass of the model checks several guesses at once.

A guess is right when it equals the token that the model's own draw at that position gives; then the pass has computed
the logits after it, too. A draw is a function of logits, seed and position, so the text is the same as without guesses;
only the number of passes differs. (Leviathan et al. 2023 accept by a ratio of probabilities, which keeps the
distribution, but not the text.)

Guesses come from the text itself, where it repeats what it has said (Saxena 2023), or from a smaller model with the
same tokenizer. That one draws as the model does, from its own logits with the same seed and position: where both
distributions are alike, so are the draws, at any temperature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from gollm.errors import GenerationError
from gollm.inference.decoding import CachedForward
from gollm.inference.drawing import Drawn, Row, draw_each
from gollm.inference.generation import Generation, Model
from gollm.inference.pages import CachedSequence, CacheDType, PagePool, cache_dtype_of, pages_for
from gollm.tokenizers import Tokenizer

MATCHED = 3  # tokens that must have come before: fewer are often followed by something else
MODEL_DRAFTS = 4  # guesses of a model at once, each a pass of its own


class Drafter(Protocol):
    """Guesses what comes next. `size` is the most that it guesses at once."""

    size: int

    def guess(self, texts: Sequence[Generation], limits: Sequence[int]) -> list[list[int]]:
        """Up to limits[i] tokens that may follow texts[i]."""

    def end(self, text: Generation) -> None:
        """Forgets what it keeps of a text."""


class PromptLookup:
    """What followed the last tokens when they stood in the text before, prompt included."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._followed: dict[Generation, tuple[dict[tuple[int, ...], int], int]] = {}

    def guess(self, texts: Sequence[Generation], limits: Sequence[int]) -> list[list[int]]:
        return [self._guess(text, limit) for text, limit in zip(texts, limits, strict=True)]

    def _guess(self, text: Generation, limit: int) -> list[int]:
        if limit <= 0:
            return []
        tokens = text.tokens
        ends, n = self._followed.get(text, ({}, MATCHED))  # MATCHED tokens -> where they last ended; n are entered
        for end in range(n, len(tokens)):
            ends[tuple(tokens[end - MATCHED : end])] = end
        self._followed[text] = ends, max(n, len(tokens))
        begin = ends.get(tuple(tokens[-MATCHED:]))
        if begin is None:
            return []
        guesses = tokens[begin : begin + limit]
        while len(guesses) < limit:  # they go round: "abcabc" goes on with "abcabcabc"
            guesses.append(guesses[begin - len(tokens)])
        return guesses

    def end(self, text: Generation) -> None:
        self._followed.pop(text, None)


class _Drafted:
    """What the draft model has in its cache of a text: tokens from `start` on, the last of which may be guesses."""

    def __init__(self, text: Generation, pool: PagePool) -> None:
        self.sequence = CachedSequence(pool)
        self.sampling = replace(text.sampling, processors=(), logprobs=None)  # the user's functions see no guesses
        self.start = 0
        self.tokens: list[int] = []
        self.n_sure = 0  # tokens that are the text's

    def keep(self, text: Generation) -> None:
        """Drops what the text did not go on with."""
        if self.start != text.start:
            self.sequence.clear()
            self.start, self.tokens, self.n_sure = text.start, [], 0
        n, limit = self.n_sure, min(len(self.tokens), len(text.tokens) - self.start - 1)  # the last is computed again
        while n < limit and self.tokens[n] == text.tokens[self.start + n]:
            n += 1
        n = min(n, limit)
        del self.tokens[n:]
        self.sequence.length = self.n_sure = n

    def missing(self, text: Generation, guesses: list[int]) -> list[int]:
        """What the cache lacks of a text and the guesses after it."""
        n_text, n = len(text.tokens) - self.start, len(self.tokens)
        return text.tokens[self.start + n :] + guesses if n <= n_text else guesses[n - n_text :]


class DraftModel:
    """A small model that goes ahead of the large one. It has as many pages of its own as that; a text for which they do
    not suffice goes without guesses."""

    def __init__(
        self,
        model: Model,
        n_pages: int,
        chunk: int,
        vocab_size: int | None,
        max_recorded_rows: int,
        cache_dtype: CacheDType = "float32",
    ) -> None:
        self.size = MODEL_DRAFTS
        self.chunk, self.vocab_size = chunk, vocab_size
        self.context = model.decoder.config.context
        kernels = model.decoder.parameters.kernels
        self.pool = PagePool(model.decoder.config, n_pages, cache_dtype_of(model.decoder, cache_dtype), kernels)
        self._forward = CachedForward(model.decoder, self.pool, max_recorded_rows)
        self._drafted: dict[Generation, _Drafted] = {}

    def guess(self, texts: Sequence[Generation], limits: Sequence[int]) -> list[list[int]]:
        """A pass for each guess. A prompt comes first, in chunks, and while it does there are no guesses."""
        guesses: list[list[int]] = [[] for _ in texts]
        going = [i for i, text in enumerate(texts) if limits[i] > 0 and self._prepare(text, limits[i])]
        left = self.chunk
        while going:
            new, ends, ready, n_rows = [], [], [], 0
            for i in going:
                drafted = self._drafted[texts[i]]
                missing = drafted.missing(texts[i], guesses[i])
                tokens = missing[: max(1, left)]
                left -= len(tokens) if len(missing) > 1 else 0
                drafted.tokens += tokens
                new.append(tokens)
                n_rows += len(tokens)
                ends.append(n_rows - 1)
                ready.append(len(tokens) == len(missing))
            sequences = [self._drafted[texts[i]].sequence for i in going]
            logits = self._forward(sequences, new, None if n_rows == len(going) else ends)
            drawn = draw_each(logits, [self._row(texts[i], guesses[i]) for i in going], self.vocab_size)
            going_on = []
            for i, one, is_ready in zip(going, drawn, ready, strict=True):
                if is_ready and isinstance(one, Drawn):  # or none can be drawn for this text
                    guesses[i].append(one.token)
                    if len(guesses[i]) < limits[i]:
                        going_on.append(i)
            going = going_on
        return guesses

    def _row(self, text: Generation, guesses: list[int]) -> Row:
        """What the draw after some guesses depends on."""
        return Row(self._drafted[text].sampling, [*text.tokens, *guesses], text.n_prompt, text.row.choice)

    def _prepare(self, text: Generation, limit: int) -> bool:
        """Whether there is room for a text and its guesses."""
        if text not in self._drafted:
            self._drafted[text] = _Drafted(text, self.pool)
        drafted = self._drafted[text]
        drafted.keep(text)
        n_tokens = len(text.tokens) - text.start + limit
        missing = pages_for(n_tokens) - len(drafted.sequence.pages)
        if n_tokens > self.context or missing > self.pool.n_free:
            return False
        drafted.sequence.reserve(n_tokens)
        return True

    def end(self, text: Generation) -> None:
        drafted = self._drafted.pop(text, None)
        if drafted is not None:
            drafted.sequence.clear()


def check_draft(model: Model, draft: Model) -> None:
    """Raises GenerationError where the draft model's tokens are others."""
    mine, other = model.tokenizer, draft.tokenizer
    if mine is None or other is None:
        alike = mine is other and model.decoder.config.vocab_size == draft.decoder.config.vocab_size
    else:
        alike = _same(mine, other) and draft.decoder.config.vocab_size >= model.decoder.config.vocab_size
    if not alike:
        raise GenerationError("the draft model has another tokenizer; it must have the same tokens as the model")


def _same(a: Tokenizer, b: Tokenizer) -> bool:
    return np.array_equal(a.vocabulary.tokens, b.vocabulary.tokens) and np.array_equal(
        a.vocabulary.offsets, b.vocabulary.offsets
    )
