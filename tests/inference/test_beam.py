"""Beam search against its definition: trying every text."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

import gollm
from gollm.errors import GenerationError
from gollm.inference.beam import BeamResult, BeamSearch, beam_search
from gollm.inference.sampling import Sampling
from gollm.language_model import LanguageModel
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder
from gollm.model.generation_defaults import GenerationDefaults
from gollm.tokenizers import CharacterTokenizer

V = 7
MODEL = Decoder(ModelConfig(n_layers=1, n_heads=2, d_model=8, vocab_size=V, context=200)).initialise(3)
for _name in ("token_embedding", "position_embedding"):  # so that texts differ in probability
    MODEL.parameters[_name].data[:] *= 20


def search(prompt, *, stop_tokens=(), model=MODEL, vocab_size=None, ended=None, **options) -> list[BeamResult]:
    options = {"max_new_tokens": 4, **options}
    sampling = Sampling(**options).resolved(GenerationDefaults())
    beams = BeamSearch(model, prompt, sampling, stop_tokens=stop_tokens, vocab_size=vocab_size, ended=ended)
    while not beams.finished:
        beams.step()
    assert beams._pool.n_free == len(beams._pool._users)  # everything is given back
    return beams.results


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


def test_one_beam_is_greedy() -> None:
    tokens = [4]
    for _ in range(6):
        tokens.append(int(MODEL.logits(np.array([tokens], np.int32))[0, -1].argmax()))
    (one,) = search([4], max_new_tokens=6, beams=1)
    assert list(one.tokens) == tokens[1:]


def test_a_stop_token_ends_a_text_and_is_left_out() -> None:
    found = search([1], max_new_tokens=30, beams=4, n=4, stop_tokens=[3, 6])
    for one in found:
        assert not {3, 6} & {*one.tokens}
        assert one.finish_reason == ("stop" if len(one.tokens) < 30 else "length")
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert any(one.finish_reason == "stop" for one in found)


def test_a_text_may_end_for_another_reason() -> None:
    found = search([1], max_new_tokens=20, beams=3, n=3, ended=lambda tokens: len(tokens) == 5)
    assert {(len(one.tokens), one.finish_reason) for one in found} == {(5, "stop")}


def test_padding_and_bias() -> None:
    assert max(token for one in search([1], beams=5, n=5, vocab_size=3) for token in one.tokens) < 3
    banned = search([1], beams=5, n=5, logit_bias=dict.fromkeys(range(1, V), -np.inf))
    assert [one.tokens for one in banned] == [(0, 0, 0, 0)]


def test_the_context_and_no_tokens() -> None:
    assert [len(one.tokens) for one in search([1] * 198, max_new_tokens=50, beams=2, n=2)] == [2, 2]
    assert search([1] * 200, beams=2) == search([1], beams=2, max_new_tokens=0) == [BeamResult((), 0.0, 0.0, "length")]
    with pytest.raises(GenerationError, match="the prompt has 201 tokens; beam search takes from 1 to 200"):
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
    found = beam_search(LANGUAGE_MODEL, "abc", beams=4, n=3, max_new_tokens=8)
    prompt, end = TOKENIZER.encode("abc").tolist(), TOKENIZER.end_of_text
    want = search(prompt, beams=4, n=3, max_new_tokens=8, stop_tokens=[end])
    assert [list(one.tokens) for one in found] == [list(one.tokens) for one in want]
    assert [one.text for one in found] == [TOKENIZER.decode(one.tokens) for one in want]
    assert [choice.text for choice in found[0].choices] == [one.text for one in found]
    assert LANGUAGE_MODEL.generate("abc", beams=4, max_new_tokens=8) == found[0].text
    with pytest.raises(GenerationError, match="beams is 4; it must be 1 here: beam search is done by"):
        gollm.Engine(LANGUAGE_MODEL).submit("abc", beams=4)
    with pytest.raises(GenerationError, match="logprobs is 1; it must be None with beam search"):
        beam_search(LANGUAGE_MODEL, "abc", beams=4, logprobs=1)


def test_stop_strings_end_beams() -> None:
    plain = beam_search(LANGUAGE_MODEL, "abc", beams=3, max_new_tokens=12)[0].text
    stop = plain[4:6]
    for one in beam_search(LANGUAGE_MODEL, "abc", beams=3, n=3, max_new_tokens=12, stop=stop):
        assert stop not in one.text
        assert (one.finish_reason == "stop") == (stop in TOKENIZER.decode(one.tokens) or len(one.tokens) < 12)


def test_beams_are_structured_each_for_itself() -> None:
    pytest.importorskip("llguidance")
    found = beam_search(LANGUAGE_MODEL, "abc", beams=5, n=5, max_new_tokens=12, regex="(a|bc|de){3}f")
    assert len({one.text for one in found}) == 5
    for one in found:
        assert re.fullmatch("(a|bc|de){3}f", one.text) and one.finish_reason == "stop"
