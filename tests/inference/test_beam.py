"""Beam search against its definition: trying every text."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest

import gollm
from gollm.errors import GenerationError
from gollm.inference.beam import BeamResult, BeamText
from gollm.inference.generation import Completion
from gollm.inference.requests import generations
from gollm.inference.sampling import Sampling
from gollm.inference.scheduler import Scheduler, pages_needed
from gollm.language_model import LanguageModel
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder
from gollm.model.generation_defaults import GenerationDefaults
from gollm.tokenizers import CharacterTokenizer

V = 7
MODEL = Decoder(ModelConfig(n_layers=1, n_heads=2, d_model=8, vocab_size=V, context=200)).initialise(3)
for _name in ("token_embedding", "position_embedding"):  # so that texts differ in probability
    MODEL.parameters[_name].data[:] *= 20


def begun(prompt, *, stop_tokens=(), model=MODEL, vocab_size=None, **options) -> tuple[BeamText, Scheduler]:
    """A search, and a scheduler with just the pages that it needs."""
    language_model = LanguageModel(model, None, GenerationDefaults(stop_tokens=tuple(stop_tokens)))
    sampling = Sampling(**{"max_new_tokens": 4, **options})
    (text,) = generations(language_model, prompt, sampling, lambda piece: None)
    assert isinstance(text, BeamText)
    n_pages = pages_needed(text, model.config.context)
    scheduler = Scheduler(model, n_pages, chunk=512, max_batch=1, vocab_size=vocab_size)
    scheduler.add(text)
    return text, scheduler


def search(prompt, **options) -> list[BeamResult]:
    text, scheduler = begun(prompt, **options)
    while scheduler.busy:
        scheduler.step()
    assert scheduler.pool.n_free == scheduler.pool.n_pages  # everything is given back
    return text.results


def results(prompt: str, **options) -> list[Completion]:
    with gollm.Engine(LANGUAGE_MODEL) as engine:
        found = engine.submit(prompt, **options).result()
    assert found.choices[:1] == ((replace(found, choices=()),) if options.get("n", 1) > 1 else ())
    return list(found.choices or [found])


def logprob(prompt, tokens) -> float:
    logits = MODEL.logits(np.array([[*prompt, *tokens]], np.int32))[0].astype(np.float64)
    scores = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return sum(scores[len(prompt) - 1 + i, token] for i, token in enumerate(tokens))


def test_a_beam_as_wide_as_all_texts_finds_the_best_ones() -> None:
    prompt = [1, 2]
    every = sorted(((logprob(prompt, text), text) for text in itertools.product(range(V), repeat=3)), reverse=True)
    found = search(prompt, max_new_tokens=3, beams=V**3, n=5, length_penalty=0.0)
    assert [one.tokens for one in found] == [text for _, text in every[:5]]
    np.testing.assert_allclose([one.score for one in found], [score for score, _ in every[:5]], atol=1e-4)
    assert {one.finish_reason for one in found} == {"length"}


def test_one_step_of_a_beam_search_by_hand() -> None:
    """Two beams, the plain way, through lengths that cross pages of the cache."""
    prompt = [1, 2, 3] * 20
    beams = [(0.0, [])]
    for _ in range(20):
        grown = [(s + logprob(prompt, [*t, v]) - logprob(prompt, t), [*t, v]) for s, t in beams for v in range(V)]
        beams = sorted(grown, key=lambda beam: -beam[0])[:2]
    found = search(prompt, max_new_tokens=20, beams=2, n=2)
    assert [list(one.tokens) for one in found] == [tokens for _, tokens in beams]
    np.testing.assert_allclose([one.logprob for one in found], [score for score, _ in beams], atol=1e-3)
    np.testing.assert_allclose([one.score for one in found], [score / 20 for score, _ in beams], atol=1e-3)


def test_a_search_without_room_for_a_second_text_is_greedy() -> None:
    """Every other token is forbidden, but where the greedy text has it."""
    tokens = [4]
    for _ in range(6):
        tokens.append(int(MODEL.logits(np.array([tokens], np.int32))[0, -1].argmax()))

    def only_greedy(text, logits):
        forbidden = np.arange(V) != tokens[len(text)]
        logits[forbidden] = -np.inf

    (one,) = search([4], max_new_tokens=6, beams=2, processors=only_greedy)
    assert list(one.tokens) == tokens[1:]


def test_a_stop_token_ends_a_text_and_is_left_out() -> None:
    found = search([1], max_new_tokens=30, beams=4, n=4, stop_tokens=[3, 6])
    for one in found:
        assert not {3, 6} & {*one.tokens}
        assert one.finish_reason == ("stop" if len(one.tokens) < 30 else "length")
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert any(one.finish_reason == "stop" for one in found)


def test_a_text_may_end_for_another_reason(monkeypatch) -> None:
    monkeypatch.setattr(BeamText, "_stopped", lambda self, tokens: len(tokens) == 5)
    found = search([1], max_new_tokens=20, beams=3, n=3)
    assert {(len(one.tokens), one.finish_reason) for one in found} == {(5, "stop")}


def test_padding_and_bias() -> None:
    assert max(token for one in search([1], beams=5, n=5, vocab_size=3) for token in one.tokens) < 3
    banned = search([1], beams=5, n=5, logit_bias=dict.fromkeys(range(1, V), -np.inf))
    assert [one.tokens for one in banned] == [(0, 0, 0, 0)]


def test_the_context_and_no_tokens() -> None:
    assert [len(one.tokens) for one in search([1] * 198, max_new_tokens=50, beams=2, n=2)] == [2, 2]
    assert search([1] * 200, beams=2) == search([1], beams=2, max_new_tokens=0) == [BeamResult((), 0.0, 0.0, "length")]
    with pytest.raises(GenerationError, match=r"the prompt has 201 tokens, more than this model's context \(200\)"):
        search([1] * 201, beams=2)


def test_a_long_prompt_goes_through_in_chunks() -> None:
    model = Decoder(ModelConfig(n_layers=1, n_heads=2, d_model=8, vocab_size=V, context=1200)).initialise(3)
    prompt = np.random.default_rng(1).integers(0, V, 1100).tolist()
    best = int(model.logits(np.array([prompt], np.int32))[0, -1].argmax())
    assert search(prompt, model=model, max_new_tokens=1, beams=2)[0].tokens == (best,)


TOKENIZER = CharacterTokenizer.train("abcdef", special_tokens=["<|endoftext|>"])
LANGUAGE_MODEL = LanguageModel(MODEL, TOKENIZER)


def test_the_front_doors() -> None:
    assert TOKENIZER.vocab_size == V
    found = results("abc", beams=4, n=3, max_new_tokens=8)
    prompt, end = TOKENIZER.encode("abc").tolist(), TOKENIZER.end_of_text
    want = search(prompt, beams=4, n=3, max_new_tokens=8, stop_tokens=[end])
    assert [list(one.tokens) for one in found] == [list(one.tokens) for one in want]
    assert [one.text for one in found] == [TOKENIZER.decode(one.tokens) for one in want]
    assert LANGUAGE_MODEL.generate("abc", beams=4, max_new_tokens=8) == found[0].text
    with pytest.raises(GenerationError, match="logprobs is 1; it must be None with beam search"):
        results("abc", beams=4, logprobs=1)


def test_stop_strings_end_beams() -> None:
    plain = results("abc", beams=3, max_new_tokens=12)[0].text
    stop = plain[4:6]
    for one in results("abc", beams=3, n=3, max_new_tokens=12, stop=stop):
        assert stop not in one.text
        assert (one.finish_reason == "stop") == (stop in TOKENIZER.decode(one.tokens) or len(one.tokens) < 12)


def test_beams_are_structured_each_for_itself() -> None:
    pytest.importorskip("llguidance")
    found = results("abc", beams=5, n=5, max_new_tokens=12, regex="(a|bc|de){3}f")
    assert len({one.text for one in found}) == 5
    for one in found:
        assert re.fullmatch("(a|bc|de){3}f", one.text) and one.finish_reason == "stop"


def test_searches_and_texts_side_by_side_are_what_they_are_alone() -> None:
    """Of prompts with pages in common, with few pages, so that some wait, at two chunk sizes, with guesses."""
    prefix, rng = [1, 2, 3, 4] * 32, np.random.default_rng(0)
    asked = [
        ([*prefix[: int(rng.integers(1, 128))], *rng.integers(0, V, 3).tolist()], {"seed": i, "max_new_tokens": 12})
        for i in range(12)
    ]
    for _, options in asked[::2]:
        options |= {"beams": int(rng.integers(2, 6)), "n": 2}

    def texts(model: LanguageModel, one_by_one: bool, **engine) -> list[list[tuple[int, ...]]]:
        with gollm.Engine(model, **engine) as made:
            streams = []
            for prompt, options in asked:
                streams.append(made.submit(prompt, **options))
                if one_by_one:
                    streams[-1].result()
            found = [stream.result() for stream in streams]
            stats = made.stats
            assert stats.free_pages == stats.n_pages
        return [[choice.tokens for choice in one.choices or (one,)] for one in found]

    model = LanguageModel(MODEL)
    alone = texts(model, True)
    for engine in (
        {},
        {"chunk": 16, "max_tokens_in_cache": 700},
        {"chunk": 5, "max_batch": 2, "draft": 3, "max_tokens_in_cache": 900},
    ):
        assert texts(model, False, **engine) == alone, engine


def test_a_search_that_is_cancelled_or_fails_gives_its_pages_back() -> None:
    text, scheduler = begun([1, 2] * 40, max_new_tokens=60, beams=3, n=3)
    for _ in range(5):
        scheduler.step()
    assert scheduler.pool.n_free < scheduler.pool.n_pages
    text.cancelled = scheduler.cancellation = True
    scheduler.step()
    assert scheduler.pool.n_free == scheduler.pool.n_pages and not scheduler.busy
    assert text.completion().finish_reason == "cancelled" and len(text.completion().tokens) == 5

    def broken(tokens, logits):
        if len(tokens) == 83:
            raise ValueError("a processor's")

    text, scheduler = begun([1, 2] * 40, max_new_tokens=60, beams=3, processors=broken)
    while scheduler.busy:
        scheduler.step()
    assert isinstance(text.error, ValueError) and scheduler.pool.n_free == scheduler.pool.n_pages


def test_a_search_that_the_cache_cannot_hold_is_refused() -> None:
    with gollm.Engine(LANGUAGE_MODEL, max_tokens_in_cache=256) as engine:
        assert engine.submit([1] * 65, beams=3, max_new_tokens=60).result().tokens  # one full page in common
        with pytest.raises(GenerationError, match="which with 4 beams needs 320 tokens of the cache, and it has 256"):
            engine.submit([1] * 65, beams=4, max_new_tokens=60)
