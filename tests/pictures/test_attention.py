"""Attention weights against softmax(q kᵀ) in float64."""

from __future__ import annotations

import base64

import numpy as np
import pytest

import gollm
from gollm.errors import ConfigError, GenerationError, PictureError
from gollm.model.batch import Batch
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder
from gollm.model.rope import frequencies
from gollm.nn import ops
from gollm.nn.tape import no_grad
from gollm.nn.tensor import tensor
from gollm.pictures import heads
from gollm.pictures.attention import AttentionWeights, attention_weights, weights_of
from gollm.tokenizers import CharacterTokenizer

GPT2 = {"n_layers": 3, "n_heads": 4, "d_model": 48, "context": 64}
LLAMA = {**GPT2, "norm": "rmsnorm", "position": "rope", "gated_mlp": True, "activation": "silu", "bias": False}
CONFIGS = {
    "gpt2": GPT2,
    "llama": LLAMA,
    "grouped": {**LLAMA, "n_kv_heads": 2},
    "one kv head": {**LLAMA, "n_kv_heads": 1, "head_dim": 10},
    "window": {**GPT2, "sliding_window": 5},
    "windows in some": {**LLAMA, "n_kv_heads": 2, "sliding_window": 7, "window_layers": (1,)},
    "linear rope": {**LLAMA, "rope_scaling": "linear", "rope_factor": 4.0},
}


def model_of(config: dict, dtype=np.float32) -> gollm.LanguageModel:
    decoder = Decoder(ModelConfig(vocab_size=29, **config), np.dtype(dtype)).initialise(3)
    for name in decoder.parameters:  # sharper than at the start, where all weights are nearly equal
        if name.endswith("qkv.weight"):
            with decoder.parameters.filling(name) as values:
                values *= 12
    return gollm.LanguageModel(decoder, CharacterTokenizer.train([" abcdefghijklmnopqrstuvwxyz.\n"], None))


def rotated(x: np.ndarray, config: ModelConfig) -> np.ndarray:
    """(T, heads, D), pair i of position p turned by p f_i"""
    if config.position != "rope":
        return x
    turns = np.exp(1j * np.arange(len(x))[:, None] * frequencies(config))[:, None]
    pairs = (x[..., 0::2] + 1j * x[..., 1::2]) * turns
    return np.stack([pairs.real, pairs.imag], axis=-1).reshape(x.shape)


