"""The tokenizer of any model file is used wherever a tokenizer's file is: on the command line and in Python."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

import gollm
from gollm import tokenizers
from gollm.cli.main import main
from gollm.errors import FormatError, TokenizerError
from gollm.formats import format_named, open_tokenizer
from gollm.model.config import ModelConfig
from gollm.tokenizers import BPETokenizer, CharacterTokenizer, Tokenizer

from .sources import random_source
from .test_gguf import sentencepiece

needs_gguf = pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="needs the gguf package")

TEXT = "the cat sat on the mat: ab\n"
LLAMA = {
    "n_layers": 1, "n_heads": 2, "d_model": 16, "d_ff": 32, "context": 16, "norm": "rmsnorm", "position": "rope",
    "gated_mlp": True, "activation": "silu", "bias": False,
}  # fmt: skip


def bpe() -> BPETokenizer:
    return BPETokenizer.train(TEXT * 9, 270, special_tokens=["<|endoftext|>"])


def model(path: Path, name: str, tokenizer: Tokenizer | None, **config: object) -> Path:
    size = 300 if tokenizer is None else tokenizer.vocab_size
    source, _ = random_source(ModelConfig(**{"vocab_size": size, **config}))
    source.tokenizer = tokenizer
    found = format_named(name)
    found.write(source, path, found.dtypes[0])
    return path


def test_of_a_checkpoint(tmp_path):
    check(model(tmp_path / "m.golm", "golm", bpe(), **LLAMA), bpe())


def test_of_a_folder_of_hugging_face(tmp_path):
    check(model(tmp_path / "m", "huggingface", bpe(), **LLAMA), bpe())


def test_of_a_folder_without_weights(tmp_path):
    path = model(tmp_path / "m", "huggingface", bpe(), **LLAMA)
    (path / "model.safetensors").write_bytes(b"damaged")
    check(path, bpe())


def test_beside_a_model_of_llama2_c(tmp_path):
    tokenizer = sentencepiece(prefix=(1,), suffix=())
    check(model(tmp_path / "m.bin", "llama2.c", tokenizer, **{**LLAMA, "tied_head": True}), tokenizer)


def test_in_a_json_model(tmp_path):
    tokenizer = CharacterTokenizer.train(TEXT)
    source, _ = random_source(
        ModelConfig(n_layers=1, n_heads=2, d_model=16, vocab_size=tokenizer.vocab_size, context=8)
    )
    source.tokenizer = tokenizer
    format_named("json").write(source, tmp_path / "m.json", "f32")
    check(tmp_path / "m.json", tokenizer)


@needs_gguf
@pytest.mark.parametrize("tokenizer", [bpe(), sentencepiece()], ids=["bpe", "sentencepiece"])
def test_of_a_gguf_file(tmp_path, tokenizer):
    check(model(tmp_path / "m.gguf", "gguf", tokenizer, **LLAMA), tokenizer)


@needs_gguf
def test_of_a_gguf_file_without_weights(tmp_path):
    """As llama.cpp's ggml-vocab-*.gguf."""
    import gguf

    path = model(tmp_path / "m.gguf", "gguf", bpe(), **LLAMA)
    writer = gguf.GGUFWriter(tmp_path / "vocab.gguf", "any architecture")
    for field in gguf.GGUFReader(path).fields.values():
        if field.name.startswith("tokenizer."):
            writer.add_key_value(field.name, field.contents(), field.types[0], field.types[-1])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    check(tmp_path / "vocab.gguf", bpe())
    with pytest.raises(FormatError, match="no weights"):
        gollm.load(tmp_path / "vocab.gguf")


def check(path: Path, expected: Tokenizer) -> None:
    found = open_tokenizer(path)
    assert found.encode(TEXT).tolist() == expected.encode(TEXT).tolist()
    assert found.special_tokens == expected.special_tokens
    bare = model(path.parent / "bare.golm", "golm", None, **{**LLAMA, "vocab_size": expected.vocab_size})
    loaded = gollm.load(bare, tokenizer=path)
    assert loaded.tokenizer is not None
    assert loaded.tokenizer.encode(TEXT).tolist() == expected.encode(TEXT).tolist()


def test_encode_and_decode_on_the_command_line(tmp_path, capsys):
    path = str(model(tmp_path / "m.golm", "golm", bpe(), **LLAMA))
    assert main(["tokenizer", "encode", "--tokenizer", path, TEXT]) == 0
    ids = capsys.readouterr().out.split()
    assert ids == [str(i) for i in bpe().encode(TEXT)]
    assert main(["tokenizer", "decode", "--tokenizer", path, *ids]) == 0
    assert capsys.readouterr().out == TEXT


def test_a_model_without_one_says_so(tmp_path):
    path = model(tmp_path / "m.golm", "golm", None, **LLAMA)
    with pytest.raises(TokenizerError, match=r"m\.golm has no tokenizer"):
        open_tokenizer(path)


def test_what_is_neither_is_refused_as_a_tokenizer(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"a": 1}))
    with pytest.raises(TokenizerError, match="no tokenizer that gollm knows"):
        open_tokenizer(tmp_path / "x.json")
    with pytest.raises(TokenizerError, match="there is no file or folder"):
        open_tokenizer(tmp_path / "missing")


@pytest.mark.parametrize(("more", "fits"), [(0, True), (127, True), (128, False), (700, False)])
def test_a_tokenizer_of_another_model_is_refused_and_padding_is_not(more, fits, tmp_path):
    """127 rows more than tokens are padding to the next multiple of 128."""
    tokenizer = BPETokenizer.train("the cat sat on the mat", 262)
    n, path = tokenizer.vocab_size, tmp_path / "bare.golm"
    tokenizers.save(tokenizer, tmp_path / "tokenizer.json")
    config = gollm.ModelConfig(n_layers=1, n_heads=1, d_model=8, context=8, vocab_size=n + more)
    gollm.LanguageModel(gollm.Decoder(config).initialise(1)).save(path)
    words = ["generate", str(path), "--tokenizer", str(tmp_path / "tokenizer.json"), "--prompt", "the"]
    if fits:
        assert gollm.load(path, tokenizer=tokenizer).tokenizer is tokenizer
    else:
        with pytest.raises(FormatError, match=rf"has {n} tokens, and the model .* has {n + more}, many more"):
            gollm.load(path, tokenizer=tokenizer)
        assert main(words) == 1
    assert gollm.load(path, tokenizer=tokenizer, any_tokenizer=True).tokenizer is tokenizer
    assert main([*words, "--max-new-tokens", "2", "--force"]) == 0
