"""Model configurations: presets, aliases, and mistakes that are refused by name."""

import json
import re
from pathlib import Path

import pytest

from gollm.errors import ConfigError
from gollm.model.config import ALIASES, PRESETS, ModelConfig, preset
from gollm.model.decoder import Decoder

PARAMETERS = {
    "d12": 124_439_808,
    "d24": 354_823_168,
    "d36": 774_030_080,
    "d48": 1_557_611_200,
    "gollm-85m": 86_526_720,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "llama-3-8b": 8_030_261_248,
    "tinyllama-1.1b": 1_100_048_384,
    "smollm-135m": 134_515_008,
    "smollm-360m": 361_821_120,
    "qwen-2.5-0.5b": 494_032_768,
}  # as the papers and files of their authors


@pytest.mark.parametrize("name", PARAMETERS)
def test_presets_have_their_originals_parameters(name):
    assert Decoder(preset(name)).parameters.n_parameters == PARAMETERS[name]


def test_presets_by_other_names():
    assert preset("gpt2") is preset("gpt2:d12") is PRESETS["d12"]
    with pytest.raises(ConfigError, match=r"'huge'.*tiny"):
        preset("huge")


@pytest.mark.parametrize("config", PRESETS.values(), ids=PRESETS)
def test_dict_round_trip(config):
    assert ModelConfig.from_dict(config.to_dict()) == config


def test_every_alias_names_a_field():
    fields = ModelConfig().to_dict()
    assert set(ALIASES.values()) <= fields.keys()
    assert not set(ALIASES) & fields.keys()


def test_the_documentation_lists_every_alias():
    page = (Path(__file__).parent.parent / "docs" / "training.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (`.*`) \|$", page, re.M))
    documented = {alias: field for field, names in rows.items() for alias in re.findall(r"`(\w+)`", names)}
    assert {alias: documented.get(alias) for alias in ALIASES} == ALIASES


def test_names_of_other_projects_are_understood():
    nanogpt = {"n_layer": 6, "n_head": 6, "n_embd": 384, "block_size": 256, "vocab_size": 65}
    config = ModelConfig.from_dict(nanogpt)
    assert (config.n_layers, config.n_heads, config.d_model, config.context) == (6, 6, 384, 256)
    assert (
        ModelConfig.from_dict({"hidden_size": 64, "num_heads": 2, "activation_function": "gelu_new"}).activation
        == "gelu_tanh"
    )


def test_a_preset_can_be_changed():
    config = ModelConfig.from_dict({"preset": "tiny", "d_model": 96, "n_heads": 3})
    assert (config.n_layers, config.head_dim, config.d_ff, config.n_kv_heads) == (2, 32, 384, 3)
    assert ModelConfig.from_dict({"preset": "tiny", "d_model": 16, "head_dim": 4}).d_ff == 64
    assert ModelConfig.from_dict({"preset": "tiny", "n_heads": 4, "d_ff": 50}).head_dim == 16
    grouped = ModelConfig.from_dict({"preset": "llama-3.2-1b", "n_heads": 16})
    assert (grouped.n_kv_heads, grouped.head_dim) == (8, 128)
    with pytest.raises(ConfigError, match=r"n_kv_heads is 8; it must divide n_heads \(12\)"):
        ModelConfig.from_dict({"preset": "llama-3.2-1b", "n_heads": 12, "head_dim": 64})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"n_layrs": 2}, ["n_layrs", "did you mean n_layers"]),
        ({"n_layers": 0}, ["n_layers", "0", "1"]),
        ({"n_layers": 2**31 - 1}, ["n_layers", "at most 2048"]),
        ({"n_layers": "two"}, ["n_layers", "'two'"]),
        ({"n_layers": True}, ["n_layers", "true"]),
        ({"n_heads": 5, "d_model": 64}, ["n_heads", "5", "64"]),
        ({"n_heads": 4, "n_kv_heads": 3}, ["n_kv_heads", "3", "4"]),
        ({"d_model": 1024, "n_heads": 2}, ["head_dim", "512", "256"]),
        ({"activation": "tanh"}, ["activation", "'tanh'", "silu"]),
        ({"activation": ["silu"]}, ["activation", "['silu']", "silu"]),
        ({"norm": "batchnorm"}, ["norm", "'batchnorm'", "rmsnorm"]),
        ({"position": "alibi"}, ["position", "'alibi'", "rope"]),
        ({"position": "rope", "d_model": 60, "n_heads": 4}, ["head_dim", "15", "even"]),
        ({"rope_scaling": "linear"}, ["rope_scaling", "'linear'", "learned"]),
        ({"position": "rope", "rope_scaling": "yarn"}, ["rope_scaling", "'yarn'", "llama3"]),
        ({"position": "rope", "rope_scaling": "llama3"}, ["rope_original_context", "None"]),
        ({"position": "rope", "rope_theta": 0.5}, ["rope_theta", "0.5"]),
        ({"rope_original_context": -1}, ["rope_original_context", "-1"]),
        ({"position": "rope", "rope_original_context": "x"}, ["rope_original_context", "'x'"]),
        ({"sliding_window": 0}, ["sliding_window", "0"]),
        ({"window_layers": [0]}, ["window_layers", "[0]", "no sliding_window"]),
        ({"sliding_window": 8, "window_layers": [0, 12]}, ["window_layers", "[0, 12]", "0 to 11"]),
        ({"sliding_window": 8, "window_layers": [-1]}, ["window_layers", "[-1]"]),
        ({"sliding_window": 8, "window_layers": [True]}, ["window_layers", "[True]"]),
        ({"sliding_window": 8, "window_layers": "all"}, ["window_layers", "'all'"]),
        ({"sliding_window": 8, "window_layers": 3}, ["window_layers", "3"]),
        ({"qkv_bias": "yes"}, ["qkv_bias", "'yes'"]),
        ({"gated_mlp": 1}, ["gated_mlp", "1", "true or false"]),
        ({"dropout": 1.0}, ["dropout", "1.0"]),
        ({"dropout": float("nan")}, ["dropout", "nan"]),
        ({"bias": 1}, ["bias", "1", "true or false"]),
        ({"n_embd": 64, "d_model": 64}, ["d_model", "twice"]),
        ({"context": 2**40}, ["context", str(2**40)]),
    ],
)
def test_mistakes_are_refused_by_name(values, words):
    with pytest.raises(ConfigError) as error:
        ModelConfig.from_dict(values, where="file.yaml")
    for word in ["file.yaml", *words]:
        assert word in str(error.value)