def softmax_of(qkv: np.ndarray, config: ModelConfig, window: int | None) -> np.ndarray:
    """(T, (H + 2G) D) float64 -> (H, T, T)"""
    T, H, G, D = len(qkv), config.n_heads, config.n_kv_heads, config.head_dim
    q = rotated(qkv[:, : H * D].reshape(T, H, D), config)
    k = rotated(qkv[:, H * D : (H + G) * D].reshape(T, G, D), config)
    scores = np.einsum("ihd,jhd->hij", q, np.repeat(k, H // G, axis=1)) / np.sqrt(D)
    i, j = np.indices((T, T))
    scores[:, (j > i) | (j <= i - (window or T))] = -np.inf
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("T", [1, 2, 13, 41])
def test_weights_equal_softmax_in_float64(name: str, T: int) -> None:
    model = model_of(CONFIGS[name])
    config, ids = model.config, np.random.default_rng(T).integers(0, 29, T).tolist()
    found = weights_of(model, ids)
    assert found.shape == (3, 4, T, T) and found.dtype == np.float32
    with no_grad():
        stream = model.decoder.residual_stream(Batch.of_sequences(np.array([ids], np.int32)))
        for layer, (block, x) in enumerate(zip(model.decoder.blocks, stream, strict=False)):
            qkv = block.qkv(x).data[0].astype(np.float64)
            np.testing.assert_allclose(found[layer], softmax_of(qkv, config, config.window(layer)), atol=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "windows in some"])
def test_weights_are_those_of_the_model_in_float64(name: str) -> None:
    """All of the model in double precision, not its last step alone."""
    ids = np.random.default_rng(0).integers(0, 29, 30).tolist()
    found, exact = (weights_of(model_of(CONFIGS[name], dtype), ids) for dtype in (np.float32, np.float64))
    np.testing.assert_allclose(found, exact, atol=1e-5)


def test_weights_times_values_are_what_the_layer_computes() -> None:
    model = model_of(CONFIGS["grouped"])
    block = model.decoder.blocks[0]
    ids = list(range(20))
    with no_grad():
        x = next(iter(model.decoder.residual_stream(Batch.of_sequences(np.array([ids], np.int32)))))
        qkv = block.qkv(x)
        assert model.decoder.rotations is not None
        y = ops.attention(tensor(qkv.data), rotations=model.decoder.rotations(20), heads=block.attention.heads)
    v = qkv.data[0, :, -2 * 12 :].reshape(20, 2, 12).repeat(2, axis=1)
    np.testing.assert_allclose(
        np.einsum("hij,jhd->ihd", weights_of(model, ids)[0], v).reshape(20, -1), y.data[0], rtol=1e-4, atol=1e-6
    )


def test_rollout() -> None:
    found = attention_weights(model_of(CONFIGS["window"]), "a quick brown fox")
    flows = found.rollout()
    mixing = [0.5 * np.float64(layer).mean(axis=0) + 0.5 * np.eye(len(layer[0])) for layer in found.weights]
    np.testing.assert_allclose(flows[2], mixing[2] @ mixing[1] @ mixing[0], atol=1e-12)
    np.testing.assert_allclose(flows.sum(axis=-1), 1, atol=1e-6)
    assert (np.triu(flows, 1) == 0).all()


def test_tokens_are_labelled_and_cut() -> None:
    found = attention_weights(model_of(GPT2), "a b\nc", max_tokens=4)
    assert found.tokens == ["a", "·", "b", "⏎"] and found.weights.shape == (3, 4, 4, 4)


def test_the_page_has_the_weights_bit_for_bit() -> None:
    weights = np.tril(np.random.default_rng(0).random((2, 3, 5, 5), np.float32))
    numbers = np.frombuffer(base64.b64decode(heads.packed(weights)), "<f4").reshape(2, 3, 15)
    for i in range(5):
        for j in range(i + 1):
            np.testing.assert_array_equal(numbers[..., i * (i + 1) // 2 + j], weights[..., i, j])
    found = AttentionWeights(list("abcab"), weights)
    assert heads.rows(found.tokens, weights[1, 2])[4] == {
        "query": "2 c",
        "key": "1 b",
        "weight": round(float(weights[1, 2, 2, 1]), 6),
    }


@pytest.mark.parametrize("max_tokens", [0, -1, 1.5, None, True])
def test_odd_numbers_of_tokens(max_tokens: object) -> None:
    with pytest.raises(GenerationError, match=r"max_tokens is .*; it must be at least 1"):
        attention_weights(model_of(GPT2), "a", max_tokens=max_tokens)


def test_a_layer_or_file_that_is_not_there(tmp_path) -> None:
    pytest.importorskip("altair")
    pytest.importorskip("vl_convert")
    for change, words in (
        ({"layer": 3}, r"layer is 3; this model has layers 0 to 2"),
        ({"head": -1}, r"head is -1; this model has heads 0 to 3"),
    ):
        with pytest.raises(ConfigError, match=words):
            heads.write_attention(model_of(GPT2), "a", tmp_path / "a.html", **change)
    for name in ("a.pdf", "a", "html"):
        with pytest.raises(PictureError, match=r"its name must end with \.html, \.png, \.svg"):
            heads.write_attention(model_of(GPT2), "a", tmp_path / name)


def test_images(tmp_path) -> None:
    pytest.importorskip("altair")
    pytest.importorskip("vl_convert")
    heads.write_attention(model_of(GPT2), "a quick fox", tmp_path / "a.png", layer=2)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG\r\n")
    heads.write_attention(model_of(GPT2), "a quick fox", tmp_path / "a.svg", head=1)
    text = (tmp_path / "a.svg").read_text()
    assert text.startswith("<svg") and "layer 0, head 1" in text and "head 3" in text
