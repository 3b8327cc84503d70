"""A request has the same tokens and the same logits, bit for bit, whatever happens around it: alone, in any batch, with
any chunks, after a cached prefix or an eviction, when others are cancelled, at any temperature.

Random requests arrive at random steps. Each is compared with the definition: the logits of the whole text by one
forward pass without a cache, and a draw from them."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gollm.inference.drawing import Row, draw
from gollm.inference.generation import Generation, Piece
from gollm.inference.pages import PAGE_SIZE, pages_for
from gollm.inference.requests import generations
from gollm.inference.sampling import Sampling
from gollm.inference.scheduler import Scheduler
from gollm.inference.speculation import Drafter, DraftModel, PromptLookup
from gollm.kernels import Array
from gollm.language_model import LanguageModel
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder

CONTEXT, V = 150, 31
LLAMA = {
    "norm": "rmsnorm", "position": "rope", "gated_mlp": True, "activation": "silu", "bias": False, "n_kv_heads": 2,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "llama": LLAMA,
    "one kv head, untied": {**LLAMA, "n_kv_heads": 1, "tied_head": False},
    "window": {**LLAMA, "sliding_window": 17},
    "a window in one layer": {**LLAMA, "sliding_window": 70, "window_layers": [1]},
    "odd sizes": {"n_heads": 3, "d_model": 21, "head_dim": 5, "d_ff": 19},
}


@cache
def model(kind: str) -> LanguageModel:
    config = ModelConfig(
        **{"n_layers": 2, "n_heads": 4, "d_model": 16, "vocab_size": V, "context": CONTEXT, **KINDS[kind]}
    )
    decoder = Decoder(config).initialise(1)
    random = np.random.default_rng(2)
    for parameter in decoder.parameters.values():  # away from where they start, or it says one token all the time
        parameter.data[...] += random.standard_normal(parameter.shape, dtype=np.float32) / 3
    return LanguageModel(decoder)


BASES = [np.random.default_rng(i).integers(0, V, CONTEXT).tolist() for i in range(2)]
prompts = st.builds(
    lambda base, n, rest: (BASES[base][:n] + rest)[:CONTEXT],
    st.integers(0, 1),
    st.one_of(st.sampled_from([1, 63, 64, 65, 128, 129, 150]), st.integers(1, CONTEXT)),
    st.lists(st.integers(0, V - 1), max_size=3),
)
samplings = st.fixed_dictionaries(
    {
        "max_new_tokens": st.one_of(st.integers(0, 12), st.sampled_from([70, 100])),
        "temperature": st.sampled_from([0.0, 0.7, 1.0, 5.0]),
        "top_k": st.sampled_from([0, 0, 5]),
        "top_p": st.sampled_from([1.0, 0.8]),
        "repetition_penalty": st.sampled_from([1.0, 1.3]),
        "seed": st.integers(0, 3),
        "n": st.sampled_from([1, 1, 1, 2, 3]),
        "stop": st.sampled_from([(), (), (3,), (1, 2, 3, 4, 5)]),
        "context_full": st.sampled_from(["forget", "stop"]),
        "prompt_logprobs": st.sampled_from([None, None, None, 0]),
    }
)
requests = st.lists(
    st.fixed_dictionaries(
        {
            "prompt": prompts,
            "sampling": samplings,
            "recorded": st.booleans(),  # whether the logits are looked at; such a text is drawn by itself
            "arrival": st.integers(0, 12),  # steps after the one before
            "cancelled": st.sampled_from([None, None, None, 0, 1, 5]),  # so many steps after it came
        }
    ),
    min_size=1,
    max_size=6,
)


class Recorder:
    """A processor that notes the logits it gets."""

    def __init__(self) -> None:
        self.seen: dict[bytes, list[bytes]] = {}

    def __call__(self, tokens: Array, logits: Array) -> None:
        self.seen.setdefault(tokens.tobytes(), []).append(logits.tobytes())


@cache
def reference(kind: str, prompt: tuple[int, ...], options: tuple[Any, ...], choice: int) -> tuple[list[int], Recorder]:
    """The text and the logits of each draw, by their definition."""
    recorder, decoder = Recorder(), model(kind).decoder
    chosen = Sampling(**dict(options), processors=(recorder,)).resolved(model(kind).defaults)
    tokens, begin = list(prompt), 0
    assert chosen.max_new_tokens is not None
    for _ in range(chosen.max_new_tokens):
        if len(tokens) == CONTEXT and chosen.context_full == "stop":
            break
        if len(tokens) - begin > CONTEXT:
            begin = len(tokens) - CONTEXT // 2
        logits = decoder.logits(np.array([tokens[begin:]], np.int32))[0, -1]
        (drawn,) = draw(logits[None], [Row(chosen, tokens, len(prompt), choice)], None)
        if drawn.token in chosen.stop:
            break
        tokens.append(drawn.token)
    return tokens[len(prompt) :], recorder


def check(kind: str, request: dict[str, Any], generation: Generation) -> None:
    options = tuple(request["sampling"].items())
    tokens, expected = reference(kind, tuple(request["prompt"]), options, generation.row.choice)
    found = generation.tokens[generation.n_prompt :]
    assert generation.error is None and generation.finished
    if generation.finish_reason == "cancelled":
        assert found == tokens[: len(found)]
    else:
        assert found == tokens
    for recorder in generation.sampling.processors:
        assert isinstance(recorder, Recorder)
        for i in range(len(found)):
            text = np.array([*request["prompt"], *tokens[:i]], np.int32).tobytes()
            assert set(recorder.seen[text]) == set(expected.seen[text])  # of all choices, which share the recorder
    if generation.sampling.prompt_logprobs is not None and generation.finish_reason != "cancelled":
        logits = model(kind).logits(request["prompt"])[0].astype(np.float64)
        logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        assert [one.token for one in generation.prompt_logprobs] == request["prompt"]
        assert generation.prompt_logprobs[0].logprob is None
        for i, one in enumerate(generation.prompt_logprobs[1:]):
            np.testing.assert_allclose(one.logprob, logprobs[i, one.token], atol=2e-5)


def drafter_of(draft: str | None, kind: str, n_pages: int, chunk: int) -> Drafter | None:
    """Of guesses that are seldom right, and of guesses that always are."""
    if draft is None:
        return None
    if draft == "lookup":
        return PromptLookup(5)
    other = model(kind if draft == "itself" else "gpt2")
    return DraftModel(other, n_pages, chunk, None, max_recorded_rows=16)


circumstances = {
    "kind": st.sampled_from(list(KINDS)),
    "requests": requests,
    "chunk": st.sampled_from([1, 7, 64, 100, 512]),
    "n_pages": st.integers(pages_for(CONTEXT), 10),
    "max_batch": st.sampled_from([1, 2, 5, 64]),
    "draft": st.sampled_from([None, "lookup", "model", "itself"]),
}


@settings(max_examples=15)
@given(**circumstances)
def test_a_request_is_the_same_whatever_happens_around_it(**found: Any) -> None:
    run(**found)


@pytest.mark.slow
@settings(max_examples=400)
@given(**circumstances)
def test_a_request_is_the_same_in_many_more_circumstances(**found: Any) -> None:
    run(**found)


def run(kind: str, requests: list[dict[str, Any]], chunk: int, n_pages: int, max_batch: int, draft: str | None) -> None:
    drafter = drafter_of(draft, kind, n_pages, chunk)
    scheduler = Scheduler(
        model(kind).decoder, n_pages, chunk=chunk, max_batch=max_batch, vocab_size=None, drafter=drafter
    )
    found: list[tuple[dict[str, Any], Generation]] = []
    cancelling: list[tuple[int, Generation]] = []
    pieces: list[Piece | None] = []
    arrivals = np.cumsum([request["arrival"] for request in requests])
    step = 0
    while scheduler.busy or step <= arrivals[-1]:
        for arrival, request in zip(arrivals, requests, strict=True):
            if arrival == step:
                processors = (Recorder(),) if request["recorded"] else ()
                sampling = Sampling(**request["sampling"], processors=processors)
                for one in generations(model(kind), request["prompt"], sampling, pieces.append):
                    scheduler.add(one)
                    found.append((request, one))
                    if request["cancelled"] is not None:
                        cancelling.append((step + request["cancelled"], one))
        for when, generation in cancelling:
            if when == step:
                generation.cancelled = scheduler.cancellation = True
        scheduler.step()
        step += 1
        assert step < 3000
    for request, generation in found:
        check(kind, request, generation)
    assert pieces.count(None) == len(found)
    if isinstance(drafter, DraftModel):
        assert drafter.pool.n_free == drafter.pool.n_pages
    pool = scheduler.pool
    assert pool.n_free == pool.n_pages
    pool.forget()
    assert pool.n_remembered == 0 and pool.n_free == pool.n_pages
    assert PAGE_SIZE == 64  # what the prompts are chosen for
