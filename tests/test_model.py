"""The decoder: causality, cached against uncached bit for bit, threads, memory, gradcheck on every kind of
configuration."""

import gc

import numpy as np
import pytest

from generating import tokens_after
from gollm import _native
from gollm.errors import GenerationError, KernelError, ShapeError
from gollm.inference.drawing import Row, draw
from gollm.inference.engine import pieces
from gollm.inference.pages import CachedSequence, PagePool, next_batch
from gollm.inference.sampling import Sampling
from gollm.language_model import LanguageModel
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder
from gollm.model.generation_defaults import GenerationDefaults
from gollm.model.gradcheck import gradcheck
from gollm.nn.optimizer import AdamW
from gollm.tokenizers import CharacterTokenizer

BASE = {"n_layers": 2, "n_heads": 4, "d_model": 32, "vocab_size": 61, "context": 150}
LLAMA = {
    "norm": "rmsnorm", "position": "rope", "gated_mlp": True, "activation": "silu", "bias": False, "n_kv_heads": 2,
}  # fmt: skip
KINDS = {
    "gpt2": {},
    "grouped queries": {"n_kv_heads": 2},
    "one kv head": {"n_kv_heads": 1},
    "own head size": {"head_dim": 12},
    "untied, no bias": {"tied_head": False, "bias": False},
    "relu": {"activation": "relu", "d_ff": 50},
    "silu": {"activation": "silu"},
    "exact gelu": {"activation": "gelu"},
    "odd sizes": {"n_heads": 3, "d_model": 21, "head_dim": 5, "d_ff": 19, "vocab_size": 37},
    "one layer, one head": {"n_layers": 1, "n_heads": 1, "d_model": 8},
    "dropout": {"dropout": 0.3},
    "llama": LLAMA,
    "llama of odd sizes": {**LLAMA, "n_heads": 6, "n_kv_heads": 2, "d_model": 21, "head_dim": 10, "d_ff": 19},
    "llama, one kv head, untied, scaled": {
        **LLAMA, "n_kv_heads": 1, "tied_head": False, "rope_scaling": "llama3", "rope_factor": 8.0,
        "rope_original_context": 30, "rope_theta": 50000.0,
    },
    "qwen's biases, linear scaling": {**LLAMA, "qkv_bias": True, "rope_scaling": "linear", "rope_factor": 4.0},
    "all biases, dropout": {**LLAMA, "bias": True, "dropout": 0.3},
    "sliding window": {**LLAMA, "sliding_window": 17},
    "gpt2 with a window of one block": {"sliding_window": 64},
    "a window in one layer": {**LLAMA, "sliding_window": 9, "window_layers": [1]},
    "rmsnorm, learned positions, gated gelu": {"norm": "rmsnorm", "gated_mlp": True, "activation": "gelu_tanh"},
}  # fmt: skip


def make(kind: str, **changes) -> Decoder:
    return Decoder(ModelConfig(**{**BASE, **KINDS[kind], **changes})).initialise(1)


