"""The ready-made configurations load, are what their comments say, and train where that is quick."""

from pathlib import Path

import pytest

import gollm
from gollm import TrainOptions
from gollm.model.decoder import Decoder
from gollm.options import from_mapping, load_file

FOLDER = Path(__file__).parents[2] / "configs"
FILES = sorted(FOLDER.glob("*.yaml"))
MILLIONS = {
    "gpt2-124m": (50257, 124.4),
    "python-small": (1000, 0.94),
    "shakespeare-char": (65, 0.81),
    "shakespeare-char-10m": (65, 10.8),
    "stories-30m": (8192, 29.7),
    "gollm-85m": (32768, 86.5),
    "shakespeare-box": (1024, 1.8),
    "smollm-135m": (49152, 134.5),
    "smollm-360m": (49152, 361.8),
    "qwen-2.5-0.5b": (151936, 494.0),
    "tinyllama-1.1b": (32000, 1100.0),
    "llama-3.2-1b": (128256, 1235.8),
    "llama-3.2-3b": (128256, 3212.7),
    "llama-3-8b": (128256, 8030.3),
}


def test_all_are_here():
    assert {path.stem for path in FILES} == set(MILLIONS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_loads_and_has_the_size_that_it_says(path):
    options = from_mapping(TrainOptions, load_file(path), str(path))
    vocab_size, millions = MILLIONS[path.stem]
    config = options.model_config(vocab_size)
    assert Decoder(config).parameters.n_parameters / 1e6 == pytest.approx(millions, abs=0.06)


@pytest.mark.parametrize("name", ["shakespeare-char", "python-small", "gollm-85m"])
def test_it_trains(name, corpus, tmp_path):
    options = from_mapping(TrainOptions, load_file(FOLDER / f"{name}.yaml"), name)
    small = {"n_layers": 2, "d_model": 96, "n_heads": 3, "n_kv_heads": 1, "head_dim": 32, "context": 64}
    if name == "gollm-85m":
        options = options.replace(vocab_size=300, grad_accumulation=1, epochs=None, **small)
    short = options.replace(
        data=(str(corpus),),
        out=str(tmp_path / "run"),
        steps=2,
        eval_batches=1,
        sample_tokens=5,
        batch_size=2,
        warmup_steps=1,
    )
    assert gollm.train(short).steps == 2


def test_what_is_spelled_out_is_the_default():
    spelled = from_mapping(TrainOptions, load_file(FOLDER / "python-small.yaml"), "python-small.yaml")
    shape = spelled.model_config(), spelled.vocab_size, spelled.tokenizer
    default = TrainOptions()
    assert shape == (default.model_config(), default.model_config().vocab_size, default.tokenizer)
    assert spelled.replace(vocab_size=None) == default