def test_files(tmp_path):
    (tmp_path / "a.yaml").write_text("preset: tiny\nn_layer: 3\n")
    (tmp_path / "b.json").write_text('{"preset": "tiny", "n_layers": 3}')
    assert ModelConfig.from_file(tmp_path / "a.yaml") == ModelConfig.from_file(tmp_path / "b.json")
    for name, text in {"c.yaml": "[1, 2]", "d.json": "{", "e.yaml": "a: [", "f.json": "[" * 100_000}.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(ConfigError, match=name):
            ModelConfig.from_file(tmp_path / name)
    with pytest.raises(ConfigError, match=r"missing\.yaml"):
        ModelConfig.from_file(tmp_path / "missing.yaml")


def test_windows_of_some_layers():
    """One configuration however it is said, the same again from JSON, and old files without the field load."""
    some = ModelConfig(n_layers=4, sliding_window=8, window_layers=(2, 0, 2))
    assert [some.window(i) for i in range(4)] == [8, None, 8, None]
    assert some == ModelConfig.from_dict(json.loads(json.dumps(some.to_dict())))
    assert some.to_dict()["window_layers"] == [0, 2]
    everywhere = some.replace(window_layers=(0, 1, 2, 3))
    assert everywhere == ModelConfig(n_layers=4, sliding_window=8) and everywhere.window(3) == 8
    nowhere = some.replace(window_layers=())
    assert nowhere == ModelConfig(n_layers=4) and nowhere.window(0) is None
    old = {name: value for name, value in everywhere.to_dict().items() if name != "window_layers"}
    assert ModelConfig.from_dict(old) == everywhere
    assert ModelConfig.from_dict({"preset": "tiny", "sliding_window": 8, "window_layers": [1]}).window(1) == 8


ROTARY = ModelConfig(position="rope", norm="rmsnorm", gated_mlp=True, bias=False, context=100)


def test_a_longer_context_scales_what_is_there():
    assert ROTARY.with_context(100) is ROTARY.with_context(100, "linear") is ROTARY
    assert ROTARY.with_context(40) == ROTARY.replace(context=40)
    assert ROTARY.with_context(400, "none") == ROTARY.replace(context=400)
    linear = ROTARY.with_context(400, "linear")
    assert linear == ROTARY.replace(context=400, rope_scaling="linear", rope_factor=4.0)
    assert linear.with_context(800, "linear").rope_factor == 8.0
    assert linear.with_context(800, "none") == linear.replace(context=800)
    llama3 = ROTARY.with_context(400, "llama3")
    assert (llama3.rope_scaling, llama3.rope_factor, llama3.rope_original_context) == ("llama3", 4.0, 100)
    longer = llama3.with_context(800, "llama3")
    assert (longer.rope_factor, longer.rope_original_context) == (8.0, 100)


@pytest.mark.parametrize(
    ("config", "context", "scaling", "words"),
    [
        (ModelConfig(), 2048, "linear", ["2048", "1024 positions", "rotary"]),
        (ModelConfig(), 512, None, ["512", "1024 positions"]),
        (ROTARY, 400, None, ["400", "100", "linear, llama3 or none"]),
        (ROTARY, 400, "yarn", ["'yarn'", "none, linear, llama3"]),
        (ROTARY, 40, "linear", ["'linear'", "40", "100"]),
        (ROTARY, 0, None, ["context is 0"]),
        (ROTARY.with_context(400, "llama3"), 800, "linear", ["'linear'", "'llama3' already"]),
    ],
)
def test_a_context_that_cannot_be(config, context, scaling, words):
    with pytest.raises(ConfigError) as error:
        config.with_context(context, scaling)
    for word in words:
        assert word in str(error.value)
