"""Folders of transformers here and ours there: the same weights, logits, greedy tokens, and no word of warning."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gollm
from generating import tokens_after
from gollm.formats import convert, open_model
from gollm.formats.huggingface import model as huggingface
from gollm.formats.names import names_of
from gollm.formats.rotary_order import to_half_split
from gollm.formats.source import Source
from gollm.language_model import LanguageModel
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder
from gollm.model.generation_defaults import GenerationDefaults
from gollm.tokenizers import BPETokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors_torch = pytest.importorskip("safetensors.torch")

TOLERANCE = 1e-4  # of the largest logit: both compute in float32, in another order

LLAMA = {
    "hidden_size": 48,
    "intermediate_size": 56,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
    "vocab_size": 97,
    "bos_token_id": 3,
    "eos_token_id": 4,
    "pad_token_id": None,
}
LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 1000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 24,
}
GPT_2 = {"n_embd": 36, "n_layer": 2, "n_head": 3, "n_positions": 96, "vocab_size": 101}
GPT_2 |= {"bos_token_id": 5, "eos_token_id": 6}

FULL, SLIDING = "full_attention", "sliding_attention"
QWEN_WINDOW = {"use_sliding_window": True, "sliding_window": 16}

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", GPT_2),
    "gpt2, untied, narrow": ("GPT2", GPT_2 | {"tie_word_embeddings": False, "n_inner": 50}),
    "gpt2, relu": ("GPT2", GPT_2 | {"activation_function": "relu", "layer_norm_epsilon": 1e-3}),
    "llama": ("Llama", LLAMA),
    "one kv head, tied": ("Llama", LLAMA | {"num_key_value_heads": 1, "tie_word_embeddings": True}),
    "head size of its own": ("Llama", LLAMA | {"num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 20}),
    "biases": ("Llama", LLAMA | {"attention_bias": True, "mlp_bias": True, "vocab_size": 33}),
    "linear": ("Llama", LLAMA | {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}),
    "llama3": ("Llama", LLAMA | {"rope_parameters": LLAMA_3}),
    "another gate": ("Llama", LLAMA | {"hidden_act": "gelu_pytorch_tanh", "rms_norm_eps": 1e-3}),
    "mistral": ("Mistral", LLAMA | {"sliding_window": 16, "head_dim": 20}),
    "mistral, no window": ("Mistral", LLAMA | {"sliding_window": None}),
    "ministral": ("Ministral", LLAMA | {"head_dim": 12, "sliding_window": 16, "layer_types": [FULL, SLIDING]}),
    "qwen2": ("Qwen2", LLAMA | {"tie_word_embeddings": True}),
    "qwen2, window in the last layer": ("Qwen2", LLAMA | QWEN_WINDOW | {"max_window_layers": 1}),
    "qwen2, windows by type": ("Qwen2", LLAMA | QWEN_WINDOW | {"layer_types": [SLIDING, FULL]}),
    "qwen2, window": ("Qwen2", LLAMA | QWEN_WINDOW | {"max_window_layers": 0}),
}


def model_of(name: str) -> Any:
    """With random weights, biases and norms among them."""
    kind, values = CONFIGS[name]
    torch.manual_seed(1)
    cls = getattr(transformers, f"{kind}LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM")
    model = cls(getattr(transformers, f"{kind}Config")(**values)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Fails for a warning, or a line in transformers' log."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
    finally:
        logger.removeHandler(handler)
    assert stream.getvalue() == ""


def load_there(folder: Path) -> Any:
    with silence():
        model, found = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(found.values()), found
    return model.eval()


def test_silence_hears_transformers(tmp_path: Path) -> None:
    model = model_of("llama")
    state = model.state_dict() | {"model.stranger": torch.ones(2)}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(AssertionError, match="stranger"), silence():
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path)


def weights_of(source: Source) -> dict[str, np.ndarray]:
    return {name: source.array(name, p.shape) for name, p in Decoder(source.config).parameters.items()}


def assert_weights_are(source: Source, state: dict[str, Any]) -> None:
    """Bit for bit, by the names and layouts of the two architectures."""
    config = source.config
    for name, p in Decoder(config).parameters.items():
        ours = source.array(name, p.shape)
        theirs = [state[name].float().numpy() for name in names_of(name, config, "huggingface")]
        if config.family == "gpt2" and name.startswith("blocks.") and len(p.shape) == 2:
            theirs = [matrix.T for matrix in theirs]
        if "attention.qkv" in name and config.family == "llama":
            q, k = len(theirs[0]), len(theirs[1])
            ours = np.concatenate(
                [
                    *(to_half_split(rows, config.head_dim).reshape(rows.shape) for rows in (ours[:q], ours[q : q + k])),
                    ours[q + k :],
                ]
            )
        np.testing.assert_array_equal(ours, np.concatenate(theirs), err_msg=name)


@pytest.mark.parametrize("name", CONFIGS)
def test_theirs_here_and_back(name: str, tmp_path: Path) -> None:
    theirs = model_of(name)
    theirs.save_pretrained(tmp_path / "theirs")
    with open_model(tmp_path / "theirs") as source:
        assert_weights_are(source, theirs.state_dict())
        eos = 6 if source.config.family == "gpt2" else 4
        assert source.defaults == GenerationDefaults(stop_tokens=(eos,), bos_token=eos - 1)
    convert(tmp_path / "theirs", tmp_path / "back", "huggingface")
    back = load_there(tmp_path / "back")
    state = back.state_dict()
    assert state.keys() == theirs.state_dict().keys()
    for key, value in theirs.state_dict().items():
        assert torch.equal(state[key], value), key
    ids = torch.randint(0, theirs.config.vocab_size, (2, 40), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert torch.equal(back(ids).logits, theirs(ids).logits)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_same_logits_and_greedy_tokens(name: str, tmp_path: Path) -> None:
    """Theirs here, then ours there: our own model's folder in their library, through gollm's own file."""
    theirs = model_of(name)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = gollm.load(tmp_path / "theirs")
    assert_same(ours, theirs)
    generator = np.random.default_rng(3)
    for parameter in ours.decoder.parameters.values():
        parameter.data[...] += generator.standard_normal(parameter.shape, dtype=np.float32) / 20
    ours.save(tmp_path / "ours.golm")
    convert(tmp_path / "ours.golm", tmp_path / "ours")
    assert_same(ours, load_there(tmp_path / "ours"))


def assert_same(ours: LanguageModel, theirs: Any) -> None:
    V = theirs.config.vocab_size
    ids = torch.randint(0, V, (3, 96), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = theirs(ids).logits.numpy()
    np.testing.assert_allclose(ours.logits(ids.numpy()), expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())
    prompt = ids[:1, :5]
    with torch.no_grad():
        longer = theirs.generate(prompt, max_new_tokens=40, do_sample=False, eos_token_id=None, pad_token_id=0)
    tokens = tokens_after(ours.decoder, prompt[0].tolist(), max_new_tokens=40, temperature=0)
    assert tokens == longer[0, 5:].tolist()


@pytest.mark.parametrize("name", ["gpt2", "llama3", "qwen2"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_and_shards(name: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = model_of(name).to(getattr(torch, dtype))
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="40KB")
    assert len(list((tmp_path / "theirs").glob("model-*.safetensors"))) > 1
    with open_model(tmp_path / "theirs") as source:
        assert_weights_are(source, theirs.state_dict())
    # A rotation in half precision is another one: theirs comes back from its file in float32.
    whole = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "theirs", dtype=torch.float32)
    assert_same(gollm.load(tmp_path / "theirs"), whole.eval())
    monkeypatch.setattr(huggingface, "SHARD_BYTES", 30_000)
    convert(tmp_path / "theirs", tmp_path / "back", "huggingface", "f16" if dtype == "float16" else "bf16")
    assert len(list((tmp_path / "back").glob("model-*.safetensors"))) > 1
    back = load_there(tmp_path / "back")
    assert back.dtype is getattr(torch, dtype)
    for key, value in theirs.state_dict().items():
        assert torch.equal(back.state_dict()[key], value), key


@pytest.mark.parametrize("name", ["gpt2", "one kv head, tied"])
@pytest.mark.parametrize("kept", [0, 1])
def test_save_model_keeps_one_of_two_tied_tensors(name: str, kept: int, tmp_path: Path) -> None:
    theirs = model_of(name)
    theirs.config.save_pretrained(tmp_path)
    safetensors_torch.save_model(theirs, tmp_path / "model.safetensors")
    state = safetensors_torch.load_file(tmp_path / "model.safetensors")
    names = ["lm_head.weight", "transformer.wte.weight" if "gpt2" in name else "model.embed_tokens.weight"]
    (stored,) = [each for each in names if each in state]
    state[names[kept]] = state.pop(stored)
    safetensors_torch.save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    assert_same(gollm.load(tmp_path), theirs)


def test_keys_of_transformers_4(tmp_path: Path) -> None:
    """rope_theta beside rope_scaling with "type", torch_dtype, a list of ids that end a text."""
    model_of("llama3").save_pretrained(tmp_path)
    with open_model(tmp_path) as source:
        expected = source.config
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    rope = values.pop("rope_parameters")
    values["torch_dtype"] = values.pop("dtype")
    values["rope_theta"] = rope.pop("rope_theta")
    values["rope_scaling"] = {"type": rope.pop("rope_type"), **rope}
    values["eos_token_id"] = [4, 7]
    path.write_text(json.dumps(values))
    (tmp_path / "generation_config.json").unlink()
    with open_model(tmp_path) as source:
        assert source.config == expected
        assert source.defaults.stop_tokens == (4, 7)


def test_what_has_no_biases_of_its_own_gets_zeros(tmp_path: Path) -> None:
    """A GPT-2 without biases, a LLaMA with them on the queries, keys, values and the MLP."""
    for i, config in enumerate(
        [
            ModelConfig(n_layers=1, n_heads=2, d_model=16, vocab_size=40, context=24, bias=False),
            ModelConfig(
                n_layers=1, n_heads=2, d_model=16, vocab_size=40, context=24, bias=False, qkv_bias=True, mlp_bias=True,
                norm="rmsnorm", position="rope", gated_mlp=True, activation="silu",
            ),
        ]
    ):  # fmt: skip
        generator = np.random.default_rng(i)
        weights = {s.name: generator.standard_normal(s.shape, np.float32) for s in Decoder(config).parameters.values()}
        source = Source(config, lambda name, out, weights=weights: np.copyto(out, weights[name]))
        huggingface.write(source, tmp_path / str(i), "f32")
        load_there(tmp_path / str(i))
        with open_model(tmp_path / str(i)) as back:
            found = weights_of(back)
        for name, value in found.items():
            np.testing.assert_array_equal(value, weights.get(name, np.zeros_like(value)), err_msg=name)
        assert weights.keys() < found.keys()


def test_the_library_reads_our_file_and_we_its(tmp_path: Path) -> None:
    theirs = model_of("llama")
    theirs.save_pretrained(tmp_path / "a")
    convert(tmp_path / "a", tmp_path / "b", "huggingface", "bf16")
    found = safetensors_torch.load_file(tmp_path / "b" / "model.safetensors")
    for name, value in theirs.state_dict().items():
        assert torch.equal(found[name], value.to(torch.bfloat16)), name


TEXT = "hello  world's 12345 test,\n\n  x ü 漢字 \U0001f600 é <s> <mark>"
SHAPES = {
    "gpt2": ModelConfig(n_layers=1, n_heads=2, d_model=16, vocab_size=300, context=64),
    "llama": ModelConfig(
        n_layers=1, n_heads=2, d_model=16, vocab_size=300, context=64, bias=False,
        norm="rmsnorm", position="rope", gated_mlp=True, activation="silu",
    ),
}  # fmt: skip
SHAPES |= {"mistral": SHAPES["llama"].replace(sliding_window=8), "qwen2": SHAPES["llama"].replace(qkv_bias=True)}
SHAPES |= {"ministral": SHAPES["llama"].replace(n_layers=2, sliding_window=8, window_layers=(0,))}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("pattern", ["gpt2", "llama3", "qwen2"])
def test_the_same_ids_text_and_conversation(shape: str, pattern: str, tmp_path: Path) -> None:
    """The tokenizer there is the one here, whatever class the library picks for the architecture."""
    trained = BPETokenizer.train(
        "hello world, a test of words 1234 'tis\n\n ü" * 3, 296, special_tokens=["<s>", "</s>"]
    )
    begin, end = trained.special_tokens["<s>"], trained.special_tokens["</s>"]
    tokenizer = BPETokenizer(
        trained.vocabulary,
        trained.merges,
        trained.special_tokens,
        pattern,
        normalizer="NFC" if pattern == "qwen2" else None,
        prefix=() if pattern == "qwen2" else (begin,),
    )
    template = "{% for message in messages %}{{ bos_token }}{{ message.content }}{% endfor %}"
    defaults = GenerationDefaults((end,), begin, temperature=0.7, top_k=5, top_p=0.9, chat_template=template)
    zeros = Source(SHAPES[shape], lambda name, out: np.copyto(out, 0), tokenizer, defaults)
    huggingface.write(zeros, tmp_path / "m", "f32")
    ids = tokenizer.encode(TEXT, allowed_special="all", add_special_tokens=True).tolist()
    with silence():
        for kind in (transformers.AutoTokenizer, transformers.PreTrainedTokenizerFast):
            theirs = kind.from_pretrained(tmp_path / "m")
            assert theirs(TEXT).input_ids == ids
            assert theirs.decode(ids) == tokenizer.decode(ids)
            assert (theirs.bos_token_id, theirs.eos_token_id) == (begin, end)
            messages = [{"role": "user", "content": "hi"}]
            assert theirs.apply_chat_template(messages, tokenize=False) == "<s>hi"
        found = transformers.GenerationConfig.from_pretrained(tmp_path / "m")
    assert (found.bos_token_id, found.eos_token_id, found.do_sample) == (begin, end, True)
    assert (found.temperature, found.top_k, found.top_p) == (0.7, 5, 0.9)
    model = load_there(tmp_path / "m")
    assert model.generation_config.eos_token_id == end
    with open_model(tmp_path / "m") as back:
        assert back.defaults == defaults and back.tokenizer is not None
        assert back.tokenizer.encode(TEXT, allowed_special="all", add_special_tokens=True).tolist() == ids


def test_all_defaults_and_chat_templates_are_found_there(tmp_path: Path) -> None:
    tokenizer = BPETokenizer.train("hello", 260, special_tokens=["<e>"])
    defaults = GenerationDefaults(
        (tokenizer.special_tokens["<e>"],), top_k=5, min_p=0.25, repetition_penalty=1, max_new_tokens=4,
        chat_template="default", chat_templates={"tool_use": "with tools", "rag": "ü"},
    )  # fmt: skip
    zeros = Source(SHAPES["llama"], lambda name, out: np.copyto(out, 0), tokenizer, defaults)
    huggingface.write(zeros, tmp_path / "m", "f32")
    model = load_there(tmp_path / "m")
    found = model.generation_config
    assert (found.top_k, found.min_p, found.repetition_penalty, found.max_new_tokens) == (5, 0.25, 1.0, 4)
    with silence():
        model.generate(torch.tensor([[1, 2]]), pad_token_id=0)  # all of it is heard there
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "m")
    assert theirs.chat_template == {"default": "default", "tool_use": "with tools", "rag": "ü"}
    for jinja_files in (True, False):  # the other way round, as new and old versions write them
        theirs.save_pretrained(tmp_path / "back", save_jinja_files=jinja_files)
        found.save_pretrained(tmp_path / "back")
        for name in ("config.json", "model.safetensors"):
            shutil.copy(tmp_path / "m" / name, tmp_path / "back" / name)
        with open_model(tmp_path / "back") as back:
            assert back.defaults == defaults
        shutil.rmtree(tmp_path / "back")


def test_a_greedy_models_generation_config_is_quiet(tmp_path: Path) -> None:
    zeros = Source(SHAPES["gpt2"], lambda name, out: np.copyto(out, 0), None, GenerationDefaults((3, 4), temperature=0))
    huggingface.write(zeros, tmp_path / "m", "f32")
    model = load_there(tmp_path / "m")
    assert (model.generation_config.do_sample, model.generation_config.eos_token_id) == (False, [3, 4])
    with silence():
        model.generate(torch.tensor([[1, 2]]), max_new_tokens=3, pad_token_id=0)


STORIES = Path(__file__).resolve().parents[3] / "shared" / "data" / "stories260K.bin"


@pytest.mark.skipif(not STORIES.exists(), reason="stories260K is not here")
def test_a_trained_llama_with_sentencepiece(tmp_path: Path) -> None:
    """The whole way: llama2.c's model and tokenizer, and the same story there."""
    ours = gollm.load(STORIES)
    convert(STORIES, tmp_path / "stories")
    with silence():
        tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "stories")
    theirs = load_there(tmp_path / "stories")
    prompt = "Once upon a time, there was a"
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    with torch.no_grad():
        longer = theirs.generate(ids, max_new_tokens=60, do_sample=False)
    assert longer.shape[1] == ids.shape[1] + 60
    text = tokenizer.decode(longer[0], skip_special_tokens=True)
    assert text == prompt + ours.generate(prompt, max_new_tokens=60, temperature=0)
