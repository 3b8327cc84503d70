"""Beam search: the likeliest texts that continue a prompt, as far as a search of limited width finds them.

Each step extends the B running beams by every token and looks at the best continuations, by the sum of their tokens'
log-probabilities: those that end are finished, the B best of the others run on. Finished beams are ranked by

    sum of log-probabilities / length ** length_penalty          length: tokens, the one that ended it included

and the search is over when B have finished and the best running one, ranked so, is behind the last of them. This is
transformers' beam search with early_stopping=False, with one difference: penalties change logits, as everywhere in
gollm, and not log-probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from gollm.errors import GenerationError
from gollm.inference.generation import Completion, Model, prompt_ids
from gollm.inference.pages import PAGE_SIZE, CachedSequence, PagePool, cache_dtype_of, next_batch, pages_for
from gollm.inference.processors import changes_logits, process
from gollm.inference.sampling import Sampling
from gollm.inference.stopping import StopStrings
from gollm.inference.structured import StructuredText, structured_text
from gollm.kernels import Array, cpu
from gollm.model.decoder import Decoder

_CHUNK = 512  # tokens of the prompt in one forward pass


def beam_search(
    model: Model, prompt: str | Sequence[int] | Array, sampling: Sampling | None = None, **options: Any
) -> list[Completion]:
    """The `n` best texts that continue a prompt, the best first, in the caller's thread and with a cache of their own.
    `options` are fields of Sampling, above all beams and length_penalty; they replace those of `sampling`.

    Raises GenerationError for a prompt or an option that cannot be used."""
    chosen = Sampling.of(sampling, options).resolved(model.defaults)
    for name in ("logprobs", "prompt_logprobs"):
        if getattr(chosen, name) is not None:
            raise GenerationError(f"{name} is {getattr(chosen, name)}; it must be None with beam search")
    ids, tokenizer = prompt_ids(model, prompt), model.tokenizer
    assert isinstance(chosen.stop, tuple)  # since Sampling has checked it
    strings = [one for one in chosen.stop if isinstance(one, str)]
    if tokenizer is None and strings:
        raise GenerationError("stop has strings, and this model has no tokenizer; give token ids")
    stop_tokens = {*model.defaults.stop_tokens, *(one for one in chosen.stop if not isinstance(one, str))}
    if tokenizer is not None:
        stop_tokens.update(tokenizer.framing.end[:1])

    def text_of(tokens: Sequence[int]) -> tuple[str, bool]:
        """The text before a stop string, and whether there is one."""
        if tokenizer is None:
            return "", False
        decoder, stop = tokenizer.decoder(after=ids), StopStrings(strings)
        text, stopped = stop.push("".join(map(decoder.push, tokens)) + decoder.finish())
        return text if stopped else text + stop.finish(), stopped

    search = BeamSearch(
        model.decoder,
        ids,
        chosen,
        stop_tokens=stop_tokens,
        vocab_size=None if tokenizer is None else tokenizer.vocab_size,
        ended=(lambda tokens: text_of(tokens)[1]) if strings else None,
        structure=structured_text(chosen, tokenizer, sorted(stop_tokens)),
    )
    while not search.finished:
        search.step()
    found = tuple(
        Completion(text_of(one.tokens)[0], one.tokens, one.finish_reason, None, tuple(ids), None)
        for one in search.results
    )
    return [replace(one, choices=found if len(found) > 1 else ()) for one in found]


@dataclass(frozen=True)
class BeamResult:
    """A text: its tokens without the one that ended it, the sum of their log-probabilities with it, and its rank."""

    tokens: tuple[int, ...]
    logprob: float
    score: float
    finish_reason: Literal["stop", "length"]


@dataclass
class _Beam:
    """A running one. The cache has all of its tokens but the last."""

    tokens: list[int]
    logprob: float
    cache: CachedSequence
    structure: StructuredText | None


class BeamSearch:
    """A search that goes on by one token with each step(), in a cache of its own, which it gives back at the end.

    sampling       resolved; temperature, top_k, top_p and min_p are not used
    stop_tokens    end a text
    ended          whether a text, its tokens after the prompt, has ended for another reason, such as a stop string
    structure      what the texts must be

    The prompt has at most as many tokens as the context; a text ends where that is full."""

    def __init__(
        self,
        decoder: Decoder,
        prompt: Sequence[int],
        sampling: Sampling,
        *,
        stop_tokens: Collection[int] = (),
        vocab_size: int | None = None,
        ended: Callable[[Sequence[int]], bool] | None = None,
        structure: StructuredText | None = None,
    ) -> None:
        context = decoder.config.context
        if not 0 < len(prompt) <= context:
            raise GenerationError(f"the prompt has {len(prompt)} tokens; beam search takes from 1 to {context}")
        assert sampling.max_new_tokens is not None
        self._decoder = decoder
        self._sampling = sampling
        self._stop_tokens = frozenset(stop_tokens)
        self._vocab_size = vocab_size
        self._ended = ended
        self._n_prompt = len(prompt)
        self._max_new_tokens = min(sampling.max_new_tokens, context - len(prompt))
        n_pages = sampling.beams * pages_for(len(prompt) + self._max_new_tokens)
        self._pool = PagePool(decoder.config, n_pages, cache_dtype_of(decoder))
        self._running = [_Beam(list(prompt), 0.0, CachedSequence(self._pool), structure)]
        self._found: list[BeamResult] = []
        if self._max_new_tokens == 0:
            self._running, self._found = [], [BeamResult((), 0.0, 0.0, "length")]

    @property
    def finished(self) -> bool:
        return not self._running

    @property
    def results(self) -> list[BeamResult]:
        """The n best texts so far, the best first; fewer where the search has not found as many."""
        return self._found[: self._sampling.n]

    def step(self) -> None:
        """One more token of every running beam."""
        beams, width = self._running, self._sampling.beams
        sums = self._logprobs() + np.array([[beam.logprob] for beam in beams])  # (S, V)
        length = len(beams[0].tokens) - self._n_prompt + 1
        divisor = length**self._sampling.length_penalty
        going_on: list[tuple[int, int, float]] = []  # beam, token, sum
        # Even if every stop token of every beam is among them, as many are left as there are beams.
        for rank, place in enumerate(_best(sums.reshape(-1), width * max(2, 1 + len(self._stop_tokens)))):
            number, token = divmod(place, sums.shape[1])
            logprob = float(sums[number, token])
            text = [*beams[number].tokens[self._n_prompt :], token]
            stops = token in self._stop_tokens
            reason: Literal["stop", "length"] | None = "length" if length == self._max_new_tokens else None
            if stops or (self._ended is not None and self._ended(text)):
                reason = "stop"
            if reason is not None:
                if rank < width:
                    tokens = tuple(text[:-1] if stops else text)
                    self._found.append(BeamResult(tokens, logprob, logprob / divisor, reason))
            elif len(going_on) < width:
                going_on.append((number, token, logprob))
        self._found = sorted(self._found, key=lambda found: -found.score)[:width]
        full = len(self._found) == width
        if full and (not going_on or going_on[0][2] / divisor <= self._found[-1].score):
            going_on = []
        self._running = self._extended(going_on)

    def _logprobs(self) -> Array:
        """Of the next token of each beam.  -> (S, V) float64"""
        beams = self._running
        new = [beam.tokens[beam.cache.length :] for beam in beams]
        while len(new[0]) > _CHUNK:  # only the prompt, which is alone
            self._decoder.next_logits(next_batch([beams[0].cache], [new[0][:_CHUNK]]))
            new = [new[0][_CHUNK:]]
        logits = self._decoder.next_logits(next_batch([beam.cache for beam in beams], new))
        logits = np.array(logits[:, : self._vocab_size])
        for row, beam in zip(logits, beams, strict=True):
            tokens = np.array(beam.tokens, np.int32)
            if changes_logits(self._sampling):
                process(row, self._sampling, tokens, self._n_prompt)
            if beam.structure is not None:
                beam.structure.apply(tokens[self._n_prompt :], row)
        lse = np.empty(len(beams))
        cpu.log_sum_exp(lse=lse, logits=logits)
        if not np.isfinite(lse).all():
            raise GenerationError("the logits of the next token are not finite, so no token can be chosen")
        return logits - lse[:, None]

    def _extended(self, going_on: Sequence[tuple[int, int, float]]) -> list[_Beam]:
        """The beams by one token longer. The first child of a beam takes over its cache, others get copies."""
        parents = self._running
        heirs = {number for number, _, _ in going_on}
        for number, beam in enumerate(parents):
            if number not in heirs:
                beam.cache.clear()
        children = []
        for number, token, logprob in going_on:
            beam = parents[number]
            first = number in heirs
            heirs.discard(number)
            structure = beam.structure if first or beam.structure is None else beam.structure.copy()
            cache = beam.cache if first else _copy(beam.cache)
            children.append(_Beam([*beam.tokens, token], logprob, cache, structure))
        return children


def _best(values: Array, n: int) -> list[int]:
    """The places of the n largest values that are not -inf, in order."""
    n = min(n, len(values))
    least = np.partition(values, len(values) - n)[len(values) - n]
    places = np.flatnonzero((values >= least) & (values > -np.inf))
    order = np.argsort(-values[places], kind="stable")[:n]
    return [int(place) for place in places[order]]


def _copy(cache: CachedSequence) -> CachedSequence:
    """The same text once more: full pages are shared, and the last one, which will be written to, is copied."""
    copy, pool = CachedSequence(cache.pool), cache.pool
    n_full = cache.length // PAGE_SIZE
    for page in cache.pages[:n_full]:
        pool.share(page)
    copy.pages, copy.length = cache.pages[:n_full], n_full * PAGE_SIZE
    copy.extend(cache.length - copy.length)
    for old, new in zip(cache.pages[n_full:], copy.pages[n_full:], strict=True):
        for pages in (pool.k_pages.array, pool.v_pages.array):
            pages[:, new] = pages[:, old]
    return copy
