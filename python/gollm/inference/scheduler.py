"""Continuous batching: which texts go through the next forward pass, and with which of their tokens.

A pass takes the next token of every text that has its prompt behind it, and beside these up to `chunk` prompt tokens of
the others, first come first served. Texts join and leave between passes. A prompt takes over the pages of those before
it that began alike (gollm.inference.prefixes); while another computes the page that it needs next, it waits for that.

A text is admitted when all pages that it can come to need are to be had, so it never has to stop for want of memory,
and those that wait are admitted in the order in which they came: there is no deadlock, and nobody waits forever. One
that outgrows the context and forgets its oldest half queues again for its pages, before all that came later. A beam
search is one text with several sequences, a token of each in every pass.

Where nothing but kernels decides over the texts, and nobody waits, many of their tokens are drawn in one native call.

Nothing here depends on what else is in a batch: a row of the forward pass is a function of its own text, and a draw one
of the row, the seed and the position.
"""

from __future__ import annotations

import bisect
import math
import time
from dataclasses import dataclass
from operator import attrgetter

from gollm.errors import GenerationError, KernelError
from gollm.inference.beam import BeamText
from gollm.inference.decoding import AHEAD, CachedForward
from gollm.inference.drawing import Drawn, draw_each, is_plain, top_logprobs
from gollm.inference.generation import Generation, TokenLogprob
from gollm.inference.pages import PAGE_SIZE, CachedSequence, CacheDType, cache_dtype_of, continued, pages_for
from gollm.inference.prefixes import Prefix, PrefixPool
from gollm.inference.speculation import Drafter
from gollm.kernels import Array
from gollm.model.decoder import Decoder

RECORDED_ROWS = 64  # of passes together, at least: of a text with and without guesses
AHEAD_SECONDS = 2e-3  # of tokens that are drawn at once: a stream stands still for no longer
SCORED_AT_ONCE = 64  # prompt tokens of a pass whose log-probabilities are wanted: their logits take V floats each


@dataclass(slots=True)
class Counts:
    """What has been done so far. Prompt tokens are computed, or reused from pages that others had computed. A text that
    is in a pass gets one token from it, and one more for each guess that is accepted."""

    passes: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    generated_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0


class Seat:
    """A generation and its part of the cache. `known` is the last of its pages that others can find, the n_known-th.
    `beams` are the sequences of a search that has its prompt behind it."""

    __slots__ = ("beams", "drafts", "generation", "known", "n_known", "number", "reserved", "scores_prompt", "sequence")

    def __init__(self, generation: Generation, number: int, pool: PrefixPool, drafts: int) -> None:
        self.generation = generation
        self.number = number  # of its arrival
        self.sequence = CachedSequence(pool, generation.adapter)
        self.beams: list[CachedSequence] = []
        self.known: Prefix = pool.empty(generation.adapter)
        self.n_known = 0
        self.reserved = 0  # pages, those that it has included
        self.drafts = drafts  # the most guesses of what comes next: fewer after wrong ones
        self.scores_prompt = generation.sampling.prompt_logprobs is not None  # and not all have been computed

    @property
    def pending(self) -> int:
        """How many of its tokens are not in the cache yet."""
        return len(self.generation.tokens) - self.generation.start - self.sequence.length

    @property
    def n_pages(self) -> int:
        """How many pages it has."""
        return len({page for sequence in self.beams or [self.sequence] for page in sequence.pages})

    def clear(self) -> None:
        """Gives the pages back."""
        for sequence in self.beams or [self.sequence]:
            sequence.clear()


