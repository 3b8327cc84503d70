"""Who runs, who waits, and how many passes it takes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gollm.errors import GenerationError
from gollm.inference.engine import Engine
from gollm.inference.generation import Generation, Piece
from gollm.inference.requests import generations
from gollm.inference.sampling import Sampling
from gollm.inference.scheduler import Scheduler
from gollm.inference.speculation import Drafter, DraftModel, PromptLookup, check_draft
from gollm.kernels import Array
from gollm.language_model import LanguageModel
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder
from gollm.tokenizers import CharacterTokenizer

MODEL = LanguageModel(
    Decoder(ModelConfig(n_layers=1, n_heads=2, d_model=16, vocab_size=37, context=300, position="rope")).initialise(3)
)
PIECES: list[Piece | None] = []


def scheduler_of(n_pages: int = 20, chunk: int = 64, max_batch: int = 8, drafter: Drafter | None = None) -> Scheduler:
    return Scheduler(MODEL.decoder, n_pages, chunk=chunk, max_batch=max_batch, vocab_size=None, drafter=drafter)


def add(scheduler: Scheduler, prompt: list[int], **options: Any) -> Generation:
    (generation,) = generations(MODEL, prompt, Sampling(**options), PIECES.append)
    scheduler.add(generation)
    return generation


def run(scheduler: Scheduler) -> None:
    while scheduler.busy:
        scheduler.step()


def prompt(n: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, 37, n).tolist()


def test_a_long_prompt_holds_nobody_up() -> None:
    """One token of each text that is past its prompt in every pass, and a chunk of the prompt."""
    scheduler = scheduler_of(chunk=32)
    short = add(scheduler, prompt(5), max_new_tokens=30)
    scheduler.step()
    long = add(scheduler, prompt(200, 1), max_new_tokens=3)
    for n in range(2, 8):
        scheduler.step()
        assert (short.n_new, long.n_new) == (n, 0)
    scheduler.step()
    assert (short.n_new, long.n_new) == (8, 1)  # 7 chunks of 32 hold 200 tokens


def test_texts_share_a_pass() -> None:
    scheduler = scheduler_of()
    for i in range(8):
        add(scheduler, prompt(8, i), max_new_tokens=10)
    run(scheduler)
    assert scheduler.counts.passes == 10


def test_the_same_prompt_at_once_is_computed_once() -> None:
    """The second waits for each full page of the first, and then computes what is behind the last one."""
    scheduler = scheduler_of(chunk=512)
    for seed in range(3):
        add(scheduler, prompt(200), max_new_tokens=4, seed=seed)
    run(scheduler)
    assert (scheduler.counts.prompt_tokens, scheduler.counts.reused_tokens) == (200 + 2 * 8, 2 * 192)
    assert scheduler.counts.passes == 5


def test_texts_are_admitted_in_order_and_as_soon_as_their_pages_are_there() -> None:
    scheduler = scheduler_of(n_pages=5)
    first = add(scheduler, prompt(100, 1), max_new_tokens=60)  # 3 pages
    second = add(scheduler, prompt(100, 2), max_new_tokens=60)  # 3 pages: waits
    third = add(scheduler, prompt(10, 3), max_new_tokens=2)  # 1 page: it came later, and waits, too
    scheduler.step()
    assert [seat.generation for seat in scheduler.running] == [first]
    while not first.finished:
        scheduler.step()
    scheduler.step()
    assert [seat.generation for seat in scheduler.running] == [second, third]
    run(scheduler)
    assert second.n_new == 60 and third.n_new == 2


def test_shared_pages_make_room_for_more() -> None:
    """Two of 4 pages each in a pool of 6: they share two."""
    scheduler = scheduler_of(n_pages=6, chunk=512)
    first, second = [add(scheduler, prompt(150), max_new_tokens=100, seed=i) for i in range(2)]
    scheduler.step()
    assert len(scheduler.running) == 1
    scheduler.step()
    assert [seat.generation for seat in scheduler.running] == [first, second]
    run(scheduler)
    assert first.n_new == second.n_new == 100


def test_texts_that_forget_take_turns_where_pages_are_few() -> None:
    """A context has 5 pages, the pool 7; both texts share their first pages, and then no longer."""
    scheduler = scheduler_of(n_pages=7, chunk=512)
    texts = [add(scheduler, prompt(250), max_new_tokens=800, seed=i, temperature=3.0) for i in range(3)]
    run(scheduler)
    assert [text.n_new for text in texts] == [800] * 3
    assert scheduler.pool.n_free == 7


def test_what_comes_after_forgetting_is_found_again() -> None:
    """The context of 300 is full after 50 tokens; the last 150 are the next beginning, with 2 full pages."""
    scheduler = scheduler_of(chunk=512)
    texts = []
    for _ in range(2):
        texts.append(add(scheduler, prompt(250), max_new_tokens=100, temperature=2.0))
        run(scheduler)
    assert texts[0].tokens == texts[1].tokens
    assert scheduler.counts.reused_tokens == 3 * 64 + 2 * 64


def test_the_batch_has_a_limit() -> None:
    scheduler = scheduler_of(max_batch=2)
    texts = [add(scheduler, prompt(5, i), max_new_tokens=5) for i in range(5)]
    scheduler.step()
    assert (len(scheduler.running), len(scheduler.waiting)) == (2, 3)
    run(scheduler)
    assert all(text.n_new == 5 for text in texts) and scheduler.counts.passes == 15


def test_a_draft_that_is_always_right_saves_most_passes() -> None:
    drafter = DraftModel(MODEL, 20, 64, None, max_recorded_rows=64)
    narrow = DraftModel(MODEL, 20, 64, None, max_recorded_rows=64, cache_dtype="bfloat16")
    assert narrow.pool.k_pages.array.nbytes == drafter.pool.k_pages.array.nbytes / 2
    scheduler = scheduler_of(drafter=drafter)
    for i in range(3):
        add(scheduler, prompt(70 + i, i), max_new_tokens=41, temperature=2.0, seed=i)
    run(scheduler)
    counts = scheduler.counts
    assert counts.generated_tokens == 3 * 41
    assert counts.accepted_tokens == counts.drafted_tokens >= 3 * 30  # but where the draft's prompt took a pass
    assert counts.passes <= 15
    assert drafter.pool.n_free == 20


def test_a_text_that_repeats_itself_is_guessed_from_what_it_has_said() -> None:
    scheduler = scheduler_of(drafter=PromptLookup(6))
    text = add(scheduler, prompt(4), max_new_tokens=200, temperature=0)
    run(scheduler)
    counts = scheduler.counts
    assert text.n_new == 200
    assert counts.accepted_tokens > 100 and counts.passes < 100


def test_guesses_grow_with_success_and_shrink_with_failure() -> None:
    class Wrong:
        size = 8

        def __init__(self) -> None:
            self.limits: list[int] = []

        def guess(self, texts: Any, limits: Any) -> list[list[int]]:
            self.limits += limits
            return [[99] * limit for limit in limits]  # no token is 99

        def end(self, text: Generation) -> None:
            self.ended = text

    drafter = Wrong()
    scheduler = scheduler_of(drafter=drafter)
    text = add(scheduler, prompt(4), max_new_tokens=6, temperature=0)
    with pytest.raises(Exception, match="outside"):  # the kernel refuses it
        run(scheduler)
    assert drafter.limits == [4]  # of the six, one is there, and a pass draws one in any case
    scheduler.end_all()
    assert drafter.ended is text


@pytest.mark.parametrize("draft", [False, True])
def test_a_constraint_sees_the_text_grow_and_nothing_else(draft: bool) -> None:
    class Even:
        def __init__(self) -> None:
            self.seen: list[list[int]] = []

        def apply(self, generated: Array, logits: Array) -> None:
            assert self.seen in ([], [generated[:-1].tolist()])
            self.seen = [generated.tolist()]
            logits[1::2] = -np.inf

    drafter = DraftModel(MODEL, 20, 64, None, max_recorded_rows=64) if draft else None
    scheduler = scheduler_of(drafter=drafter)
    text = add(scheduler, prompt(4), max_new_tokens=30, temperature=1.0)
    text.row = replace(text.row, constraint=Even())
    run(scheduler)
    assert text.error is None and text.n_new == 30
    assert all(token % 2 == 0 for token in text.tokens[4:])


def test_a_draft_with_other_tokens_is_refused() -> None:
    a, b = (CharacterTokenizer.train(text) for text in ("abc", "abcd"))
    decoder = MODEL.decoder
    check_draft(LanguageModel(decoder, a), LanguageModel(decoder, a))
    check_draft(MODEL, MODEL)
    for one, other in [(LanguageModel(decoder, a), LanguageModel(decoder, b)), (MODEL, LanguageModel(decoder, a))]:
        with pytest.raises(GenerationError, match="the draft model has another tokenizer"):
            check_draft(one, other)
    fewer = Decoder(decoder.config.replace(vocab_size=5))  # rows of the embedding than tokens
    with pytest.raises(GenerationError, match="the draft model has another tokenizer"):
        check_draft(LanguageModel(decoder, a), LanguageModel(fewer, a))


@pytest.mark.parametrize("draft", ["x", 1.5, True, 0])
def test_a_draft_is_a_model_or_a_number(draft: Any) -> None:
    with pytest.raises(GenerationError, match=f"draft is {draft!r}; it must be a "):
        Engine(MODEL, draft=draft)


def test_a_text_that_the_draft_cannot_draw_for_takes_no_guesses_from_others() -> None:
    def allows_one(tokens: Array, logits: Array) -> None:
        logits[7] = 0

    scheduler = scheduler_of(drafter=DraftModel(MODEL, 20, 64, None, 16))
    banned = dict.fromkeys(range(37), -math.inf)
    one = add(scheduler, [1, 2], max_new_tokens=30, logit_bias=banned, processors=(allows_one,))
    other = add(scheduler, prompt(5), max_new_tokens=30)
    run(scheduler)
    assert one.tokens[2:] == [7] * 30 and other.n_new == 30
    assert scheduler.counts.accepted_tokens > 10


def test_prompts_that_are_scored_share_the_room_for_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler, rows = scheduler_of(n_pages=60, chunk=512), []
    forward = scheduler._forward

    def noted(*arguments: Any) -> Array:
        logits = forward(*arguments)
        rows.append(len(logits))
        return logits

    monkeypatch.setattr(scheduler, "_forward", noted)
    texts = [add(scheduler, prompt(100, i), max_new_tokens=0, prompt_logprobs=0) for i in range(5)]
    run(scheduler)
    assert max(rows) <= 64
    assert all(len(text.prompt_logprobs) == 100 for text in texts)


def test_nan_at_a_scored_prompt_is_an_error() -> None:
    decoder = Decoder(MODEL.decoder.config).initialise(0)
    decoder.parameters["norm.weight"].data[:] = np.nan
    scheduler = Scheduler(decoder, 20, chunk=64, max_batch=8, vocab_size=None)
    texts = [add(scheduler, prompt(9), max_new_tokens=n, prompt_logprobs=1) for n in (0, 3)]
    run(scheduler)
    assert all(isinstance(text.error, GenerationError) and "are NaN" in str(text.error) for text in texts)
    assert scheduler.pool.n_free == 20
