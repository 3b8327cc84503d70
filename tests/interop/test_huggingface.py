"""Hugging Face folders without their libraries: what is refused and how, and folders that come from anywhere."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gollm.config import ModelConfig
from gollm.errors import FormatError
from gollm.generation import GenerationDefaults
from gollm.interop import huggingface, open_model
from gollm.interop.source import Source
from gollm.specs import parameter_specs
from gollm.tokenizers import BPETokenizer, CharacterTokenizer, Tokenizer

LLAMA = ModelConfig(
    n_layers=2, n_heads=4, n_kv_heads=2, d_model=24, d_ff=20, vocab_size=300, context=32, norm="rmsnorm",
    position="rope", gated_mlp=True, bias=False, activation="silu", tied_head=False,
)  # fmt: skip
GPT_2 = ModelConfig(n_layers=1, n_heads=2, d_model=16, vocab_size=300, context=24)


def source_of(
    config: ModelConfig, tokenizer: Tokenizer | None = None, defaults: GenerationDefaults | None = None
) -> Source:
    """Weights that say which parameter and which element they are."""
    names = [spec.name for spec in parameter_specs(config)]

    def read(name: str, out: np.ndarray) -> None:
        out.reshape(-1)[:] = np.arange(out.size) % 1000 / 8 + names.index(name)

    return Source(config, read, tokenizer, defaults or GenerationDefaults())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    huggingface.write(source_of(LLAMA), tmp_path / "model", "f32")
    return tmp_path / "model"


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def refusal(folder: Path) -> str:
    with pytest.raises(FormatError) as caught:
        open_model(folder).close()
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    return message


@pytest.mark.parametrize("config", [LLAMA, GPT_2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_what_is_written_comes_back(config: ModelConfig, dtype: Any, tmp_path: Path) -> None:
    tokenizer = BPETokenizer.train("a test of a tokenizer, a test", 270, special_tokens=["<s>", "</s>"])
    defaults = GenerationDefaults(
        stop_tokens=(tokenizer.special_tokens["</s>"], 7),
        bos_token=tokenizer.special_tokens["<s>"],
        temperature=0.7,
        top_k=5,
        top_p=0.9,
        chat_template="{{ messages[0].content }}\nü",
    )
    huggingface.write(source_of(config, tokenizer, defaults), tmp_path / "m", dtype)
    with open_model(tmp_path / "m") as back, source_of(config) as original:
        known = {"qkv_bias", "output_bias", "mlp_bias"}  # None and what it stands for are the same
        assert {k: v for k, v in back.config.to_dict().items() if k not in known} == {
            k: v for k, v in config.to_dict().items() if k not in known
        }
        assert back.defaults == defaults
        assert (
            back.tokenizer is not None
            and back.tokenizer.encode("a test").tolist() == tokenizer.encode("a test").tolist()
        )
        for spec in parameter_specs(config):
            expected = original.array(spec.name, spec.shape)
            if dtype == "bf16":  # numbers of up to 11 bits lose three
                np.testing.assert_allclose(back.array(spec.name, spec.shape), expected, rtol=2**-8, err_msg=spec.name)
            else:
                np.testing.assert_array_equal(back.array(spec.name, spec.shape), expected, err_msg=spec.name)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model_type": "mamba"}, ["model_type", "'mamba'", "gpt2, llama, mistral, qwen2"]),
        ({"model_type": None}, ["model_type", "None"]),
        ({"hidden_act": "quick_gelu"}, ["activation", "'quick_gelu'", "silu"]),
        ({"partial_rotary_factor": 0.5}, ["partial_rotary_factor", "0.5"]),
        ({"quantization_config": {"bits": 4}}, ["quantization_config", "bits"]),
        ({"num_local_experts": 8}, ["num_local_experts", "8"]),
        ({"auto_map": {"AutoModel": "code.Model"}}, ["auto_map", "code.Model"]),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, ["rope_type", "'yarn'", "default, linear and llama3"]),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, ["'dynamic'"]),
        ({"rope_scaling": {"type": "linear"}}, ["factor", "missing"]),
        ({"rope_scaling": {"type": "linear", "factor": "4"}}, ["rope_factor", "'4'"]),
        ({"rope_scaling": "linear"}, ["rope_scaling", "'linear'"]),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, ["rope_parameters", "full_attention"]),
        ({"rope_parameters": {"partial_rotary_factor": 0.25}}, ["partial_rotary_factor", "0.25"]),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}}, ["high_freq_factor"]),
        ({"num_hidden_layers": 10**9}, ["21 tensors", "1000000000 layers"]),
        ({"num_hidden_layers": "2"}, ["n_layers", "'2'"]),
        ({"hidden_size": None}, ["hidden_size is missing"]),
        ({"vocab_size": 2**31 - 1}, ["embed_tokens", "(300, 24)", "(2147483647, 24)"]),
        ({"num_key_value_heads": 4}, ["k_proj", "(12, 24)", "(24, 24)"]),
        ({"num_key_value_heads": 3}, ["n_kv_heads", "3"]),
        ({"attention_bias": True}, ["q_proj.bias", "missing"]),
        ({"tie_word_embeddings": "yes"}, ["tied_head", "'yes'"]),
        ({"num_hidden_layers": 1}, ["model.layers.1.", "belongs to nothing"]),
        (
            {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
            ["max_window_layers", "1", "all layers or in none"],
        ),
        (
            {
                "model_type": "qwen2", "use_sliding_window": True, "sliding_window": 8,
                "layer_types": ["full_attention", "sliding_attention"],
            },
            ["layer_types", "all layers or in none"],
        ),
        ({"eos_token_id": "2"}, ["eos_token_id", "'2'"]),
    ],
)  # fmt: skip
def test_configurations_are_refused_by_name_and_value(values: Any, words: list[str], folder: Path) -> None:
    change(folder / "config.json", **values)
    message = refusal(folder)
    for word in [str(folder), *words]:
        assert word in message


@pytest.mark.parametrize("key", ["scale_attn_weights", "scale_attn_by_inverse_layer_idx", "add_cross_attention"])
def test_gpt2_of_another_kind(key: str, tmp_path: Path) -> None:
    huggingface.write(source_of(GPT_2), tmp_path / "m", "f32")
    value = key != "scale_attn_weights"
    change(tmp_path / "m" / "config.json", **{key: value})
    assert f"{key} is {value}" in refusal(tmp_path / "m")


def test_names_without_their_prefix_and_buffers(tmp_path: Path) -> None:
    """openai-community/gpt2 has them so."""
    config = GPT_2
    huggingface.write(source_of(config), tmp_path / "m", "f32")
    path = tmp_path / "m" / "model.safetensors"
    rewrite(path, lambda name: name.replace("transformer.", ""), {"h.0.attn.bias": (1, 1, 24, 24)})
    with open_model(tmp_path / "m") as back, source_of(config) as original:
        for spec in parameter_specs(config):
            np.testing.assert_array_equal(back.array(spec.name, spec.shape), original.array(spec.name, spec.shape))
    rewrite(path, lambda name: name, {"h.0.attn.rotation": (3,)})
    assert "h.0.attn.rotation" in refusal(tmp_path / "m")


def rewrite(path: Path, rename: Callable[[str], str], more: dict[str, tuple[int, ...]]) -> None:
    data = path.read_bytes()
    (n,) = struct.unpack("<Q", data[:8])
    table = {rename(name): entry for name, entry in json.loads(data[8 : 8 + n]).items()}
    body = data[8 + n :]
    for name, shape in more.items():
        size = 4 * int(np.prod(shape))
        table[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(body), len(body) + size]}
        body += bytes(size)
    text = json.dumps(table).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def test_shards_that_are_not_what_they_should_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface, "SHARD_BYTES", 10_000)
    folder = tmp_path / "m"
    huggingface.write(source_of(LLAMA), folder, "f32")
    index = folder / "model.safetensors.index.json"
    good = index.read_text()
    weight_map = json.loads(good)["weight_map"]
    first = next(iter(weight_map))
    assert len(set(weight_map.values())) > 2
    for bad in ("../secret.safetensors", "/etc/passwd", "a/b.safetensors", ".hidden.safetensors", "pickle.bin", ""):
        change(index, weight_map=weight_map | {first: bad})
        assert "only *.safetensors of the folder" in refusal(folder)
    for bad in ("none.safetensors", "n\0ul.safetensors"):
        change(index, weight_map=weight_map | {first: bad})
        refusal(folder)
    change(index, weight_map=weight_map | {first: weight_map["lm_head.weight"]})
    assert f"'{first}' is not in" in refusal(folder)
    for bad in (None, [], {"a": 1}):
        change(index, weight_map=bad)
        assert "weight_map" in refusal(folder)
    change(index, weight_map={f"t{i}": f"{i}.safetensors" for i in range(1001)})
    assert "1,001 files" in refusal(folder)
    index.write_text(good)
    open_model(folder).close()


def test_pickles_are_not_read(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    message = refusal(folder)
    assert "pytorch_model.bin" in message and f"save_pretrained('{folder}')" in message
    (folder / "pytorch_model.bin").unlink()
    assert "neither model.safetensors nor" in refusal(folder)


def test_a_tokenizer_that_cannot_be_read_is_no_reason_to_refuse_the_model(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"model": {"type": "BPE"}}')
    with open_model(folder) as source:
        assert source.tokenizer is None
        assert "tokenizer.json" in source.without_tokenizer and "pre_tokenizer" in source.without_tokenizer


def test_defaults_from_where_they_are(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": [{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]})
    )
    (folder / "generation_config.json").write_text(
        '{"eos_token_id": [2, 5, 300], "bos_token_id": 1, "pad_token_id": -1, "do_sample": false, "temperature": 0.6}'
    )
    with open_model(folder) as source:
        assert source.defaults == GenerationDefaults((2, 5), 1, None, temperature=0.0, chat_template="d")
    (folder / "chat_template.jinja").write_text("newer")
    (folder / "generation_config.json").write_text('{"temperature": 0.6, "top_k": 50, "top_p": 0.95}')
    change(folder / "config.json", eos_token_id=3)
    with open_model(folder) as source:
        assert source.defaults == GenerationDefaults((3,), None, None, 0.6, 50, 0.95, "newer")
    for key, value in {"temperature": -1, "top_k": 1.5, "top_p": 2, "eos_token_id": [True], "bos_token_id": {}}.items():
        (folder / "generation_config.json").write_text(json.dumps({key: value}))
        message = refusal(folder)
        assert key in message and "generation_config.json" in message


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (LLAMA.replace(norm="layernorm"), "neither GPT-2 nor LLaMA"),
        (GPT_2.replace(n_kv_heads=1), "n_kv_heads is 1"),
        (GPT_2.replace(head_dim=20), "head_dim is 20"),
        (LLAMA.replace(sliding_window=4, mlp_bias=True), "sliding_window is 4"),
        (LLAMA.replace(sliding_window=4, bias=True), "sliding_window is 4"),
    ],
)
def test_what_it_cannot_hold(config: ModelConfig, words: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=words):
        huggingface.write(source_of(config), tmp_path / "m", "f32")
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_nothing_or_what_was_there(folder: Path) -> None:
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def read(name: str, out: np.ndarray) -> None:
        out[...] = 1e6 if name == "head" else 0

    with pytest.raises(FormatError, match=r"lm_head.weight: .*65504"):
        huggingface.write(Source(LLAMA, read), folder, "f16")
    with pytest.raises(FormatError, match="lm_head"):
        huggingface.write(Source(LLAMA, read), folder.with_name("new"), "f16")
    with pytest.raises(FormatError, match="character tokenizer"):
        huggingface.write(Source(LLAMA, read, CharacterTokenizer.train("ab")), folder, "f32")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert [entry.name for entry in folder.parent.iterdir()] == [folder.name]
    huggingface.write(source_of(GPT_2), folder, "f32")
    with open_model(folder) as source:
        assert source.config.family == "gpt2"
    assert [entry.name for entry in folder.parent.iterdir()] == [folder.name]
