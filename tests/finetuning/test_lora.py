"""LoRA: gradients, any dtype of the base, peft's files, and a run whose adapters alone are trained."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import gollm
from gollm import Decoder, FinetuneOptions, ModelConfig
from gollm.errors import ConfigError, FormatError, TrainingError
from gollm.formats import open_model, peft, with_adapter
from gollm.formats.golm.checkpoint import open_checkpoint
from gollm.model.lora import TARGETS, LoraConfig, adapter_names, attach, sites_of
from gollm.nn.tape import no_grad
from gollm.quantisation import DTYPES, dequantise, quantise

from .conftest import LLAMA, small_model, write_lines
from .test_sft import check_resumed

CONFIGS = {
    "llama": ModelConfig(n_layers=2, n_heads=4, n_kv_heads=2, d_model=32, d_ff=48, context=24, vocab_size=50, **LLAMA),
    "gpt2": ModelConfig(n_layers=2, n_heads=2, d_model=32, context=24, vocab_size=50),
}
RNG = np.random.default_rng(0)
TOKENS, TARGET_IDS = RNG.integers(0, 50, (2, 3, 17)).astype(np.int32)
LORA = LoraConfig(rank=3, alpha=4.5)


def with_adapters(config, dtype=np.float32, lora=LORA, quantised=None):
    """A model with adapters that add something; `quantised`: what its matrices are stored as."""
    model = Decoder(config, np.dtype(dtype)).initialise(1)
    if quantised is not None:
        names = [n for n, p in model.parameters.items() if p.decays and n != "position_embedding"]
        packed = {n: quantise(model.parameters[n].data, DTYPES[quantised]) for n in names}
        model.parameters.freeze(packed)
        model.parameters.let_go(packed)
    attach(model, lora, seed=2)
    rng = np.random.default_rng(3)
    for name, parameter in model.parameters.items():
        if name.endswith(".b"):
            parameter.data[...] = rng.standard_normal(parameter.shape) * 0.1
    return model


def gradients(model):
    model.parameters.zero_grad()
    loss = model.loss(TOKENS, TARGET_IDS)
    loss.backward()
    found = {name: p.grad.copy() for name, p in model.parameters.items() if p.requires_grad}
    assert all(p.grad is None for p in model.parameters.values() if not p.requires_grad)
    return loss.item(), found


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("targets", [(), ("qkv",), ("up", "down"), ("output",)])
def test_gradients_are_those_of_central_differences(kind, targets):
    model = with_adapters(CONFIGS[kind], np.float64, LoraConfig(rank=3, alpha=4.5, targets=targets))
    _, found = gradients(model)
    assert set(found) == {name for site in sites_of(model.config, targets) for name in adapter_names(site)}
    h = 1e-5
    for name, gradient in found.items():
        values, i = model.parameters[name].data.reshape(-1), int(np.abs(gradient).argmax())
        before, losses = values[i], []
        for moved in (before + h, before - h):
            values[i] = moved
            with no_grad():
                losses.append(model.loss(TOKENS, TARGET_IDS).item())
        values[i] = before
        assert gradient.reshape(-1)[i] == pytest.approx((losses[0] - losses[1]) / (2 * h), rel=1e-6, abs=1e-10)


def test_it_starts_from_the_model_as_it_is():
    for config in CONFIGS.values():
        plain = Decoder(config).initialise(1)
        model = Decoder(config).initialise(1)
        attach(model, LORA, seed=2)
        np.testing.assert_allclose(model.logits(TOKENS), plain.logits(TOKENS), rtol=0, atol=1e-6)
        assert model.parameters.n_trained < plain.parameters.size / 2
        assert all(np.shares_memory(model.parameters[n].data, p.data) is False for n, p in plain.parameters.items())


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize(
    ("quantised", "tolerance"),
    [
        ("bf16", 1e-5),  # exact but for the order of sums
        ("int8", 1e-3),  # products round activations to 16 bits
        ("int4", 5e-2),  # to 8 bits
        ("int4_min", 5e-2),
    ],
)
def test_a_quantised_base_gives_the_gradients_of_its_weights_in_float32(kind, quantised, tolerance):
    model = with_adapters(CONFIGS[kind], quantised=quantised)
    wide = with_adapters(CONFIGS[kind])
    for name, parameter in model.parameters.items():
        stored = parameter.storage
        wide.parameters[name].data[...] = parameter.data if stored.layout == "row-major" else dequantise(stored)
    loss, found = gradients(model)
    expected_loss, expected = gradients(wide)
    assert loss == pytest.approx(expected_loss, rel=tolerance)
    for name, gradient in found.items():
        assert np.linalg.norm(gradient - expected[name]) < tolerance * np.linalg.norm(expected[name]), name


@pytest.mark.parametrize("recompute", ["mlp", "block"])
def test_recomputation_and_dropout_change_no_bits(recompute):
    results = []
    for how in ("none", recompute):
        model = with_adapters(CONFIGS["llama"], lora=LoraConfig(rank=3, alpha=4.5, dropout=0.3))
        model.recompute, model.dropout.training, model.dropout.seed = how, True, 7
        results.append(gradients(model))
    assert results[0][0] == results[1][0]
    assert all(np.array_equal(results[0][1][name], results[1][1][name]) for name in results[0][1])
    model.dropout.training = False
    assert gradients(model)[0] != results[0][0]


@pytest.mark.parametrize("kind", CONFIGS)
def test_an_adapter_in_pefts_files_is_the_same_model(kind, tmp_path):
    config = CONFIGS[kind]
    model = with_adapters(config)
    gollm.LanguageModel(Decoder(config).initialise(1)).save(tmp_path / "base.golm")
    peft.write_adapter(tmp_path / "adapter", model, LORA, str(tmp_path / "base.golm"))
    logits = model.logits(TOKENS)
    loaded = gollm.load(tmp_path / "adapter")  # by the name of its base
    np.testing.assert_allclose(loaded.decoder.logits(TOKENS), logits, rtol=0, atol=2e-6)
    gollm.formats.convert(tmp_path / "base.golm", tmp_path / "merged.golm", merge=tmp_path / "adapter")
    np.testing.assert_allclose(gollm.load(tmp_path / "merged.golm").logits(TOKENS), logits, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'; gollm computes LORA; merge others into their model first"),
        ({"use_dora": True}, "use_dora is True, which gollm does not compute"),
        ({"bias": "all"}, "bias is 'all', which gollm does not compute"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern is {'q_proj': 2}"),
        ({"r": 0}, "r is 0 and lora_alpha"),
        ({"r": 2}, "F32 of shape (3, 32); the model needs (2, 32)"),
        ({"base_model_name_or_path": "nobody/nothing"}, "of the model 'nobody/nothing', which is not here; merge it"),
    ],
)
def test_adapters_that_are_refused(changes, message, tmp_path):
    config = CONFIGS["llama"]
    gollm.LanguageModel(Decoder(config).initialise(1)).save(tmp_path / "base.golm")
    peft.write_adapter(tmp_path / "adapter", with_adapters(config), LORA, str(tmp_path / "base.golm"))
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(FormatError) as error:
        open_model(tmp_path / "adapter")
    assert message in str(error.value)
    with open_model(tmp_path / "base.golm") as base, pytest.raises(FormatError, match="there is no adapter in"):
        with_adapter(base, tmp_path / "nothing")


def test_targets():
    llama, gpt2 = CONFIGS.values()
    assert sites_of(llama, ("qkv",)) == sites_of(llama, ("q", "k", "v"))
    assert {site.target for site in sites_of(llama)} == set(TARGETS) - {"qkv"}
    assert {site.target for site in sites_of(gpt2)} == {"qkv", "output", "up", "down"}
    with pytest.raises(ConfigError, match="no layer 'gate' for LoRA; it has qkv, output, up, down"):
        sites_of(gpt2, ("gate",))
    with pytest.raises(
        ConfigError, match=r"the LoRA rank is 17; at blocks.0.attention.qkv.weight it must be at most 16"
    ):
        attach(Decoder(llama), LoraConfig(rank=17, alpha=1, targets=("k",)), 0)
    with pytest.raises(ConfigError, match="--lora-alpha is of LoRA, which --lora-rank turns on"):
        FinetuneOptions(model="a", data=("b",), lora_alpha=3.0)


@pytest.mark.parametrize("weights", [None, "int8"])
def test_a_run_trains_adapters_alone_and_resumes(weights, options, base, tmp_path):
    model = str(base)
    if weights is not None:
        model = str(tmp_path / "narrow.golm")
        with open_model(base) as source:
            gollm.formats.save(source.quantised(DTYPES[weights]), model)
    run = {"model": model, "lora_rank": 4, "lora_dropout": 0.1, "steps": 10, "lr": 1e-2, "checkpoint_every": 3}
    run |= {"eval_every": 2, "sample_tokens": 3, "grad_accumulation": 2}
    files = ["adapter/adapter_model.safetensors", "adapter/adapter_config.json", "step-00000010.golm"]
    check_resumed(options, tmp_path, files, **run)
    with open_checkpoint(tmp_path / "whole" / "step-00000010.golm") as file:
        assert all(".adapter." in name for name in file.tensors)
    tuned = gollm.load(tmp_path / "whole")
    before = small_model().decoder.parameters["blocks.0.mlp.up.weight"].data
    assert not np.array_equal(tuned.decoder.parameters["blocks.0.mlp.up.weight"].data, before)
    tuned.chat([{"role": "user", "content": "1+1="}], max_new_tokens=2)


@pytest.mark.parametrize("task", ["sft", "classify"])
@pytest.mark.parametrize("weights", [None, "int8"])
def test_a_run_goes_on_with_its_own_base_model_alone(task, weights, options, tmp_path):
    def write(change):
        (tmp_path / "base.golm").unlink(missing_ok=True)
        model = small_model()
        model.decoder.parameters["blocks.1.mlp.down.weight"].data[3, 4] += change  # one number
        model.save(tmp_path / "wide.golm")
        with open_model(tmp_path / "wide.golm") as source:
            narrow = source if weights is None else source.quantised(DTYPES[weights])
            gollm.formats.save(narrow, tmp_path / "base.golm")

    data = {}
    if task == "classify":
        records = [{"text": f"{i} is", "label": i % 2} for i in range(12)]
        data = {"data": (str(write_lines(tmp_path / "labels.jsonl", records)),), "task": task}
    write(0)
    gollm.finetune(options(model=str(tmp_path / "base.golm"), lora_rank=2, steps=3, **data))
    folder = str(tmp_path / "run")
    before = {path.name: path.read_bytes() for path in Path(folder).glob("*.golm")}
    write(0.1)
    with pytest.raises(TrainingError, match=r"the weights of .*base\.golm are not those that the interrupted run has"):
        gollm.finetune(FinetuneOptions(resume=folder, steps=5))
    assert before == {path.name: path.read_bytes() for path in Path(folder).glob("*.golm")}
    write(0)
    assert gollm.finetune(FinetuneOptions(resume=folder, steps=5)).steps == 5


def test_an_adapter_brings_the_template_that_it_was_trained_with(finetune, tmp_path):
    small_model(template=None).save(tmp_path / "plain.golm")
    result = finetune(model=str(tmp_path / "plain.golm"), lora_rank=2, steps=2, validation_fraction=0.0)
    gollm.load(result.folder).chat([{"role": "user", "content": "1+1="}], max_new_tokens=2)


@pytest.mark.parametrize("quantised", [None, "int8"])
def test_several_adapters_share_one_model_in_memory(quantised, tmp_path):
    base = small_model()
    if quantised is not None:
        base.save(tmp_path / "wide.golm")
        with open_model(tmp_path / "wide.golm") as source:
            gollm.formats.save(source.quantised(DTYPES[quantised]), tmp_path / "narrow.golm")
        base = gollm.load(tmp_path / "narrow.golm")
    before = base.logits(TOKENS)
    models = []
    for number, targets in enumerate([(), ("q", "down")]):
        decoder = small_model().decoder
        attach(decoder, LoraConfig(rank=3, alpha=6.0, targets=targets), seed=number)
        for name, parameter in decoder.parameters.items():
            if name.endswith(".b"):
                parameter.data[...] = np.random.default_rng(number).standard_normal(parameter.shape) * 0.1
        folder = tmp_path / str(number)
        peft.write_adapter(folder, decoder, LoraConfig(rank=3, alpha=6.0, targets=targets), "nothing", "{{ number }}")
        models.append((base.with_adapter(folder), decoder))
    for model, decoder in models:
        tolerance = {"rtol": 0, "atol": 1e-6} if quantised is None else {"rtol": 0.05, "atol": 0.02}
        np.testing.assert_allclose(model.logits(TOKENS), decoder.logits(TOKENS), **tolerance)
        for name, parameter in base.decoder.parameters.items():
            assert np.shares_memory(parameter.storage.array, model.decoder.parameters[name].storage.array)
        assert model.defaults.chat_template == "{{ number }}"
        ids = model.tokenizer.encode("1+1=").tolist()  # the text that is likeliest without a cache
        for _ in range(6):
            ids.append(int(model.logits(ids)[0, -1].argmax()))
        written = model.generate("1+1=", max_new_tokens=6, temperature=0)
        assert model.tokenizer.decode(ids).startswith("1+1=" + written) and (
            written or ids[4] in model.defaults.stop_tokens
        )
    assert not np.array_equal(models[0][0].logits(TOKENS), models[1][0].logits(TOKENS))
    assert np.array_equal(base.logits(TOKENS), before)
    with pytest.raises(FormatError, match="there is no adapter in"):
        base.with_adapter(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="this model has an adapter already"):
        models[0][0].with_adapter(tmp_path / "1")
