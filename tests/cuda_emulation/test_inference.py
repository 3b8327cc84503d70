"""Generation and evaluation on an emulated GPU: the CPU's tokens in float32."""

import json

import numpy as np
import pytest

import gollm
from gollm import Engine
from gollm.cli.main import main
from gollm.errors import DTypeError
from gollm.language_model import LanguageModel
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder
from gollm.tokenizers import CharacterTokenizer

SHAPES = {
    "GPT-2": {"n_heads": 2},
    "LLaMA": {
        "n_heads": 4,
        "n_kv_heads": 2,
        "norm": "rmsnorm",
        "position": "rope",
        "gated_mlp": True,
        "activation": "silu",
    },
}


@pytest.fixture(scope="module", params=SHAPES)
def path(request, tmp_path_factory):
    """A model with large weights, so that it has opinions."""
    tokenizer = CharacterTokenizer.train(["abcdefgh ijklmnop.\n"])
    config = ModelConfig(n_layers=2, d_model=32, context=48, vocab_size=tokenizer.vocab_size, **SHAPES[request.param])
    decoder = Decoder(config).initialise(3)
    for parameter in decoder.parameters.values():
        if parameter.std:
            parameter.data[...] *= 8
    path = tmp_path_factory.mktemp("model") / "model.golm"
    LanguageModel(decoder, tokenizer).save(path)
    return path


def both(path, **options):
    return gollm.load(path), gollm.load(path, device="cuda", **options)


def test_logits_are_the_cpus(gpu, path):
    ids = np.arange(34).reshape(2, 17) % 19
    expected = gollm.load(path).logits(ids)
    np.testing.assert_allclose(gollm.load(path, device="cuda").logits(ids), expected, rtol=1e-3, atol=1e-4)
    narrow = gollm.load(path, device="auto", dtype="bfloat16")
    assert narrow.decoder.parameters["token_embedding"].storage.is_plain_bfloat16
    assert np.abs(narrow.logits(ids) - expected).max() < 0.05 * np.abs(expected).max()
    ours, theirs = (model.embed(["abc", "de"]) for model in both(path))
    np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-4)


def test_texts_are_the_cpus(gpu, path):
    """Past the context too, at several temperatures: most tokens are drawn on the device, many in a call."""
    ours, theirs = both(path)
    for options in ({"temperature": 0.0}, {"temperature": 0.9, "top_k": 5, "seed": 4}, {"top_p": 0.8, "seed": 1}):
        options = {"max_new_tokens": 60, **options}
        assert theirs.generate("abc", **options) == ours.generate("abc", **options)


def test_the_engine_generates_texts_together(gpu, path):
    ours, theirs = both(path)
    prompts = ["abc", "abcdefgh ijk", "p"]
    options = {"max_new_tokens": 12, "logprobs": 2, "repetition_penalty": 1.2, "n": 2, "seed": 5}
    found = []
    for model in (ours, theirs):
        with Engine(model, max_tokens_in_cache=512, draft=2) as engine:
            found.append(engine.generate(prompts, **options))
    for mine, other in zip(*found, strict=True):
        assert [choice.tokens for choice in other.choices] == [choice.tokens for choice in mine.choices]
        scores = [[one.logprob for one in completion.logprobs] for completion in (mine, other)]
        np.testing.assert_allclose(scores[1], scores[0], rtol=1e-3, atol=1e-4)
    with Engine(theirs, max_tokens_in_cache=512) as engine, Engine(ours, max_tokens_in_cache=512) as other:
        one, two = (e.submit("ab", beams=3, max_new_tokens=6).result() for e in (engine, other))
        assert one.tokens == two.tokens


def test_narrow_pages_and_models(gpu, path):
    model = gollm.load(path, device="cuda", dtype="bfloat16")
    texts = [model.generate("abc", max_new_tokens=20, seed=2) for _ in range(2)]
    assert texts[0] == texts[1]
    with Engine(gollm.load(path, device="cuda"), cache_dtype="bfloat16") as engine:
        assert len(engine.submit("abc", max_new_tokens=20).result().tokens) == 20


@pytest.mark.parametrize("dtype", ["int8", "int4", "bf16"])
def test_narrow_weights_are_used_as_they_are(gpu, path, tmp_path, dtype):
    narrow = tmp_path / "narrow.golm"
    assert main(["quantize", str(path), str(narrow), "--weights", dtype]) == 0
    ours, theirs = both(narrow)
    assert theirs.decoder.parameters["blocks.0.mlp.up.weight"].storage.layout == "panels"
    for options in ({"temperature": 0.0}, {"temperature": 0.7, "seed": 3}):
        assert theirs.generate("abc", max_new_tokens=25, **options) == ours.generate(
            "abc", max_new_tokens=25, **options
        )
    if dtype == "bf16":
        plain = gollm.load(narrow, device="cuda", dtype="bfloat16").decoder.parameters["blocks.0.mlp.up.weight"]
        np.testing.assert_array_equal(
            plain.data, gollm.load(narrow, dequantise=True).decoder.parameters[plain.name].data
        )
    else:
        with pytest.raises(DTypeError, match="is quantised, and such a model computes in float32"):
            gollm.load(narrow, device="cuda", dtype="bfloat16")


def test_commands(gpu, path, tmp_path, capsys):
    texts = []
    for device in ("cpu", "cuda", "auto"):
        assert main(["generate", str(path), "--prompt", "abc", "--max-new-tokens", "20", "--device", device]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] == texts[2]
    (tmp_path / "text.txt").write_text("abcdefgh ijk. mnop\n" * 20)
    found = []
    for device in ("cpu", "cuda"):
        assert main(["eval", str(path), "--data", str(tmp_path / "text.txt"), "--device", device, "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[1]["perplexity"] == pytest.approx(found[0]["perplexity"], rel=1e-3)
    assert main(["doctor", "--no-measure"]) == 0
    assert "GPU        emulated GPU, compute capability 8.0" in capsys.readouterr().out


def test_a_saved_model_is_the_one_that_was_loaded(gpu, path, tmp_path):
    gollm.load(path, device="cuda").save(tmp_path / "again.golm")
    assert (tmp_path / "again.golm").read_bytes() == path.read_bytes()