class Scheduler:
    """Generations over one pool of pages. It has no thread: whoever calls step() computes."""

    def __init__(
        self,
        decoder: Decoder,
        n_pages: int,
        *,
        chunk: int,
        max_batch: int,
        vocab_size: int | None,
        cache_dtype: CacheDType = "float32",
        drafter: Drafter | None = None,
    ) -> None:
        self.context = decoder.config.context
        self.chunk, self.max_batch, self.vocab_size = chunk, max_batch, vocab_size
        self.waiting: list[Seat] = []  # both in order of arrival
        self.running: list[Seat] = []
        self.counts = Counts()
        self.cancellation = False  # some generation's `cancelled` may have been set
        self.drafter = drafter
        self.n_drawn_from = min(vocab_size or decoder.config.vocab_size, decoder.config.vocab_size)
        self._kernels = decoder.parameters.kernels
        self.pool = PrefixPool(decoder.config, n_pages, cache_dtype_of(decoder, cache_dtype), self._kernels)
        self._seconds = AHEAD_SECONDS  # of the last pass, for each token of a text
        self._forward = CachedForward(decoder, self.pool, max(RECORDED_ROWS, 2 * max_batch))
        self._arrivals = 0

    @property
    def busy(self) -> bool:
        return bool(self.running or self.waiting)

    def add(self, generation: Generation) -> None:
        """One more text; the pool has at least pages_needed() for it."""
        if generation.cancelled:
            generation.finish("cancelled")
            generation.announce_end()
        elif generation.max_new_tokens == 0 and generation.sampling.prompt_logprobs is None:
            generation.finish("length")
            generation.announce_end()
        else:
            self._arrivals += 1
            drafts = 0 if self.drafter is None else self.drafter.size
            self.waiting.append(Seat(generation, self._arrivals, self.pool, drafts))

    def step(self) -> None:
        """One forward pass, and the next token of each text in it that has its prompt behind it.

        An exception of a draw, such as of a processor of the user's, ends the text that it belongs to."""
        if self.cancellation:
            self.cancellation = False
            self._drop_cancelled()
        self._forget()
        self._admit()
        n = self._ahead()
        if n < 2 or not self._draw_ahead(n):
            self._pass()

    def end_all(self, error: BaseException | None = None) -> None:
        """Ends all texts: cancelled, or by an error."""
        seats = [*self.running, *self.waiting]
        self.running, self.waiting = [], []
        for seat in seats:
            if seat.generation.finished:
                pass
            elif error is None:
                seat.generation.finish("cancelled")
            else:
                seat.generation.fail(error)
            self._leave(seat)

    # -- who runs

    def _drop_cancelled(self) -> None:
        for seats in (self.running, self.waiting):
            for seat in [seat for seat in seats if seat.generation.cancelled]:
                seats.remove(seat)
                seat.generation.finish("cancelled")
                self._leave(seat)

    def _leave(self, seat: Seat) -> None:
        """What a text has of the cache is given back, before anyone hears that it has ended."""
        seat.clear()
        if self.drafter is not None:
            self.drafter.end(seat.generation)
        seat.generation.announce_end()

    def _forget(self) -> None:
        """Texts that have filled the context go on from its last half, once they have pages again."""
        for seat in [
            seat for seat in self.running if len(seat.generation.tokens) - seat.generation.start > self.context
        ]:
            seat.sequence.clear()
            seat.known, seat.n_known = self.pool.empty(seat.generation.adapter), 0
            seat.generation.start = len(seat.generation.tokens) - max(1, self.context // 2)
            self.running.remove(seat)
            bisect.insort(self.waiting, seat, key=attrgetter("number"))

    def _admit(self) -> None:
        """As many as fit of those that wait, in order. Pages that others have reserved and not taken stay free."""
        if not self.waiting:
            return
        promised = sum(seat.reserved - seat.n_pages for seat in self.running)
        while self.waiting and len(self.running) < self.max_batch:
            seat = self.waiting[0]
            seat.reserved = pages_needed(seat.generation, self.context)
            found = self._found(seat)
            in_use = sum(not self.pool.is_idle(prefix) for prefix in found)
            if seat.reserved - in_use > self.pool.n_free - promised:
                break
            del self.waiting[0]
            bisect.insort(self.running, seat, key=attrgetter("number"))
            self._take_over(seat, found)
            promised += seat.reserved - len(found)

    def _found(self, seat: Seat) -> list[Prefix]:
        """The pages that hold what comes next in a text; its last token is left to be computed."""
        if seat.scores_prompt or seat.n_known * PAGE_SIZE < seat.sequence.length:
            return []
        generation = seat.generation
        begin, end = generation.start + seat.sequence.length, len(generation.tokens) - 1
        return self.pool.longest(generation.tokens, begin, end, seat.known)

    def _take_over(self, seat: Seat, found: list[Prefix]) -> None:
        for prefix in found:
            self.pool.share(prefix.page)
            seat.sequence.pages.append(prefix.page)
            seat.known = prefix
        seat.n_known += len(found)
        seat.sequence.length += PAGE_SIZE * len(found)
        self.counts.reused_tokens += PAGE_SIZE * len(found)

    # -- what they compute

    def _pass(self) -> None:
        seats: list[Seat] = []
        sequences: list[CachedSequence] = []
        new: list[list[int]] = []
        drawing: list[tuple[Seat, list[int]]] = []  # with guesses of what is drawn
        draw_rows: list[int] = []  # of the pass: the last token's, and those of the guesses after it
        scored: list[tuple[Seat, int, int]] = []  # rows [begin, end) score the next prompt token
        searched: list[tuple[Seat, BeamText, int, int]] = []  # rows [begin, end) are its beams', or its prompt's last
        guesses, n_rows = self._guess(), 0
        for seat, count in self._chosen():
            text = seat.generation
            if seat.beams:
                assert isinstance(text, BeamText)
                seats.append(seat)
                sequences += seat.beams
                new += [[token] for token in text.last_tokens]
                searched.append((seat, text, n_rows, n_rows + len(seat.beams)))
                n_rows += len(seat.beams)
                continue
            tokens, begin, guessed = text.tokens, text.start + seat.sequence.length, guesses.get(seat, [])
            if seat.scores_prompt:
                scored.append((seat, n_rows, n_rows + min(count, text.n_prompt - 1 - begin)))
            seats.append(seat)
            sequences.append(seat.sequence)
            new.append(tokens[begin : begin + count] + guessed)
            n_rows += count + len(guessed)
            if begin + count == len(tokens) and isinstance(text, BeamText):
                searched.append((seat, text, n_rows - 1, n_rows))
            elif begin + count == len(tokens) and text.max_new_tokens > 0:
                drawing.append((seat, guessed))
                draw_rows += range(n_rows - 1 - len(guessed), n_rows)
        if not seats:
            return
        self.counts.passes += 1
        score_rows = [row for _, begin, end in scored for row in range(begin, end)]
        search_rows = [row for _, _, begin, end in searched for row in range(begin, end)]
        rows = draw_rows + score_rows + search_rows
        every = len(draw_rows) + len(search_rows) == n_rows
        begin_pass = time.perf_counter()
        logits = self._forward(sequences, new, None if every else rows)
        self._seconds = time.perf_counter() - begin_pass
        if every and search_rows:
            logits = logits[rows]
        at = len(draw_rows)
        for seat, begin, end in scored:
            self._score(seat, logits[at : at + end - begin])
            at += end - begin
        self._draw(drawing, logits[: len(draw_rows)])
        for seat in seats:
            if not seat.beams:
                self._remember(seat)
        for seat, search, begin, end in searched:
            self._search(seat, search, logits[at : at + end - begin])
            at += end - begin
        for seat in seats:
            if not seat.generation.finished and seat.generation.max_new_tokens == 0 and seat.pending == 0:
                seat.generation.finish("length")
            if seat.generation.finished:
                self.running.remove(seat)
                self._leave(seat)

    def _chosen(self) -> list[tuple[Seat, int]]:
        """Who takes part in the next pass, with how many tokens: first come first served. Texts with the same adapter
        stand side by side, so that its products are few."""
        chosen: list[tuple[Seat, int]] = []
        computing: set[tuple[int, tuple[int, ...]]] = set()  # pages: the one before, and the tokens
        left, left_scored = self.chunk, SCORED_AT_ONCE
        for seat in self.running:
            count = 1
            if not seat.beams and (seat.pending > 1 or seat.scores_prompt):
                most = min(left, left_scored) if seat.scores_prompt else left
                if most == 0 or self._waits_for_another(seat, computing):
                    continue
                count = min(seat.pending, most)
                left -= count
                left_scored -= count if seat.scores_prompt else 0
                self.counts.prompt_tokens += count
            chosen.append((seat, count))
        return sorted(chosen, key=lambda one: one[0].generation.adapter)

    def _ahead(self) -> int:
        """How many tokens of all texts can be drawn at once: as many as none of them can end or grow beyond by itself,
        nobody waits for, and AHEAD_SECONDS have room for. Then what Python does for a token is done for many."""
        seats, texts = self.running, [seat.generation for seat in self.running]
        if self.waiting or self.drafter is not None or self._kernels.plan_in_use():
            return 1
        if not all(seat.pending == 1 and not seat.scores_prompt and is_plain(seat.generation.row) for seat in seats):
            return 1
        room = [
            min(text.max_new_tokens - text.n_new, self.context - seat.sequence.length)
            for seat, text in zip(seats, texts, strict=True)
        ]
        return min(*room, AHEAD, int(AHEAD_SECONDS / self._seconds)) if room else 1

    def _draw_ahead(self, n: int) -> bool:
        """The next n tokens of each text. What comes after a text's end is thrown away: a draw is a function of seed
        and position, so it is nothing to anyone. False, and nothing is changed, where a token cannot be drawn."""
        seats = sorted(self.running, key=lambda seat: seat.generation.adapter)
        sequences = [seat.sequence for seat in seats]
        lengths = [sequence.length for sequence in sequences]
        begin = time.perf_counter()
        try:
            rows = [seat.generation.row for seat in seats]
            drawn = self._forward.draw_ahead(sequences, rows, self.n_drawn_from, n).tolist()
        except KernelError:
            drawn = [[-1]]
        if any(token < 0 for tokens in drawn for token in tokens):
            for sequence, length in zip(sequences, lengths, strict=True):
                sequence.length = length
            return False
        self._seconds = (time.perf_counter() - begin) / n
        self.counts.passes += n
        for seat, tokens in zip(seats, drawn, strict=True):
            text = seat.generation
            for token in tokens:
                text.accept(Drawn(token))
                self.counts.generated_tokens += 1
                if text.finished:
                    break
            seat.sequence.length = min(seat.sequence.length, len(text.tokens) - text.start)
            self._remember(seat)
            if text.finished:
                self.running.remove(seat)
                self._leave(seat)
        return True

    def _guess(self) -> dict[Seat, list[int]]:
        """What may come next in texts that have their prompt behind them, no further than they and the context go."""
        if self.drafter is None:
            return {}
        seats = [
            seat
            for seat in self.running
            if seat.pending == 1 and not seat.scores_prompt and seat.generation.sampling.beams == 1
        ]
        texts = [seat.generation for seat in seats]
        limits = [
            min(seat.drafts, text.max_new_tokens - text.n_new - 1, self.context - len(text.tokens) + text.start)
            for seat, text in zip(seats, texts, strict=True)
        ]
        return dict(zip(seats, self.drafter.guess(texts, limits), strict=True))

    def _waits_for_another(self, seat: Seat, computing: set[tuple[int, tuple[int, ...]]]) -> bool:
        """Takes over what others have computed of a prompt. True where another one in this pass, or before it, is on
        the page that comes next."""
        if not seat.scores_prompt:
            self._take_over(seat, self._found(seat))
        begin = seat.generation.start + seat.n_known * PAGE_SIZE
        if begin + PAGE_SIZE >= len(seat.generation.tokens):
            return False  # a page that also depends on what is drawn
        page = (seat.known.page, tuple(seat.generation.tokens[begin : begin + PAGE_SIZE]))
        if page in computing and seat.n_known * PAGE_SIZE == seat.sequence.length and not seat.scores_prompt:
            return True
        computing.add(page)
        return False

    def _score(self, seat: Seat, logits: Array) -> None:
        """Log-probabilities of the next prompt tokens.  logits: (R, V)"""
        generation = seat.generation
        scores = generation.prompt_logprobs
        if not scores:
            scores.append(TokenLogprob(generation.tokens[0], None))
        n = generation.sampling.prompt_logprobs
        assert n is not None
        tokens = generation.tokens[len(scores) : len(scores) + len(logits)]
        for token, (logprob, top) in zip(tokens, top_logprobs(logits, tokens, n, self.vocab_size), strict=True):
            if math.isnan(logprob):
                generation.fail(
                    GenerationError(
                        "the logits of the prompt are NaN; the model's weights are damaged, or its training diverged"
                    )
                )
                return
            scores.append(TokenLogprob(token, logprob, tuple(top)))
        seat.scores_prompt = len(scores) < generation.n_prompt

    def _draw(self, drawing: list[tuple[Seat, list[int]]], logits: Array) -> None:
        """The next token of each text, and one more after each guess that is confirmed by the draw before it.

        logits: a row for each text, and behind it one for each of its guesses"""
        rows, row = [], 0  # of each text's next draw
        for _, guessed in drawing:
            rows.append(row)
            row += 1 + len(guessed)
        n_confirmed = 0
        while drawing:
            texts = [seat.generation.row for seat, _ in drawing]
            drawn = draw_each(logits if len(rows) == len(logits) else logits[rows], texts, self.vocab_size)
            going_on: list[tuple[Seat, list[int]]] = []
            their_rows: list[int] = []
            for (seat, guessed), row, one in zip(drawing, rows, drawn, strict=True):
                text = seat.generation
                if text.finished:
                    pass  # its prompt could not be scored
                elif isinstance(one, Drawn):
                    self.counts.generated_tokens += 1
                    text.accept(one)
                else:
                    text.fail(one)
                if not text.finished and guessed[n_confirmed : n_confirmed + 1] == [text.tokens[-1]]:
                    going_on.append((seat, guessed))
                    their_rows.append(row + 1)
                elif guessed:
                    self._note_guesses(seat, len(guessed), n_confirmed)
            drawing, rows, n_confirmed = going_on, their_rows, n_confirmed + 1

    def _search(self, seat: Seat, search: BeamText, logits: Array) -> None:
        """The next token of each beam.  logits: (S, V)"""
        sequences = seat.beams or [seat.sequence]
        try:
            parents = search.step(logits[:, : self.n_drawn_from])
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # such as a processor's: it ends its own text
            search.fail(error)
            return
        self.counts.generated_tokens += len(sequences)
        if parents:
            seat.beams = continued(sequences, parents)

    def _note_guesses(self, seat: Seat, n_guessed: int, n_confirmed: int) -> None:
        """What was computed after a wrong guess is not the text's. Right guesses make the next ones bolder."""
        seat.sequence.length -= n_guessed - n_confirmed
        seat.drafts = n_confirmed + 1
        if n_confirmed == n_guessed and self.drafter is not None:
            seat.drafts = min(self.drafter.size, 2 * n_guessed)
        self.counts.drafted_tokens += n_guessed
        self.counts.accepted_tokens += n_confirmed

    def _remember(self, seat: Seat) -> None:
        """Others can find the pages that a text has filled."""
        generation, sequence = seat.generation, seat.sequence
        while (seat.n_known + 1) * PAGE_SIZE <= sequence.length:
            begin = generation.start + seat.n_known * PAGE_SIZE
            tokens = tuple(generation.tokens[begin : begin + PAGE_SIZE])
            seat.known = self.pool.remember(seat.known, tokens, sequence.pages[seat.n_known])
            sequence.pages[seat.n_known] = seat.known.page
            seat.n_known += 1


def pages_needed(generation: Generation, context: int) -> int:
    """The most that a text can come to need at once; beams share the full pages of their prompt."""
    tokens = generation.n_prompt + generation.max_new_tokens - generation.start
    n, shared = pages_for(min(context, tokens)), generation.n_prompt // PAGE_SIZE
    return n + (generation.sampling.beams - 1) * (n - shared)
