"""A model goes through one format after the other, and comes back bit for bit."""

import numpy as np
import pytest

import gollm
from gollm.formats import convert, format_named
from gollm.language_model import LanguageModel
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder
from gollm.tokenizers import BPETokenizer

TOKENIZER = BPETokenizer.train("to be or not to be, that is the question " * 3, 270, special_tokens=["<|endoftext|>"])
GPT2 = ModelConfig(n_layers=2, n_heads=2, d_model=32, vocab_size=TOKENIZER.vocab_size, context=16)
LLAMA = ModelConfig(
    n_layers=2, n_heads=4, n_kv_heads=2, d_model=32, d_ff=64, vocab_size=TOKENIZER.vocab_size, context=16,
    norm="rmsnorm", position="rope", gated_mlp=True, activation="silu", bias=False, tied_head=False,
)  # fmt: skip


@pytest.mark.parametrize(
    ("config", "formats"),
    [
        (GPT2, ["huggingface", "llm.c", "gguf", "json", "golm"]),
        (LLAMA, ["huggingface", "llama2.c", "gguf", "json", "golm"]),
        (LLAMA.replace(sliding_window=4, window_layers=(1,)), ["huggingface", "json", "golm"]),
    ],
    ids=["gpt2", "llama", "windows in some layers"],
)
def test_through_all_formats(tmp_path, config, formats):
    if "gguf" in formats:
        pytest.importorskip("gguf")
    model = LanguageModel(Decoder(config).initialise(3), TOKENIZER)
    generator = np.random.default_rng(0)
    for parameter in model.decoder.parameters.values():
        parameter.data[...] += generator.standard_normal(parameter.shape, dtype=np.float32)
    path = tmp_path / "model.golm"
    model.save(path)
    for i, name in enumerate(formats):
        target = tmp_path / f"{i}.{name.replace('.', '')}"
        convert(path, target, name)
        assert format_named(name).recognises(target)
        path = target
        again = gollm.load(path)
        assert again.config.family == config.family
        for key, parameter in model.decoder.parameters.items():
            np.testing.assert_array_equal(again.decoder.parameters[key].data, parameter.data, err_msg=f"{name} {key}")
    ids = np.arange(10)
    np.testing.assert_array_equal(again.logits(ids), model.logits(ids))
