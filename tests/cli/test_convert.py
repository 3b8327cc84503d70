"""gollm convert, and gollm info and generate of what it wrote."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import gollm
from gollm import tokenizers
from gollm.formats.golm.checkpoint import write_checkpoint
from gollm.language_model import LanguageModel
from gollm.model.config import preset
from gollm.model.decoder import Decoder
from gollm.model.generation_defaults import GenerationDefaults
from gollm.tokenizers import BPETokenizer

from .conftest import Run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    tokenizer = BPETokenizer.train("hello world, this is a text\n" * 3, 270, special_tokens=["<|endoftext|>"])
    decoder = Decoder(preset("tiny").replace(vocab_size=tokenizer.vocab_size)).initialise(0)
    LanguageModel(decoder, tokenizer).save(tmp_path / "model.golm")
    return tmp_path / "model.golm"


def test_there_and_back(model: Path, run: Run) -> None:
    folder, back = model.parent / "folder", model.parent / "back.golm"
    n = f"{gollm.load(model).decoder.parameters.n_parameters:,} parameters"
    status, out, err = run("convert", model, folder)
    size = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    assert (status, out, err) == (0, f"{folder}: huggingface, {n} as F32, bpe with 270 tokens, {size:.1f} MB\n", "")
    status, out, err = run("convert", "--source", folder, "--target", back, "--to", "golm", "--dtype", "f32")
    size = back.stat().st_size / 1e6
    assert (status, out, err) == (0, f"{back}: golm, {n}, bpe with 270 tokens, {size:.1f} MB\n", "")
    first, second, third = (gollm.load(path) for path in (model, folder, back))
    for name, parameter in first.decoder.parameters.items():
        np.testing.assert_array_equal(second.decoder.parameters[name].data, parameter.data)
        np.testing.assert_array_equal(third.decoder.parameters[name].data, parameter.data)
    words = ["--prompt", "hello", "--max-new-tokens", "8", "--temperature", "0"]
    assert run("generate", folder, *words).out == run("generate", model, *words).out
    assert json.loads(run("generate", folder, *words, "--json").out)["model"] == str(folder)


def test_the_tree_of_a_run(model: Path, run: Run) -> None:
    (model.parent / "run").mkdir()
    model.rename(model.parent / "run" / "step-00000010.golm")
    assert run("convert", model.parent / "run", model.parent / "out", "--dtype", "bf16").status == 0
    found = run("info", model.parent / "out").out
    for part in ("out, huggingface", " as BF16", "n_layers 2", "bpe, 270 tokens", "stop_tokens 269, bos_token 269"):
        assert part in found
    assert gollm.load(model.parent / "run").config == gollm.load(model.parent / "out").config.replace(
        mlp_bias=None, qkv_bias=None, output_bias=None
    )


def test_info_of_a_folder(model: Path, run: Run) -> None:
    folder = model.parent / "folder"
    run("convert", model, folder, "--dtype", "f16")
    (folder / "generation_config.json").write_text('{"eos_token_id": [3, 4], "temperature": 0.5}')
    (folder / "tokenizer.json").unlink()
    found = run("info", folder, "--tensors").out
    for part in (
        " as F16",
        "none: the folder",
        "stop_tokens 3 4, bos_token 269, temperature 0.5",
        "\ntoken_embedding ",
    ):
        assert part in found
    document = json.loads(run("info", folder, "--json").out)
    assert (document["format"], document["dtype"]) == ("huggingface", "F16")
    assert document["parameters"] == gollm.load(model).decoder.parameters.n_parameters
    result = run("generate", folder, "--prompt", "a")
    assert (result.status, result.out) == (1, "") and "has no tokenizer (the folder" in result.err
    assert run("convert", folder, model.parent / "new").err.startswith("left out: the tokenizer (the folder")


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["M"], 2, "--target is needed"),
        (["M", "a", "b"], 2, "unexpected argument 'b'; --target has its value"),
        (["none", "a"], 1, "there is no file or folder none"),
        (["M", "a.bin"], 2, "a.bin does not say which format"),
        (["M", "a.txt"], 2, "a.txt does not say which format"),
        (["M", "M"], 1, "is there already; choose another name, or replace it with --overwrite"),
        (["M", "a", "--to", "onnx"], 2, "--to is 'onnx'"),
        (["M", "a", "--dtype", "q4_0"], 2, "huggingface is written as f32, bf16, f16"),
        (["M", "none/a"], 1, "none/a"),
        (["M", "OTHER", "--overwrite"], 1, "holds something else than a huggingface model"),
    ],
)
def test_mistakes(words: list[str], status: int, message: str, model: Path, run: Run) -> None:
    other = model.parent / "other"
    other.mkdir()
    (other / "letter.txt").write_text("dear")
    names = {"M": str(model), "OTHER": str(other)}
    result = run("convert", *[names.get(word, word) for word in words])
    assert (result.status, result.out, result.err.count("\n")) == (status, "", 1)
    assert message in result.err and "inside of gollm" not in result.err
    assert sorted(entry.name for entry in model.parent.iterdir()) == ["model.golm", "other"]


def test_only_overwrite_replaces(model: Path, run: Run) -> None:
    folder = model.parent / "folder"
    folder.mkdir()  # nothing is in it
    assert run("convert", model, folder).status == 0
    assert run("convert", model, folder, "--dtype", "bf16").status == 1
    assert "as F32" in run("info", folder).out
    assert run("convert", model, folder, "--dtype", "bf16", "--overwrite").status == 0
    assert "as BF16" in run("info", folder).out


def test_generate_with_another_context(model: Path, run: Run) -> None:
    result = run("generate", model, "--prompt", "a", "--context", "128", "--rope-scaling", "linear")
    assert (result.status, result.out) == (1, "") and "each of its 64 positions" in result.err
    assert "give both" in run("generate", model, "--prompt", "a", "--rope-scaling", "linear").err


def test_a_tokenizer_for_a_model_without(model: Path, run: Run) -> None:
    tokenizer, bare, whole = (model.parent / name for name in ("tokenizer.json", "bare.golm", "whole.golm"))
    first = gollm.load(model)
    tokenizers.save(first.tokenizer, tokenizer)
    LanguageModel(first.decoder).save(bare)
    words = ["--prompt", "hello", "--max-new-tokens", "8", "--temperature", "0"]
    assert run("generate", bare, *words).status == 1
    assert run("generate", bare, *words, "--tokenizer", tokenizer).out == run("generate", model, *words).out
    result = run("convert", bare, whole, "--tokenizer", tokenizer)
    assert (result.status, result.err) == (0, "") and "bpe with 270 tokens" in result.out
    assert run("generate", whole, *words).out == run("generate", model, *words).out
    tokenizers.save(BPETokenizer.train("hello world, this is a text\n" * 3, 271), tokenizer)
    result = run("generate", bare, *words, "--tokenizer", tokenizer)
    assert result.status == 1 and "the tokenizer has 271 tokens" in result.err and "only 270" in result.err


def test_a_tokenizer_that_the_format_does_not_have(model: Path, run: Run) -> None:
    result = run("convert", model, model.parent / "model.json")
    assert result.status == 0 and "no tokenizer" in result.out
    assert result.err == "left out: the tokenizer (a list of words holds no tokenizer of the kind 'bpe')\n"


def test_what_a_format_leaves_out_is_said(model: Path, run: Run) -> None:
    """A training state, and what the file says about generation."""
    first = gollm.load(model)
    recommended = GenerationDefaults(stop_tokens=(3,), top_k=5, chat_template="{{ a }}")
    checkpoint = model.parent / "step-00000012.golm"
    write_checkpoint(
        checkpoint,
        config=first.config.to_dict(),
        tensors={name: parameter.data for name, parameter in first.decoder.parameters.items()},
        generation=recommended.to_dict(),
        tokenizer_state=first.tokenizer.to_state(),
        training={"step": 12},
        training_tensors={"moments": np.zeros(36, np.float32)},
    )
    assert run("convert", checkpoint, model.parent / "new.golm").err == "left out: the training state after step 12\n"
    result = run("convert", model.parent / "new.golm", model.parent / "new.bin", "--to", "llm.c")
    assert result.err == "left out: of what the file says about generation: stop tokens, top k, chat template\n"
    assert run("convert", model.parent / "new.golm", model.parent / "folder").err == ""


def test_quantised_and_on_to_gguf(model: Path, run: Run) -> None:
    pytest.importorskip("gguf")
    small, gguf = model.parent / "small.golm", model.parent / "small.gguf"
    assert run("quantize", model, small).out == f"{small}: {small.stat().st_size / 1e6:.1f} MB\n"
    assert small.stat().st_size < model.stat().st_size / 2
    assert "int8" in run("info", small, "--tensors").out
    assert run("convert", small, gguf).status == 0
    words = ["--prompt", "hello", "--max-new-tokens", "8", "--temperature", "0"]
    assert run("generate", gguf, *words).out == run("generate", small, *words).out
    assert run("quantize", model, small).status == 1  # it is there
    assert run("quantize", model, small, "--overwrite", "--weights", "int4", "--keep", "head").status == 0
    for mistake, word in [
        (["--weights", "int3"], "int4_min"),
        (["--group", "48"], "128"),
        (["--weights", "int4", "--group", "64"], "for int4 it must be 32"),
        (["--keep", "norm"], "embedding"),
    ]:
        refused = run("quantize", model, small, "--overwrite", *mistake)
        assert refused.status == 2 and word in refused.err
    assert run("quantize", model, model.parent / "small.txt").status == 2


def test_what_quantising_says(model: Path, run: Run) -> None:
    """Where a quantised model is rounded again, and where the file grows."""
    int8, int4, half = (model.parent / name for name in ("int8.golm", "int4.golm", "half.golm"))
    assert run("quantize", model, int8).err == ""
    assert run("quantize", int8, model.parent / "same.golm").err == ""  # taken over as it is
    again = run("quantize", int8, int4, "--weights", "int4")
    assert again.err == "gollm: warning: the model was quantised already (int8 in groups of 32), and is rounded again\n"
    grown = run("quantize", int4, half, "--weights", "bf16")
    assert f"{half} is larger than {int4}: " in grown.err and "quantised already (int4 in groups of 32)" in grown.err
    assert " bytes, as int8 in groups of 32, f32\n" in run("info", int8).out
