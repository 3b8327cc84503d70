"""Decoding reads a packed copy of small float32 models: the same bits."""

import numpy as np
import pytest

from gollm.inference import packing
from gollm.inference.decoding import CachedForward
from gollm.inference.packing import packed_for_decoding
from gollm.inference.pages import CachedSequence, PagePool
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder
from gollm.nn.storage import PANELS, ROW_MAJOR

BASE = {"n_layers": 2, "n_heads": 4, "d_model": 24, "vocab_size": 61, "context": 90}
LLAMA = {"norm": "rmsnorm", "position": "rope", "gated_mlp": True, "activation": "silu", "bias": False}
KINDS = {"gpt2": {}, "untied": {"tied_head": False}, "llama": LLAMA, "groups": LLAMA | {"n_kv_heads": 2, "d_ff": 37}}


@pytest.mark.parametrize("kind", KINDS)
def test_recorded_decoding_has_the_bits_of_the_model(kind):
    model = Decoder(ModelConfig(**BASE, **KINDS[kind])).initialise(1)
    ids = np.random.default_rng(0).integers(0, 61, (2, 70)).astype(np.int32)
    whole = model.logits(ids)
    pool = PagePool(model.config, 6)
    sequences, decoding = [CachedSequence(pool) for _ in ids], CachedForward(model, pool, 2)
    decoding(sequences, [row[:50].tolist() for row in ids], [49, 99])
    for at in range(50, 70):
        np.testing.assert_array_equal(decoding(sequences, [[row[at]] for row in ids], None), whole[:, at])


def test_all_matrices_of_products_are_packed_and_the_model_keeps_its_own():
    model = Decoder(ModelConfig(**BASE)).initialise(1)
    twin = packed_for_decoding(model)
    plain = {name for name, p in twin.parameters.items() if p.storage.layout == ROW_MAJOR and len(p.shape) == 2}
    assert plain == {"token_embedding", "position_embedding"}
    assert twin.parameters["head"].storage.layout == PANELS
    assert twin.parameters["token_embedding"].data is not None
    assert all(p.storage.layout == ROW_MAJOR and p.requires_grad for p in model.parameters.values())


def test_a_big_model_and_products_in_bfloat16_are_not_packed(monkeypatch):
    model = Decoder(ModelConfig(**BASE)).initialise(1)
    assert packed_for_decoding(Decoder(ModelConfig(**BASE), np.dtype(np.float64))).parameters.dtype == np.float64
    model.compute_dtype = "bfloat16"
    assert packed_for_decoding(model) is model
    model.compute_dtype = "float32"
    monkeypatch.setattr(packing, "MOST_BYTES", 1000)
    assert packed_for_decoding(model) is model
