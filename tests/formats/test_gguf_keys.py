"""Keys of GGUF files: those that change nothing are accepted, others are refused by name.

What only the tokenizer or generation needs never costs the weights."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from gollm.errors import FormatError, GollmWarning
from gollm.formats import format_named, open_model
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder

from .sources import random_source

gguf = pytest.importorskip("gguf")
TYPES = gguf.GGUFValueType

SIZES = {
    "llama": {
        "context_length": 16, "embedding_length": 16, "block_count": 1, "feed_forward_length": 24,
        "attention.head_count": 2, "attention.layer_norm_rms_epsilon": 1e-5,
    },
    "gpt2": {
        "context_length": 16, "embedding_length": 16, "block_count": 1, "feed_forward_length": 64,
        "attention.head_count": 2, "attention.layer_norm_epsilon": 1e-5,
    },
}  # fmt: skip
CONFIGS = {
    "llama": ModelConfig(
        n_layers=1, n_heads=2, d_model=16, d_ff=24, vocab_size=9, context=16, norm="rmsnorm", position="rope",
        gated_mlp=True, activation="silu", bias=False,
    ),
    "gpt2": ModelConfig(n_layers=1, n_heads=2, d_model=16, vocab_size=9, context=16),
}  # fmt: skip
BPE = {
    "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.tokens": [*"abcdef", "ab", "<s>", "</s>"],
    "tokenizer.ggml.token_type": [1, 1, 1, 1, 1, 1, 1, 3, 3],
}  # fmt: skip


def file_with(path: Path, keys: dict[str, object], arch: str = "llama") -> Path:
    """A small model with these keys beside those that it needs. A pair (type, value) names the type."""
    writer = gguf.GGUFWriter(path, arch)
    sizes = {f"{arch}.{name}": value for name, value in SIZES[arch].items()}
    for key, value in {**sizes, **keys}.items():
        kind, value = value if isinstance(value, tuple) else (TYPES.get_type(value), value)
        if kind == TYPES.INT32 and not isinstance(value, bool) and value >= 0:
            kind = TYPES.UINT32
        writer.add_key_value(key, value, kind)
    source, _ = random_source(CONFIGS[arch])
    format_named("gguf").write(source, path.with_suffix(".plain"), "f32")
    for tensor in gguf.GGUFReader(path.with_suffix(".plain")).tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


NEUTRAL = {
    "attention.causal": True, "expert_count": 0, "expert_used_count": 0, "logit_scale": 1.0, "residual_scale": 1.0,
    "embedding_scale": 0.0, "attention.scale": 8**-0.5, "attention.clamp_kqv": 0.0, "attention.max_alibi_bias": 0.0,
    "final_logit_softcapping": 0.0, "attn_logit_softcapping": 0.0, "pooling_type": 0, "rope.scaling.type": "none",
    "rope.scaling.factor": 1.0, "rope.scale_linear": 1.0, "rope.scaling.attn_factor": 1.0,
    "rope.scaling.yarn_ext_factor": -1.0, "use_parallel_residual": False, "attention.key_length": 8,
    "attention.value_length": 8, "rope.dimension_count": 8, "tensor_data_layout": "Meta AI original pth",
}  # fmt: skip
CHANGING = {
    "attention.causal": False, "expert_count": 8, "logit_scale": 2.0, "residual_scale": 0.5, "embedding_scale": 12.0,
    "attention.scale": 0.5, "attention.clamp_kqv": 8.0, "attention.max_alibi_bias": 8.0,
    "final_logit_softcapping": 30.0, "pooling_type": 1, "rope.scaling.attn_factor": 1.2, "use_parallel_residual": True,
    "attention.value_length": 4, "tensor_data_layout": "other", "something_new": 0,
    "attention.sliding_window": 15,
}  # fmt: skip


@pytest.mark.parametrize("arch", CONFIGS)
@pytest.mark.parametrize("key", NEUTRAL)
def test_a_key_that_changes_nothing_is_accepted(tmp_path, key, arch):
    with open_model(file_with(tmp_path / "m.gguf", {f"{arch}.{key}": NEUTRAL[key]}, arch)) as source:
        assert source.config == CONFIGS[arch]


@pytest.mark.parametrize("arch", CONFIGS)
@pytest.mark.parametrize("key", CHANGING)
def test_a_key_that_changes_the_model_is_refused_by_name(tmp_path, key, arch):
    with pytest.raises(FormatError, match=f"{arch}.{key}"):
        open_model(file_with(tmp_path / "m.gguf", {f"{arch}.{key}": CHANGING[key]}, arch))


@pytest.mark.parametrize("kind", [TYPES.UINT8, TYPES.INT32, TYPES.UINT64, TYPES.FLOAT32])
def test_a_neutral_number_may_have_any_type(tmp_path, kind):
    with open_model(file_with(tmp_path / "m.gguf", {"llama.expert_count": (kind, 0)})) as source:
        assert source.config == CONFIGS["llama"]


@pytest.mark.parametrize("window", [0, 16, 4096])
def test_a_window_as_long_as_the_context_is_none(tmp_path, window):
    with open_model(file_with(tmp_path / "m.gguf", {"llama.attention.sliding_window": window})) as source:
        assert source.config == CONFIGS["llama"]


@pytest.mark.parametrize("kind", ["linear", "yarn"])
def test_a_scaling_by_one_is_none(tmp_path, kind):
    keys = {"llama.rope.scaling.type": kind, "llama.rope.scaling.factor": 1.0, "llama.rope.scaling.yarn_beta_fast": 8.0}
    with open_model(file_with(tmp_path / "m.gguf", keys)) as source:
        assert source.config == CONFIGS["llama"]


ODD = {
    "tokenizer.chat_template": 3, "general.sampling.temp": "hot", "general.sampling.top_k": -5,
    "general.sampling.top_p": 7.0, "tokenizer.ggml.bos_token_id": "<s>", "tokenizer.ggml.eos_token_id": 9,
    "tokenizer.ggml.padding_token_id": 1.0, "tokenizer.ggml.add_bos_token": "yes",
}  # fmt: skip


@pytest.mark.parametrize("key", ODD)
def test_what_is_odd_beside_the_vocabulary_is_left_out_with_one_warning(tmp_path, key):
    path = file_with(tmp_path / "m.gguf", {**BPE, key: ODD[key]})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with open_model(path) as source:
            assert source.tokenizer is not None
            assert source.tokenizer.encode("ab").tolist() == [6]
            assert source.defaults.to_dict() == {}
    messages = [str(warning.message) for warning in caught if warning.category is GollmWarning]
    assert len(messages) == 1
    name = key.rpartition(".")[2].replace("temp", "temperature") if "sampling" in key else key
    assert str(path) in messages[0] and (name in messages[0] or key in messages[0]) and "left out" in messages[0]


@pytest.mark.parametrize("value", [(TYPES.UINT32, 2**32 - 1), (TYPES.INT32, -1)])
def test_no_token_is_said_in_two_ways(tmp_path, value):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with open_model(file_with(tmp_path / "m.gguf", {**BPE, "tokenizer.ggml.bos_token_id": value})) as source:
            assert source.defaults.bos_token is None


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("pre", "none of these", "'none of these'"),
        ("model", 4, "must be text"),
        ("tokens", 4, "array of texts"),
        ("merges", "a b", "array of texts"),
        ("token_type", [1, 2], "2 types"),
    ],
)
def test_a_damaged_vocabulary_does_not_cost_the_weights(tmp_path, key, value, words):
    path = file_with(tmp_path / "m.gguf", {**BPE, f"tokenizer.ggml.{key}": value})
    with open_model(path) as source:
        assert source.tokenizer is None and words in source.without_tokenizer
        for name, p in Decoder(source.config).parameters.items():
            source.array(name, p.shape)


def test_text_that_is_not_utf8_is_harmless_in_a_description(tmp_path):
    path = file_with(tmp_path / "m.gguf", {"general.description": "+++"})
    path.write_bytes(path.read_bytes().replace(b"+++", b"\xff+\xfe"))
    with open_model(path) as source:
        assert source.config == CONFIGS["llama"]
