"""Hugging Face folders without their libraries: what is refused and how, and folders that come from anywhere."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

import gollm
from gollm import tokenizers
from gollm.errors import FormatError, GenerationError, GollmWarning, TokenizerError
from gollm.formats import open_model, save
from gollm.formats.huggingface import model as huggingface
from gollm.formats.source import Source
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder
from gollm.model.generation_defaults import GenerationDefaults
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
    names = [name for name, p in Decoder(config).parameters.items()]

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
        for name, p in Decoder(config).parameters.items():
            expected = original.array(name, p.shape)
            if dtype == "bf16":  # numbers of up to 11 bits lose three
                np.testing.assert_allclose(back.array(name, p.shape), expected, rtol=2**-8, err_msg=name)
            else:
                np.testing.assert_array_equal(back.array(name, p.shape), expected, err_msg=name)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model_type": "mamba"}, ["model_type", "'mamba'", "gpt2, llama, mistral, ministral, qwen2"]),
        ({"model_type": None}, ["model_type", "None"]),
        ({"hidden_act": "quick_gelu"}, ["activation", "'quick_gelu'", "silu"]),
        ({"partial_rotary_factor": 0.5}, ["partial_rotary_factor", "0.5"]),
        ({"quantization_config": {"bits": 4}}, ["quantization_config", "bits"]),
        ({"num_local_experts": 8}, ["num_local_experts", "8"]),
        ({"is_causal": False}, ["is_causal is False", "True only"]),
        ({"is_causal": None}, ["is_causal is None"]),
        ({"attn_logit_softcapping": 50.0}, ["attn_logit_softcapping", "50.0", "not known"]),
        ({"a" * 1000: "b" * 1000}, ["the key 'aaa", "'bbb", "not known"]),
        ({"text_config": {"hidden_size": 24}}, ["text_config", "not known"]),
        ({"per_layer_config": {"1": {"sliding_window": 3}}}, ["per_layer_config"]),
        ({"n_embd": 24}, ["n_embd is 24", "of type llama"]),
        ({"sliding_window": 8}, ["sliding_window is 8", "of type llama"]),
        ({"layer_types": ["full_attention", "sliding_attention"]}, ["layer_types", "of type llama"]),
        ({"model_type": "mistral", "use_sliding_window": False, "sliding_window": 8}, ["use_sliding_window is False"]),
        ({"rope_parameters": {}, "rope_scaling": {"type": "yarn"}}, ["rope_type of rope_scaling", "'yarn'"]),
        (
            {"rope_parameters": {"rope_type": "default"}, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
            ["rope_scaling", "'dynamic'"],
        ),
        ({"rope_scaling": {"rope_type": "longrope", "type": "linear", "factor": 2.0}}, ["'longrope'"]),
        ({"rope_scaling": {"rope_type": "default", "interleaved": True}}, ["rope_scaling", "'interleaved'", "True"]),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, ["rope_type", "'yarn'", "default, linear and llama3"]),
        ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, ["'dynamic'"]),
        ({"rope_scaling": {"type": "linear"}}, ["factor", "missing"]),
        ({"rope_scaling": {"type": "linear", "factor": "4"}}, ["rope_factor", "'4'"]),
        ({"rope_scaling": "linear"}, ["rope_scaling", "'linear'"]),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, ["rope_parameters", "full_attention"]),
        ({"rope_parameters": {"partial_rotary_factor": 0.25}}, ["partial_rotary_factor", "0.25"]),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}}, ["high_freq_factor"]),
        ({"num_hidden_layers": 10**9}, ["1,000,000,000 layers", "2,048"]),
        ({"num_hidden_layers": 2000}, ["21 tensors", "2000 layers"]),
        ({"num_hidden_layers": "2"}, ["n_layers", "'2'"]),
        ({"hidden_size": None}, ["hidden_size is null"]),
        ({"vocab_size": 2**31 - 1}, ["embed_tokens", "(300, 24)", "(2147483647, 24)"]),
        ({"num_key_value_heads": 4}, ["k_proj", "(12, 24)", "(24, 24)"]),
        ({"num_key_value_heads": 3}, ["n_kv_heads", "3"]),
        ({"attention_bias": True}, ["q_proj.bias", "missing"]),
        ({"tie_word_embeddings": "yes"}, ["tied_head", "'yes'"]),
        ({"num_hidden_layers": 1}, ["model.layers.1.", "belongs to nothing"]),
        (
            {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 8, "max_window_layers": "1"},
            ["max_window_layers", "'1'"],
        ),
        (
            {
                "model_type": "qwen2", "use_sliding_window": True, "sliding_window": 8,
                "layer_types": ["full_attention", "chunked_attention"],
            },
            ["layer_types", "'chunked_attention'", "full_attention and sliding_attention"],
        ),
        (
            {"model_type": "qwen2", "sliding_window": 8, "layer_types": ["full_attention", "sliding_attention"]},
            ["layer_types", "use_sliding_window False"],
        ),
        (
            {"model_type": "mistral", "sliding_window": None, "layer_types": ["full_attention", "sliding_attention"]},
            ["layer_types", "sliding_window is None"],
        ),
        ({"model_type": "qwen2", "use_sliding_window": "yes"}, ["use_sliding_window is 'yes'"]),
        ({"model_type": "mistral", "layer_types": ["full_attention"]}, ["layer_types", "list of 2 names"]),
        ({"model_type": "mistral", "layer_types": "full_attention"}, ["layer_types", "'full_attention'"]),
    ],
)  # fmt: skip
def test_configurations_are_refused_by_name_and_value(values: Any, words: list[str], folder: Path) -> None:
    change(folder / "config.json", **values)
    message = refusal(folder)
    for word in [str(folder), *words]:
        assert word in message


@pytest.mark.parametrize(
    ("values", "changes"),
    [
        ({"auto_map": {"AutoModel": "code.Model"}}, {}),  # no code is run: the type is known
        ({"rope_scaling": {}}, {}),
        ({"rope_scaling": None, "is_causal": True, "pretraining_tp": 2, "use_cache": False, "anything": None}, {}),
        ({"sliding_window": 8, "use_sliding_window": False, "max_window_layers": 1}, {}),
        ({"sliding_window": 32, "layer_types": ["full_attention"] * 2}, {}),
        ({"rope_parameters": {"rope_theta": 5.0}, "rope_theta": 7.0}, {"rope_theta": 5.0}),
        (
            {"rope_parameters": {"rope_type": "default"}, "rope_scaling": {"type": "linear", "factor": 4.0}},
            {"rope_scaling": "linear", "rope_factor": 4.0},
        ),
        ({"model_type": "mistral", "sliding_window": 8}, {"sliding_window": 8}),
        ({"model_type": "mistral", "sliding_window": None}, {}),
        ({"model_type": "mistral", "sliding_window": 8, "layer_types": None}, {"sliding_window": 8}),
        ({"model_type": "mistral", "sliding_window": 8, "layer_types": ["full_attention"] * 2}, {}),
        ({"model_type": "mistral", "sliding_window": None, "layer_types": ["full_attention"] * 2}, {}),
        (
            {"model_type": "ministral", "sliding_window": 8, "layer_types": ["full_attention", "sliding_attention"]},
            {"sliding_window": 8, "window_layers": (1,)},
        ),
    ],
)
def test_keys_that_are_understood(values: Any, changes: Any, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    for key in ("rope_theta", "rope_scaling", "attention_bias", "mlp_bias"):
        del config[key]
    (folder / "config.json").write_text(json.dumps(config | values))
    with open_model(folder) as source:
        assert source.config == LLAMA.replace(qkv_bias=False, output_bias=False, mlp_bias=False, **changes)


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        *((name, "gelu_tanh") for name in ("gelu_new", "gelu_fast", "gelu_accurate", "gelu_pytorch_tanh")),
        *(("gelu_python_tanh", "gelu_tanh"), ("gelu_python", "gelu"), ("gelu", "gelu"), ("swish", "silu")),
    ],
)
def test_names_of_activations(name: str, ours: str, folder: Path) -> None:
    change(folder / "config.json", hidden_act=name)
    with open_model(folder) as source:
        assert source.config.activation == ours


def test_what_a_rotation_does_not_use_is_left_out_with_a_warning(folder: Path) -> None:
    change(folder / "config.json", rope_scaling={"rope_type": "default", "factor": 8.0, "beta_fast": 32})
    with pytest.warns(GollmWarning, match="rope_scaling has factor, beta_fast, which rope_type default"):
        open_model(folder).close()


@pytest.mark.parametrize("config", [LLAMA, GPT_2], ids=["llama", "gpt2"])
class TestTheHead:
    """One that the configuration ties to the embedding, and what the file has of both."""

    @pytest.fixture
    def tied(self, config: ModelConfig, tmp_path: Path) -> Path:
        huggingface.write(source_of(config.replace(tied_head=True)), tmp_path / "m", "f32")
        return tmp_path / "m"

    def test_one_tensor_is_both_whatever_its_name(self, config: ModelConfig, tied: Path) -> None:
        with open_model(tied) as source:
            expected = source.array("token_embedding", (config.vocab_size, config.d_model))
        rewrite(tied / "model.safetensors", lambda name: "lm_head.weight" if is_embedding(name) else name, {})
        with open_model(tied) as source:
            assert source.config.tied_head
            np.testing.assert_array_equal(source.array("token_embedding", expected.shape), expected)

    def test_another_head_counts(self, config: ModelConfig, tied: Path) -> None:
        rewrite(tied / "model.safetensors", str, {"lm_head.weight": (config.vocab_size, config.d_model)})
        with pytest.warns(GollmWarning, match=r"lm_head.weight has other values; the stored head is used"):
            source = open_model(tied)
        with source:
            assert source.config == source.config.replace(tied_head=False)
            assert not source.array("head", (config.vocab_size, config.d_model)).any()

    @pytest.mark.parametrize("dtype", ["F32", "BF16"])
    def test_the_same_head_stays_tied(self, config: ModelConfig, dtype: str, tied: Path, tmp_path: Path) -> None:
        with open_model(tied) as source:
            rounded = {
                name: source.array(name, p.shape).astype(np.int8).astype(np.float32)
                for name, p in Decoder(source.config).parameters.items()
            }
            both = Source(source.config.replace(tied_head=False), lambda name, out: np.copyto(out, rounded[name]))
            rounded["head"] = rounded["token_embedding"]
            huggingface.write(both, tmp_path / "both", "bf16" if dtype == "BF16" else "f32")
        change(tmp_path / "both" / "config.json", tie_word_embeddings=True)
        with open_model(tmp_path / "both") as source:
            assert source.config.tied_head
        change(tmp_path / "both" / "config.json", tie_word_embeddings=False)
        with open_model(tmp_path / "both") as source:
            assert not source.config.tied_head

    def test_what_cannot_be_a_head(self, config: ModelConfig, tied: Path) -> None:
        path, before = tied / "model.safetensors", (tied / "model.safetensors").read_bytes()
        rewrite(path, str, {"lm_head.weight": (config.vocab_size + 1, config.d_model)})
        assert f"lm_head.weight is F32 of shape ({config.vocab_size + 1}, {config.d_model})" in refusal(tied)
        path.write_bytes(before)
        rewrite(path, str, {"lm_head.weight": (config.vocab_size, config.d_model)}, dtype="I64")
        assert "lm_head.weight is I64" in refusal(tied)
        path.write_bytes(before)
        change(tied / "config.json", tie_word_embeddings=False)
        assert "lm_head.weight is missing; if the head is the embedding" in refusal(tied)
        rewrite(path, lambda name: "weight" if is_embedding(name) else name, {})
        assert "is missing" in refusal(tied)


def is_embedding(name: str) -> bool:
    return name in ("transformer.wte.weight", "model.embed_tokens.weight")


@pytest.mark.parametrize(
    "names",
    [
        ["rope.freqs"],
        ["model.layers.0.self_attn.rotary_emb.cos_cached", "model.layers.0.self_attn.rotary_emb.sin_cached"],
        ["v_head.summary.weight", "v_head.summary.bias"],
    ],
)
def test_tensors_that_are_left_out_with_one_warning(names: list[str], folder: Path) -> None:
    rewrite(folder / "model.safetensors", str, dict.fromkeys(names, (3,)))
    with pytest.warns(GollmWarning) as caught:
        open_model(folder).close()
    (message,) = [str(each.message) for each in caught]
    assert all(name in message for name in names)


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"])
def test_tables_that_old_versions_wrote_are_no_news(name: str, folder: Path) -> None:
    rewrite(folder / "model.safetensors", str, {name: (3,)})
    open_model(folder).close()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model.layers.0.self_attn.q_proj.lora_A.weight", "merge_and_unload"),
        ("model.layers.0.self_attn.q_proj.base_layer.weight", "LoRA"),
        ("score.weight", "classifier"),
        ("model.layers.0.self_attn.q_norm.weight", "belongs to nothing"),
    ],
)
def test_tensors_that_are_refused_by_name(name: str, words: str, folder: Path) -> None:
    rewrite(folder / "model.safetensors", str, {name: (3,)})
    message = refusal(folder)
    assert name in message and words in message


def test_quantised_weights_are_named(folder: Path) -> None:
    q_proj = "model.layers.0.self_attn.q_proj"
    rewrite(folder / "model.safetensors", lambda name: name.replace(f"{q_proj}.weight", f"{q_proj}.qweight"), {})
    assert f"{q_proj}.weight is missing; it has '{q_proj}.qweight'" in refusal(folder)


def test_an_adapter_is_named(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    assert "adapter_config.json" in refusal(folder) and "merge" in refusal(folder)
    (folder / "config.json").unlink()
    assert "adapter_config.json" in refusal(folder)


def test_pointers_of_git_lfs_are_named(folder: Path, tmp_path: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4f0b0f3a\nsize 2200119864\n"
    (folder / "tokenizer.json").write_text(pointer)
    with open_model(folder) as source:
        assert "git lfs pull" in source.without_tokenizer
    for path in (folder / "model.safetensors", folder / "config.json", tmp_path / "m.gguf", tmp_path / "m.golm"):
        path.write_text(pointer)
        message = refusal(folder if path.parent == folder else path)
        assert str(path) in message and "git lfs pull" in message
    for name in ("tokenizer.json", "tokenizer.model", "tokenizer.bin"):
        (tmp_path / name).write_text(pointer)
        with pytest.raises(TokenizerError, match="git lfs pull"):
            tokenizers.load(tmp_path / name)


def test_a_folder_around_the_model_is_no_model(folder: Path) -> None:
    assert "there is one in its folder model" in refusal(folder.parent)


def test_a_tokenizer_with_more_tokens_than_the_embedding(tmp_path: Path) -> None:
    """As in transformers, the model works; a text with such a token cannot be computed."""
    tokenizer = BPETokenizer.train("a test of a tokenizer, a test", 290, special_tokens=["<s>", "<pad>"])
    big = LLAMA.replace(vocab_size=tokenizer.vocab_size)
    huggingface.write(source_of(big, tokenizer), tmp_path / "m", "f32")
    small = LLAMA.replace(vocab_size=256)
    huggingface.write(source_of(small), tmp_path / "small", "f32")
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "m" / name).write_bytes((tmp_path / "small" / name).read_bytes())
    last = f"'<pad>' ({tokenizer.vocab_size - 1})"
    with pytest.warns(GollmWarning) as caught:
        model = gollm.load(tmp_path / "m")
    assert last in str(caught[0].message) and "only 256" in str(caught[0].message)
    assert isinstance(model.generate("xyz", max_new_tokens=2), str)
    with pytest.raises(GenerationError, match=r"the token .* and this model has only the tokens from 0 to 255"):
        model.generate("a test")
    with pytest.raises(FormatError) as error:
        open_model(tmp_path / "small", tokenizer)
    assert last in str(error.value)


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
        for name, p in Decoder(config).parameters.items():
            np.testing.assert_array_equal(back.array(name, p.shape), original.array(name, p.shape))
    rewrite(path, lambda name: name, {"h.0.attn.rotation": (3,)})
    assert "h.0.attn.rotation" in refusal(tmp_path / "m")


def rewrite(
    path: Path, rename: Callable[[str], str], more: dict[str, tuple[int, ...]], dtype: Literal["F32", "I64"] = "F32"
) -> None:
    data = path.read_bytes()
    (n,) = struct.unpack("<Q", data[:8])
    table = {rename(name): entry for name, entry in json.loads(data[8 : 8 + n]).items()}
    body = data[8 + n :]
    for name, shape in more.items():
        size = (4 if dtype == "F32" else 8) * int(np.prod(shape))
        table[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + size]}
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
    norm = "model.norm.weight"
    change(index, weight_map={name: file for name, file in weight_map.items() if name != norm})
    assert weight_map[norm] in [file for name, file in weight_map.items() if name != norm]
    open_model(folder).close()  # it is in a file that the index names
    shard = folder / weight_map["lm_head.weight"]
    before = shard.read_bytes()
    rewrite(shard, str, {first: (3,)})
    assert f"'{first}' is in {weight_map[first]} and in {shard.name}" in refusal(folder)
    shard.write_bytes(before)
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
    (folder / "model.fp16.safetensors").write_bytes(b"")
    assert "'model.fp16.safetensors'" in refusal(folder)


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
        '{"eos_token_id": [2, 5], "bos_token_id": 1, "pad_token_id": -1, "do_sample": false, "temperature": 0.6}'
    )
    with open_model(folder) as source:
        expected = GenerationDefaults((2, 5), 1, None, 0.0, chat_template="d", chat_templates={"tools": "t"})
        assert source.defaults == expected
    (folder / "chat_template.jinja").write_text("newer")
    (folder / "generation_config.json").write_text('{"temperature": 0.6, "top_k": 50, "top_p": 0.95}')
    change(folder / "config.json", eos_token_id=3)
    with open_model(folder) as source:
        assert source.defaults == GenerationDefaults((3,), None, None, 0.6, 50, 0.95, "newer")


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


def test_a_model_is_written_without_a_tokenizer_that_the_format_cannot_hold(tmp_path: Path) -> None:
    from gollm.tokenizers import SentencePieceTokenizer
    from gollm.tokenizers.vocabulary import Vocabulary

    tokens, types = [b"<unk>", b" ", b"a", b"<sep>"], np.array([2, 1, 1, 4], np.uint8)
    tokenizer = SentencePieceTokenizer(Vocabulary.of(tokens), types, scores=np.zeros(4, np.float32))
    config = LLAMA.replace(vocab_size=4)
    with pytest.warns(GollmWarning, match="without its tokenizer") as caught:
        huggingface.write(source_of(config, tokenizer), tmp_path / "m", "f32")
    message = str(caught[0].message)
    assert f"cannot write {tmp_path / 'm' / 'tokenizer.json'}" in message and ".tmp" not in message
    assert not (tmp_path / "m" / "tokenizer.json").exists() and (tmp_path / "m" / "model.safetensors").exists()


def in_float64(path: Path, change: Callable[[np.ndarray], None]) -> None:
    """Writes a safetensors file again with all its numbers in float64, after `change` of each array."""
    data = path.read_bytes()
    (n,) = struct.unpack("<Q", data[:8])
    table, body = json.loads(data[8 : 8 + n]), b""
    for name, entry in table.items():
        if name != "__metadata__":
            begin, end = (8 + n + offset for offset in entry["data_offsets"])
            values = np.frombuffer(data[begin:end], "<f4").astype("<f8")
            change(values)
            entry |= {"dtype": "F64", "data_offsets": [len(body), len(body) + values.nbytes]}
            body += values.tobytes()
    text = json.dumps(table).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


@pytest.mark.parametrize("config", [LLAMA, GPT_2], ids=["llama", "gpt2"])
def test_float64_is_rounded_to_float32(config: ModelConfig, tmp_path: Path) -> None:
    huggingface.write(source_of(config), tmp_path / "model", "f32")

    def add_what_is_rounded_away(values: np.ndarray) -> None:
        values *= 1 + 2.0**-30

    in_float64(tmp_path / "model" / "model.safetensors", add_what_is_rounded_away)
    with open_model(tmp_path / "model") as source:
        assert source.dtype == "F64"
        for name, p in Decoder(config).parameters.items():
            np.testing.assert_array_equal(source.array(name, p.shape), source_of(config).array(name, p.shape))


def test_float64_that_float32_cannot_hold_is_refused(folder: Path) -> None:
    def make_one_large(values: np.ndarray) -> None:
        values[-1] = -1e300

    in_float64(folder / "model.safetensors", make_one_large)
    with open_model(folder) as source, pytest.raises(FormatError, match=r"norm\.weight: a weight is beyond 3\.4e38"):
        source.array("norm.weight", (LLAMA.d_model,))


@pytest.mark.parametrize("model", [None, "model.golm", 3])
def test_only_a_source_is_saved(model: Any, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"the model is .*; it must be a Source, which open_model returns"):
        save(model, tmp_path / "model.golm")
