"""gollm's own files: a file is a model's memory already, what it says about generating survives, and old ones open."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import gollm
from gollm.errors import CheckpointError, FormatError
from gollm.formats import convert, open_model
from gollm.formats.golm.checkpoint import checkpoint_info, open_checkpoint, strip, write_checkpoint
from gollm.language_model import LanguageModel
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder
from gollm.model.generation_defaults import GenerationDefaults
from gollm.nn.optimizer import AdamW
from gollm.tokenizers import CharacterTokenizer

TOKENIZER = CharacterTokenizer.train("to be or not to be")
# Sizes that leave gaps behind tensors.
CONFIG = ModelConfig(n_layers=2, n_heads=3, d_model=21, vocab_size=TOKENIZER.vocab_size, context=9)
DEFAULTS = GenerationDefaults(
    stop_tokens=(1, 5), bos_token=0, pad_token=2, temperature=0.5, top_k=3, top_p=0.9, chat_template="{{ messages }}"
)


@pytest.fixture
def model() -> LanguageModel:
    model = LanguageModel(Decoder(CONFIG).initialise(1), TOKENIZER, DEFAULTS)
    for parameter in model.decoder.parameters.values():
        parameter.data[...] += 0.125  # biases and norms, too, are told apart
    return model


def values(model: LanguageModel) -> dict[str, np.ndarray]:
    return {name: parameter.data.copy() for name, parameter in model.decoder.parameters.items()}


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_a_model_comes_back_whole(tmp_path, model):
    model.save(tmp_path / "a.golm")
    again = gollm.load(tmp_path / "a.golm")
    assert again.config == CONFIG and again.defaults == DEFAULTS
    assert again.tokenizer.to_state()[0] == TOKENIZER.to_state()[0]
    assert np.array_equal(again.decoder.parameters.weights, model.decoder.parameters.weights)
    again.save(tmp_path / "b.golm")
    convert(tmp_path / "a.golm", tmp_path / "c.golm", "golm")
    assert (tmp_path / "a.golm").read_bytes() == (tmp_path / "b.golm").read_bytes()
    assert (tmp_path / "a.golm").read_bytes() == (tmp_path / "c.golm").read_bytes()


def test_windows_of_some_layers_come_back(tmp_path):
    config = CONFIG.replace(sliding_window=4, window_layers=(1,))
    LanguageModel(Decoder(config).initialise(1), TOKENIZER, DEFAULTS).save(tmp_path / "a.golm")
    again = gollm.load(tmp_path / "a.golm")
    assert again.config == config and [b.attention.heads["window"] for b in again.decoder.blocks] == [0, 4]


def test_weights_are_the_files_own_memory(tmp_path, model):
    model.save(tmp_path / "a.golm")
    with open_model(tmp_path / "a.golm") as source:
        weights = source.weights()
    base = weights
    while isinstance(base, np.ndarray):
        base = base.base
    assert type(base if not isinstance(base, memoryview) else base.obj).__name__ == "mmap"
    assert weights.ctypes.data % 64 == 0


def test_what_is_written_to_weights_never_reaches_the_file(tmp_path, model):
    path = tmp_path / "a.golm"
    model.save(path)
    before = path.read_bytes()
    loaded, other = gollm.load(path), gollm.load(path)
    optimizer = AdamW(loaded.decoder.parameters)
    ids = np.zeros((1, 4), np.int32)
    for _ in range(3):
        loaded.decoder.loss(ids, ids).backward()
        optimizer.step(0.1)
    assert not same(values(loaded), values(model))
    assert path.read_bytes() == before and same(values(other), values(model))


def test_a_file_that_is_replaced_leaves_a_loaded_model_alone(tmp_path, model):
    path = tmp_path / "a.golm"
    model.save(path)
    loaded = gollm.load(path)
    LanguageModel(Decoder(CONFIG), TOKENIZER).save(path)
    assert same(values(loaded), values(model))
    loaded.save(path)  # over the file that it was loaded from
    again = gollm.load(path)
    again.save(path)
    os.unlink(path)
    assert same(values(again), values(model))


def test_files_in_another_order_are_copied(tmp_path, model):
    tensors = values(model)
    write_checkpoint(tmp_path / "old.golm", config=CONFIG.to_dict(), tensors=tensors)
    with open_model(tmp_path / "old.golm") as source:
        assert source.weights() is None
    loaded = gollm.load(tmp_path / "old.golm")
    assert same(values(loaded), tensors)
    assert loaded.tokenizer is None and loaded.defaults == GenerationDefaults()
    loaded.save(tmp_path / "new.golm")
    with open_model(tmp_path / "new.golm") as source:
        assert source.weights() is not None


def test_bytes_between_tensors_count_nothing(tmp_path, model):
    path = tmp_path / "a.golm"
    model.save(path)
    with open_checkpoint(path) as file:
        entries, start = file.header.entries, file.header.data_start
    data = bytearray(path.read_bytes())
    forged = 0
    for entry in entries.values():
        for at in range(start + entry.offset + entry.n_bytes, start + entry.offset + -(-entry.n_bytes // 64) * 64):
            data[at] = 0x7F
            forged += 1
    assert forged > 100
    path.write_bytes(data)
    loaded = gollm.load(path)
    assert np.array_equal(loaded.decoder.parameters.weights, model.decoder.parameters.weights)


def test_bfloat16_halves_the_file_and_keeps_eight_bits(tmp_path, model):
    model.save(tmp_path / "a.golm")
    convert(tmp_path / "a.golm", tmp_path / "b.golm", "golm", "bf16")
    sizes = [checkpoint_info(tmp_path / name)["bytes"]["weights"] for name in ("a.golm", "b.golm")]
    assert sizes[1] < 0.56 * sizes[0]
    before, after = values(model), values(gollm.load(tmp_path / "b.golm", dequantise=True))
    for name, array in before.items():
        if array.ndim == 1:
            assert np.array_equal(after[name], array)
        else:
            assert np.abs(after[name] - array).max() <= 2**-8 * np.abs(array).max() and not np.array_equal(
                after[name], array
            )
    convert(tmp_path / "b.golm", tmp_path / "c.golm", "golm", "bf16")
    assert (tmp_path / "c.golm").read_bytes() == (tmp_path / "b.golm").read_bytes()


def test_stripping_keeps_order_and_defaults(tmp_path, model):
    path = tmp_path / "a.golm"
    model.save(path)
    before = path.read_bytes()
    strip(path, path)
    assert path.read_bytes() == before


def test_weights_of_another_configuration_are_refused(tmp_path, model):
    tensors = values(model)

    def refused(words, config=CONFIG, **changes):
        write_checkpoint(tmp_path / "x.golm", config=config.to_dict(), tensors={**tensors, **changes})
        with pytest.raises(CheckpointError, match=words):
            gollm.load(tmp_path / "x.golm")

    refused("token_embedding.*float32|f64", token_embedding=tensors["token_embedding"].astype(np.float64))
    refused("token_embedding.*shape", token_embedding=tensors["token_embedding"][1:])
    refused("'head' is missing", config=CONFIG.replace(tied_head=False))
    refused("too few for 2000 layers", config=CONFIG.replace(n_layers=2000))
    assert issubclass(CheckpointError, FormatError)


@pytest.mark.parametrize(
    ("generation", "words"),
    [
        ({"stop_tokens": 3}, "stop_tokens is 3; it must be a list of token ids"),
        ({"stop_tokens": [1, -1]}, "it must be a list of token ids"),
        ({"stop_tokens": [True]}, "it must be a list of token ids"),
        ({"bos_token": 2**31}, "bos_token is 2147483648; it must be a token id"),
        ({"pad_token": None}, "pad_token is None; it must be a token id"),
        ({"temperature": -1}, "temperature is -1; it must be 0 or a positive number"),
        ({"temperature": True}, "temperature is True"),
        ({"top_k": 1.5}, "top_k is 1.5; it must be 0"),
        ({"top_p": 0}, "top_p is 0; it must be above 0"),
        ({"chat_template": ["x" * 10_000]}, "chat_template is .{,60}; it must be text"),
        ({"top_q": 1}, "'top_q' is unknown; known are stop_tokens"),
    ],
)
def test_defaults_that_are_not_allowed_are_refused_by_name(tmp_path, generation, words):
    tensors = {name: parameter.data for name, parameter in Decoder(CONFIG).parameters.items()}
    write_checkpoint(tmp_path / "x.golm", config=CONFIG.to_dict(), tensors=tensors, generation=generation)
    with pytest.raises(CheckpointError, match=words):
        gollm.load(tmp_path / "x.golm")


def test_defaults_round_trip_one_by_one():
    for name, value in DEFAULTS.to_dict().items():
        defaults = GenerationDefaults.from_dict({name: value})
        assert defaults.to_dict() == {name: value}
    assert GenerationDefaults().to_dict() == {}


LOAD = textwrap.dedent("""
    import sys
    import gollm
    import gollm.formats.golm.model, gollm.language_model  # modules are not what is measured

    def peak():
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))

    before = peak()
    model = gollm.load(sys.argv[1])
    opened = peak() - before
    float(model.decoder.parameters.weights.sum())  # all of it
    print(opened, peak() - before)
""")


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak as Linux reports it")
def test_opening_takes_no_memory_and_use_takes_the_model_once(tmp_path):
    config = ModelConfig(n_layers=2, n_heads=4, d_model=512, vocab_size=16384, context=64)
    LanguageModel(Decoder(config)).save(tmp_path / "a.golm")
    size = (tmp_path / "a.golm").stat().st_size // 1024
    convert(tmp_path / "a.golm", tmp_path / "b.golm", "golm", "bf16")
    for name, opened_at_most in (("a.golm", 0.1), ("b.golm", 1.1)):
        done = subprocess.run(
            [sys.executable, "-c", LOAD, str(tmp_path / name)], capture_output=True, text=True, check=True
        )
        opened, used = map(int, done.stdout.split())
        assert opened < opened_at_most * size and used < 1.1 * size
