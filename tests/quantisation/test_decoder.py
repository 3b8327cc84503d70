"""Models with quantised weights: near the model that they stand for, and exact where float32 models are exact."""

from __future__ import annotations

import numpy as np
import pytest

import gollm
from formats.sources import random_source
from formats.test_gguf import gpt2, llama
from gollm import _native
from gollm.formats import save
from gollm.inference.pages import CachedSequence, PagePool, next_batch
from gollm.nn.dtypes import bfloat16, float16, int8
from gollm.nn.plan import Plan
from gollm.quantisation import GROUPS

CONFIGS = {"llama": llama(d_ff=72, tied_head=False), "qkv biases": llama(qkv_bias=True), "gpt2": gpt2()}
configs = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
dtypes = pytest.mark.parametrize("dtype", [*GROUPS, bfloat16, float16], ids=str)


@pytest.fixture(params=_native.isa_supported())
def isa(request):
    before = _native.isa()
    _native.set_isa(request.param)
    yield request.param
    _native.set_isa(before)


def loaded(tmp_path, config, dtype, **options):
    source, _ = random_source(config, scale=0.1)
    save(source.quantised(dtype), tmp_path / "m.golm", overwrite=True)
    return gollm.load(tmp_path / "m.golm", **options)


def ids_of(config, *shape):
    return np.random.default_rng(0).integers(0, config.vocab_size, shape).astype(np.int32)


@configs
@dtypes
def test_logits_are_near_those_of_the_dequantised_weights(tmp_path, config, dtype, isa):
    """What differs is the rounding of activations: half a step of 1/127 of a group's largest, of 1/32767 with int8, at
    each of the products, whose errors add up like a random walk."""
    narrow, wide = loaded(tmp_path, config, dtype), loaded(tmp_path, config, dtype, dequantise=True)
    ids = ids_of(config, 2, 19)
    found, want = narrow.logits(ids), wide.logits(ids)
    if dtype in (bfloat16, float16):  # activations stay in float32
        assert found.tobytes() == want.tobytes()
        return
    step = 1 / 32767 if dtype is int8 else 1 / 127
    assert np.abs(found - want).mean() < 1.27 * step * np.abs(want).std() * np.sqrt(4 * config.n_layers)
    assert not np.array_equal(found, want)


@configs
@dtypes
def test_cached_decoding_has_the_bits_of_the_whole_sequence(tmp_path, config, dtype, isa):
    model = loaded(tmp_path, config, dtype).decoder
    ids = ids_of(config, 1, 23)
    whole = model.logits(ids)[0]
    sequence = CachedSequence(PagePool(config, 1))
    for begin, end in [(0, 9), (9, 10), (10, 12), (12, 23)]:
        logits = model.next_logits(next_batch([sequence], [ids[0, begin:end].tolist()]))
        assert logits[0].tobytes() == whole[end - 1].tobytes()


@dtypes
def test_neither_batch_nor_threads_change_a_bit(tmp_path, dtype, isa):
    config = CONFIGS["llama"]
    model = loaded(tmp_path, config, dtype).decoder
    ids = ids_of(config, 13, 8)
    before = gollm.num_threads()
    try:
        gollm.set_num_threads(1)
        alone = [model.logits(row[None])[0].tobytes() for row in ids]
        gollm.set_num_threads(3)
        together = model.logits(ids)
    finally:
        gollm.set_num_threads(before)
    assert [row.tobytes() for row in together] == alone


@dtypes
def test_a_recorded_pass_has_the_bits_of_an_eager_one(tmp_path, dtype):
    config = CONFIGS["llama"]
    model = loaded(tmp_path, config, dtype).decoder
    first, second = ids_of(config, 2, 5), ids_of(config, 2, 5)[:, ::-1].copy()
    plan = Plan(model.logits)
    recorded = [np.array(plan(tokens)).tobytes() for tokens in (first, second)]
    assert recorded == [model.logits(tokens).tobytes() for tokens in (first, second)]


@dtypes
def test_the_loss_and_what_is_not_quantised_have_the_gradients_of_the_weights_in_float32(tmp_path, dtype):
    model = loaded(tmp_path, CONFIGS["llama"], dtype).decoder
    wide = loaded(tmp_path, CONFIGS["llama"], dtype, dequantise=True).decoder
    tokens = ids_of(CONFIGS["llama"], 1, 8)
    losses = [one.loss(tokens[:, :-1], tokens[:, 1:]) for one in (model, wide)]
    # Products with quantised weights round activations: to 16 bits for int8, to 8 bits for int4.
    tolerance = {"int8": 1e-3, "int4": 3e-2, "int4_min": 3e-2}.get(str(dtype), 1e-5)
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=tolerance)
    for loss in losses:
        loss.backward()
    for name, parameter in model.parameters.items():
        if parameter.requires_grad:
            expected = wide.parameters[name].grad
            assert np.linalg.norm(parameter.grad - expected) < tolerance * np.linalg.norm(expected), name
