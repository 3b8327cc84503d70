"""Beam search: the likeliest texts that continue a prompt, as far as a search of limited width finds them.

Each step extends the B running beams by every token and looks at the best continuations, by the sum of their tokens'
log-probabilities: those that end are finished, the B best of the others run on. Finished beams are ranked by

    sum of log-probabilities / length ** length_penalty          length: tokens, the one that ended it included

and the search is over when B have finished and the best running one, ranked so, is behind the last of them. This is
transformers' beam search with early_stopping=False, with one difference: penalties change logits, as everywhere in
gollm, and not log-probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gollm.errors import GenerationError
from gollm.inference.generation import Completion, FinishReason, Generation, Model, Piece
from gollm.inference.processors import changes_logits, process
from gollm.inference.sampling import Sampling
from gollm.inference.stopping import StopStrings
from gollm.inference.structured import StructuredText
from gollm.kernels import Array, cpu


@dataclass(frozen=True)
class BeamResult:
    """A text: its tokens without the one that ended it, the sum of their log-probabilities with it, and its rank."""

    tokens: tuple[int, ...]
    logprob: float
    score: float
    finish_reason: FinishReason


@dataclass
class _Beam:
    """A running one: its tokens after the prompt."""

    tokens: list[int]
    logprob: float
    structure: StructuredText | None


class BeamText(Generation):
    """A search. To the scheduler it is one text, whose next tokens are those of its beams: `tokens` stays the prompt.

    Nothing is drawn: temperature, top_k, top_p, min_p and seed are not used. A text ends where the context is full. All
    texts are delivered when the search is over."""

    def __init__(
        self, model: Model, prompt: list[int], sampling: Sampling, deliver: Callable[[Piece | None], None]
    ) -> None:
        for name in ("logprobs", "prompt_logprobs"):
            if getattr(sampling, name) is not None:
                raise GenerationError(f"{name} is {getattr(sampling, name)}; it must be None with beam search")
        super().__init__(model, prompt, sampling, 0, deliver)
        self.max_new_tokens = min(self.max_new_tokens, model.decoder.config.context - self.n_prompt)
        self._tokenizer = model.tokenizer
        self._beams = [_Beam([], 0.0, self._structure)]
        self._found: list[BeamResult] = []

    @property
    def last_tokens(self) -> list[int]:
        """Of each running beam."""
        return [beam.tokens[-1] for beam in self._beams]

    @property
    def results(self) -> list[BeamResult]:
        """The n best texts so far, the best first; fewer where the search has not found as many."""
        return self._found[: self.sampling.n]

    def step(self, logits: Array) -> list[int]:
        """One more token of every running beam, from its logits (S, V). Returns of each beam that runs on which one it
        continues, in order; none when the search is over."""
        width = self.sampling.beams
        sums = self._scores(logits) + np.array([[beam.logprob] for beam in self._beams])  # (S, V)
        length = len(self._beams[0].tokens) + 1
        divisor = length**self.sampling.length_penalty
        going_on: list[tuple[int, int, float]] = []  # beam, token, sum
        # Even if every stop token of every beam is among them, as many are left as there are beams.
        for rank, place in enumerate(_best(sums.reshape(-1), width * max(2, 1 + len(self._stop_tokens)))):
            number, token = divmod(place, sums.shape[1])
            logprob = float(sums[number, token])
            text = [*self._beams[number].tokens, token]
            stops = token in self._stop_tokens
            reason: FinishReason | None = "length" if length == self.max_new_tokens else None
            if stops or self._stopped(text):
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
        self._extend(going_on)
        if not going_on:
            self.finish("length")
        return [number for number, _, _ in going_on]

    def _scores(self, logits: Array) -> Array:
        """Log-probabilities of the next token of each beam.  (S, V) -> (S, V) float64"""
        logits = np.array(logits)
        for row, beam in zip(logits, self._beams, strict=True):
            if changes_logits(self.sampling):
                process(row, self.sampling, np.array([*self.tokens, *beam.tokens], np.int32), self.n_prompt)
            if beam.structure is not None:
                beam.structure.apply(np.array(beam.tokens, np.int32), row)
        lse = np.empty(len(logits))
        cpu.log_sum_exp(lse=lse, logits=logits)
        if not np.isfinite(lse).all():
            raise GenerationError("the logits of the next token are not finite, so no token can be chosen")
        return logits - lse[:, None]

    def _extend(self, going_on: Sequence[tuple[int, int, float]]) -> None:
        parents, heirs = self._beams, {number for number, _, _ in going_on}
        self._beams = []
        for number, token, logprob in going_on:
            structure = parents[number].structure
            if structure is not None and number not in heirs:
                structure = structure.copy()
            heirs.discard(number)  # the first child takes over the state, others get copies of it
            self._beams.append(_Beam([*parents[number].tokens, token], logprob, structure))

    def finish(self, reason: FinishReason) -> None:
        """Ends the search. Where it has found nothing, its text is that of the best running beam."""
        if not self._found:
            best = self._beams[0]
            self._found = [BeamResult(tuple(best.tokens), best.logprob, best.logprob, reason)]
        elif reason == "cancelled":
            self._found = [BeamResult(one.tokens, one.logprob, one.score, reason) for one in self._found]
        for choice, one in enumerate(self.results if self._found[0].tokens else []):
            self._deliver(Piece(self._text_of(one.tokens)[0], one.tokens, choice=choice))
        self._end(self._found[0].finish_reason)

    def completion(self) -> Completion:
        """The best text; `choices` are all of them, where there are several."""
        prompt = tuple(self.tokens)
        found = tuple(
            Completion(self._text_of(one.tokens)[0], one.tokens, one.finish_reason, None, prompt, None)
            for one in self.results
        )
        return found[0].with_choices(found)

    def _stopped(self, tokens: Sequence[int]) -> bool:
        return bool(self._strings) and self._text_of(tokens)[1]

    def _text_of(self, tokens: Sequence[int]) -> tuple[str, bool]:
        """The text before a stop string, and whether there is one."""
        if self._tokenizer is None:
            return "", False
        decoder, stop = self._tokenizer.decoder(after=self.tokens), StopStrings(self._strings)
        text, stopped = stop.push("".join(map(decoder.push, tokens)) + decoder.finish())
        return text if stopped else text + stop.finish(), stopped


def _best(values: Array, n: int) -> list[int]:
    """The places of the n largest values that are not -inf, in order."""
    n = min(n, len(values))
    least = np.partition(values, len(values) - n)[len(values) - n]
    places = np.flatnonzero((values >= least) & (values > -np.inf))
    order = np.argsort(-values[places], kind="stable")[:n]
    return [int(place) for place in places[order]]