def tokens_for(model: Decoder, B: int, T: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, model.config.vocab_size, (B, T)).astype(np.int32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("isa", _native.isa_supported())
def test_cached_logits_equal_uncached_ones(kind, isa):
    """One token at a time, in chunks, and two sequences at once: the same bits as the whole sequence in one pass."""
    chosen = _native.isa()
    _native.set_isa(isa)
    try:
        model = make(kind)
        ids = tokens_for(model, 2, 140)
        whole = model.logits(ids)
        pool = PagePool(model.config, n_pages=6)
        sequences = [CachedSequence(pool), CachedSequence(pool)]
        at = [0, 0]
        for chunks in ([1, 1], [1, 70], [63, 1], [1, 1], [10, 30], *[[1, 1]] * 5):
            new = [ids[s, at[s] : at[s] + chunks[s]].tolist() for s in range(2)]
            logits = model.next_logits(next_batch(sequences, new))
            at = [at[s] + chunks[s] for s in range(2)]
            for s in range(2):
                np.testing.assert_array_equal(logits[s], whole[s, at[s] - 1])
    finally:
        _native.set_isa(chosen)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_depend_on_nothing_later_and_on_no_other_sequence(kind):
    model = make(kind)
    ids = tokens_for(model, 3, 100)
    whole = model.logits(ids)
    np.testing.assert_array_equal(model.logits(ids[1:2, :37]), whole[1:2, :37])


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck(kind):
    rows = gradcheck(ModelConfig(**{**BASE, **KINDS[kind], "context": 20}))
    assert {row.name for row in rows} == set(make(kind).parameters)
    for row in rows:
        assert row.ok, row


def train_steps(kind: str, steps: int = 3) -> tuple[list[float], np.ndarray]:
    model = make(kind, context=40)
    optimizer = AdamW(model.parameters)
    model.dropout.training = True
    losses = []
    for step in range(steps):
        model.parameters.zero_grad()
        ids = np.random.default_rng(step).integers(0, model.config.vocab_size, (5, 41)).astype(np.int32)
        model.dropout.counter[0] = step
        loss = model.loss(np.ascontiguousarray(ids[:, :-1]), np.ascontiguousarray(ids[:, 1:]))
        loss.backward()
        losses += [loss.item(), optimizer.step(1e-3)]
    return losses, model.parameters.weights.copy()


@pytest.mark.parametrize("kind", KINDS)
def test_training_is_the_same_on_any_number_of_threads(kind):
    before = _native.num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            _native.set_num_threads(threads)
            results.append(train_steps(kind))
    finally:
        _native.set_num_threads(before)
    for losses, weights in results[1:]:
        assert losses == results[0][0]
        np.testing.assert_array_equal(weights, results[0][1])


def test_the_mean_over_micro_batches_is_the_mean_over_the_batch():
    model = make("gpt2", context=40)
    ids = tokens_for(model, 6, 41)
    inputs, targets = np.ascontiguousarray(ids[:, :-1]), np.ascontiguousarray(ids[:, 1:])
    targets[0, :7] = -1
    loss = model.loss(inputs, targets)
    loss.backward()
    whole = {name: p.grad.copy() for name, p in model.parameters.items()}
    model.parameters.zero_grad()
    total = 0.0
    for rows in (slice(0, 1), slice(1, 4), slice(4, 6)):
        part = model.loss(inputs[rows], targets[rows], denominator=float((targets >= 0).sum()))
        part.backward()
        total += part.item()
    assert total == pytest.approx(loss.item(), rel=1e-6)
    for name, p in model.parameters.items():
        np.testing.assert_allclose(p.grad, whole[name], rtol=2e-4, atol=1e-6)


def test_a_steady_step_allocates_nothing_and_leaves_no_cycles():
    model = make("dropout", context=40)
    optimizer = AdamW(model.parameters)
    model.dropout.training = True
    ids = tokens_for(model, 3, 40)

    def step():
        model.parameters.zero_grad()
        model.loss(ids, ids).backward()
        optimizer.step(1e-3)

    for _ in range(3):
        step()
    gc.collect()
    gc.disable()
    try:
        before = _native.pool_statistics()
        for _ in range(5):
            step()
        after = _native.pool_statistics()
        assert after["system_allocations"] == before["system_allocations"]
        assert after["bytes_in_use"] == before["bytes_in_use"]
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_parameters_are_views_of_one_arena():
    parameters = make("gpt2").parameters
    matrices = [p for p in parameters.values() if p.decays]
    for p in parameters.values():
        assert np.shares_memory(p.data, parameters.weights)
        assert p.data.ctypes.data % 64 == 0
        start = (p.data.ctypes.data - parameters.weights.ctypes.data) // 4
        assert (start < parameters.n_decay) == p.decays
    assert {"bias", "norm"}.isdisjoint(".".join(p.name for p in matrices).split("."))


def test_initialisation_is_gpt2s():
    parameters = (
        Decoder(ModelConfig(n_layers=8, n_heads=4, d_model=128, vocab_size=500, context=64)).initialise(3).parameters
    )
    assert parameters["token_embedding"].data.std() == pytest.approx(0.02, rel=0.02)
    assert parameters["blocks.3.mlp.down.weight"].data.std() == pytest.approx(0.02 / 4, rel=0.02)
    assert not parameters["blocks.0.mlp.up.bias"].data.any()
    assert (parameters["norm.weight"].data == 1).all()
    again = (
        Decoder(ModelConfig(n_layers=2, n_heads=4, d_model=128, vocab_size=500, context=64)).initialise(3).parameters
    )
    np.testing.assert_array_equal(again["token_embedding"].data, parameters["token_embedding"].data)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_no_sequences_and_empty_ones(kind):
    model = make(kind)
    assert model.logits(np.zeros((0, 3), np.int32)).shape == (0, 3, 61)
    assert model.logits(np.zeros((2, 0), np.int32)).shape == (2, 0, 61)


def test_mistakes_are_clear():
    model = make("gpt2")
    with pytest.raises(ShapeError, match=r"\(1, 151\).*150"):
        model.logits(np.zeros((1, 151), np.int32))
    with pytest.raises(KernelError, match="outside"):
        model.logits(np.full((1, 3), 61, np.int32))


def test_a_sequence_without_a_new_token_has_no_next_logits():
    model = make("gpt2")
    pool = PagePool(model.config, n_pages=2)
    batch = next_batch([CachedSequence(pool), CachedSequence(pool)], [[1, 2], []])
    with pytest.raises(ShapeError, match=r"\[0, 2, 2\].*at least one"):
        model.next_logits(batch)


def test_generation_is_the_same_as_without_a_cache():
    model = make("gpt2", context=32)
    prompt = [1, 2, 3]
    options = {"max_new_tokens": 29, "temperature": 0.9, "top_k": 20, "top_p": 0.9, "seed": 5}
    drawn = tokens_after(model, prompt, **options)
    sampling = Sampling(**options).resolved(GenerationDefaults())
    text = list(prompt)
    for token in drawn:
        logits = model.logits(np.array([text], np.int32))[0, -1]
        assert draw(logits[None], [Row(sampling, text, 3)])[0].token == token
        text.append(token)
    assert len(drawn) == 29


def test_generation_goes_past_the_context_from_its_last_half():
    model = make("gpt2", context=16)
    drawn = tokens_after(model, [1, 2, 3], max_new_tokens=40, temperature=0)
    assert len(drawn) == 40
    text = [1, 2, 3, *drawn]
    # 16 tokens fill the context; the 17th is computed from the last 8 of them and itself... whatever came before is
    # forgotten
    window = text[16 - 8 + 1 : 17]
    assert int(model.logits(np.array([window], np.int32))[0, -1].argmax()) == text[17]


def test_ids_that_no_text_is_are_not_drawn():
    model = make("gpt2", context=32)
    options = {"max_new_tokens": 30, "temperature": 5.0, "seed": 3}
    assert max(tokens_after(model, [1], **options)) >= 7
    padded = LanguageModel(model, CharacterTokenizer.train("abcdefg"))
    assert padded.tokenizer.vocab_size == 7
    assert max(token for piece in pieces(padded, [1], **options) for token in piece.tokens) < 7


def test_generation_refuses_what_it_cannot_do():
    model = make("gpt2", context=16)
    for arguments, words in [
        ({"prompt": []}, "empty"),
        ({"prompt": list(range(17))}, "17.*16"),
        ({"prompt": [1], "temperature": -1.0}, "temperature is -1"),
        ({"prompt": [1], "top_p": 0.0}, "top_p is 0"),
        ({"prompt": [1], "top_k": -1}, "top_k is -1"),
        ({"prompt": [1], "max_new_tokens": -1}, "max_new_tokens is -1"),
    ]:
        with pytest.raises(GenerationError, match=words):
            tokens_after(model, **{"max_new_tokens": 3, **arguments})


def test_sampling_filters():
    logits = np.log(np.array([[0.5, 0.25, 0.125, 0.125]]))

    def draws(**options):
        sampling = Sampling(**{"temperature": 1.0, **options}).resolved(GenerationDefaults())
        return [draw(logits, [Row(sampling, [0] * n, n)])[0].token for n in range(300)]

    assert set(draws(top_k=3)) == {0, 1, 2}
    assert set(draws(top_p=0.6)) == {0, 1}
    assert abs(np.mean(np.array(draws(top_p=0.6)) == 0) - 2 / 3) < 0.1
    assert set(draws(temperature=0)) == {0}
