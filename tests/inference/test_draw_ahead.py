"""Tokens that are drawn in one native call, without Python between them, are those that are drawn one by one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from gollm.errors import GenerationError
from gollm.inference import scheduler as scheduling
from gollm.inference.decoding import CachedForward
from gollm.inference.drawing import Row
from gollm.inference.generation import Generation
from gollm.inference.pages import CachedSequence, PagePool
from gollm.inference.requests import generations
from gollm.inference.sampling import Sampling
from gollm.inference.scheduler import Scheduler
from gollm.language_model import LanguageModel
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder
from gollm.model.generation_defaults import GenerationDefaults

CONFIGS = {
    "llama": ModelConfig(n_layers=2, n_heads=4, n_kv_heads=2, d_model=32, vocab_size=37, context=200, position="rope"),
    "gpt2": ModelConfig(n_layers=2, n_heads=2, d_model=16, vocab_size=37, context=70),
}
REQUESTS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 1.5, "seed": 2**64 - 1},
    {"temperature": 1, "top_k": 5, "top_p": 0.9, "min_p": 0.01, "seed": 7},
    {"temperature": 2, "seed": 3, "stop": [11, 12, 13]},
    {"temperature": 1, "seed": 4, "repetition_penalty": 1.3, "max_new_tokens": 40},
    {"temperature": 1, "seed": 5, "context_full": "stop"},
]


def results(model: LanguageModel, together: bool) -> list[tuple[list[int], str | None]]:
    texts: list[Generation] = []
    engine = None
    for i, options in enumerate(REQUESTS):
        if engine is None or not together:
            engine = Scheduler(model.decoder, 40, chunk=64, max_batch=8, vocab_size=None)
        sampling = Sampling(**{"max_new_tokens": 150, **options})
        texts += generations(model, list(range(1, 4 + i)), sampling, lambda piece: None)
        engine.add(texts[-1])
        while engine.busy and (not together or i == len(REQUESTS) - 1):
            engine.step()
    return [(text.tokens, text.finish_reason) for text in texts]


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_tokens_are_those_of_single_passes(
    config: ModelConfig, together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = LanguageModel(Decoder(config).initialise(1))
    calls: list[int] = []
    draw_ahead = CachedForward.draw_ahead

    def noted(*arguments: Any) -> Any:
        calls.append(arguments[-1])
        return draw_ahead(*arguments)

    monkeypatch.setattr(CachedForward, "draw_ahead", noted)
    monkeypatch.setattr(scheduling, "AHEAD_SECONDS", 0.0)
    one_by_one = results(model, together)
    assert not calls
    monkeypatch.setattr(scheduling, "AHEAD_SECONDS", 1e9)
    assert results(model, together) == one_by_one
    assert max(calls) > 8


def test_a_token_that_cannot_be_drawn_ends_its_own_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text that draws token 5 reads a row of NaN next; the other goes on."""
    model = LanguageModel(Decoder(CONFIGS["llama"].replace(tied_head=False)).initialise(1))
    model.decoder.parameters["token_embedding"].data[5] = np.nan
    monkeypatch.setattr(scheduling, "AHEAD_SECONDS", 1e9)
    scheduler = Scheduler(model.decoder, 40, chunk=64, max_batch=8, vocab_size=None)
    options = {"max_new_tokens": 100, "temperature": 3.0}
    (broken,) = generations(model, [1, 2], Sampling(seed=1, **options), lambda piece: None)
    (whole,) = generations(model, [1, 2], Sampling(seed=1, logit_bias={5: -math.inf}, **options), lambda piece: None)
    (greedy,) = generations(model, [3], Sampling(max_new_tokens=100, temperature=0), lambda piece: None)
    for text in (broken, greedy):
        scheduler.add(text)
    while scheduler.busy:
        scheduler.step()
    assert isinstance(broken.error, GenerationError) and "the largest logit of the next token is nan" in str(
        broken.error
    )
    assert broken.tokens[-1] == 5 and 5 not in broken.tokens[2:-1]
    assert greedy.finish_reason == "length" and greedy.n_new == 100
    scheduler.add(whole)
    while scheduler.busy:
        scheduler.step()
    assert whole.finish_reason == "length" and 5 not in whole.tokens


def test_recordings_with_and_without_a_draw_are_bounded_together() -> None:
    model = LanguageModel(Decoder(CONFIGS["gpt2"]).initialise(3))
    pool = PagePool(model.decoder.config, 20)
    forward = CachedForward(model.decoder, pool, max_recorded_rows=8)
    for n in (1, 3, 5, 7, 2, 4):
        sequences = [CachedSequence(pool) for _ in range(n)]
        forward(sequences, [[1]] * n, None)
        assert forward.n_recorded_rows <= 8
        rows = [Row(Sampling(temperature=0).resolved(GenerationDefaults()), [1, 1], 1) for _ in range(n)]
        forward.draw_ahead(sequences, rows, model.decoder.config.vocab_size, 3)
        assert n <= forward.n_recorded_rows <= 8
        for sequence in sequences:
            sequence.clear()
