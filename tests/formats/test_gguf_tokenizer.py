"""Tokenizers of GGUF files: names of pre-tokenizers, normalization, and what converters write for rows of padding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gollm.errors import GollmWarning
from gollm.formats import convert, format_named, open_model, open_tokenizer
from gollm.formats.gguf.pretokenizers import RULES
from gollm.model.config import ModelConfig
from gollm.tokenizers import BPETokenizer, SentencePieceTokenizer, Vocabulary
from gollm.tokenizers.added_tokens import AddedToken
from gollm.tokenizers.files.gpt2 import to_vocab

from .sources import random_source

gguf = pytest.importorskip("gguf")

TEXT = "the cat sat on the mat: naïve é ideas, 1234 of them\n" * 9
DECOMPOSED = "nai\u0308ve e\u0301"
# One of each kind, and others that llama.cpp treats as it.
ALIKE = {
    "gpt-2": ("mpt", "olmo", "phi-2", "exaone4", "a.x-4.0", "gigachat", "trillion", "jais", "modern-bert", "mellum"),
    "llama-bpe": ("llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "lfm2", "midm-2.0"),
    "glm4": ("glm5",),
    "dbrx": ("smaug-bpe", "chatglm-bpe"),
    "deepseek-r1-qwen": ("megrez", "hunyuan", "grok-2", "kormo", "solar-open", "stablelm2"),
    "smollm": ("starcoder", "refact", "codeshell", "exaone", "minerva-7b", "mellum2"),
    "gpt-4o": ("llama4", "kanana2", "minimax-m2"),
}


def vocabulary(path: Path, **keys: Any) -> Path:
    """A file of a tokenizer alone, with keys of tokenizer.ggml."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_string("general.name", keys.pop("name", "some model"))
    for key, value in keys.items():
        kind = gguf.GGUFValueType.get_type(value)
        writer.add_key_value(f"tokenizer.ggml.{key}", value, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def bpe_keys() -> dict[str, Any]:
    vocab, merges = to_vocab(BPETokenizer.train(TEXT, 300))
    tokens = sorted(vocab, key=lambda token: vocab[token])
    return {"model": "gpt2", "tokens": tokens, "merges": [" ".join(merge) for merge in merges]}


@pytest.mark.parametrize("name", ALIKE)
def test_names_that_llama_cpp_treats_alike(tmp_path, name):
    keys = bpe_keys()
    first = open_tokenizer(vocabulary(tmp_path / "first.gguf", pre=name, bos_token_id=3, **keys))
    assert first.prefix == ((3,) if name == "llama-bpe" else ())
    for other in ALIKE[name]:
        found = open_tokenizer(vocabulary(tmp_path / "other.gguf", pre=other, bos_token_id=3, **keys))
        assert found.to_state()[0] == first.to_state()[0]


@pytest.mark.parametrize("name", RULES)
def test_every_rule_is_usable(tmp_path, name):
    tokenizer = open_tokenizer(vocabulary(tmp_path / "v.gguf", pre=name, **bpe_keys()))
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT


def test_a_file_that_names_no_rule_has_llama_cpps_oldest(tmp_path):
    tokenizer = open_tokenizer(vocabulary(tmp_path / "v.gguf", **bpe_keys()))
    named = open_tokenizer(vocabulary(tmp_path / "w.gguf", pre="default", **bpe_keys()))
    assert tokenizer.to_state()[0] == named.to_state()[0]


def test_qwen2_normalizes_and_comes_back(tmp_path):
    learned = BPETokenizer.train(TEXT, 300, pattern="qwen2", special_tokens=["<|endoftext|>"])
    parts = (learned.vocabulary, learned.merges, learned.special_tokens, "qwen2")
    for i, (normalizer, name) in enumerate([("NFC", "qwen2"), (None, "deepseek-r1-qwen")]):
        tokenizer = BPETokenizer(*parts, normalizer=normalizer)
        source, _ = random_source(qwen2(tokenizer.vocab_size))
        source.tokenizer = tokenizer
        format_named("gguf").write(source, tmp_path / f"{i}.gguf", "f32")
        assert gguf.GGUFReader(tmp_path / f"{i}.gguf").get_field("tokenizer.ggml.pre").contents() == name
        convert(tmp_path / f"{i}.gguf", tmp_path / f"{i}", "huggingface")
        convert(tmp_path / f"{i}", tmp_path / f"{i}-again.gguf")
        for path in (f"{i}.gguf", f"{i}", f"{i}-again.gguf"):
            with open_model(tmp_path / path) as back:
                assert back.tokenizer is not None
                assert back.tokenizer.encode(DECOMPOSED).tolist() == tokenizer.encode(DECOMPOSED).tolist()


def qwen2(vocab_size: int) -> ModelConfig:
    return ModelConfig(
        n_layers=1, n_heads=2, n_kv_heads=1, d_model=16, d_ff=32, vocab_size=vocab_size, context=16, norm="rmsnorm",
        position="rope", gated_mlp=True, activation="silu", bias=False, qkv_bias=True,
    )  # fmt: skip


def test_a_normalizer_that_has_no_name_is_left_out_with_a_warning(tmp_path):
    learned = BPETokenizer.train(TEXT, 300, pattern="llama3")
    tokenizer = BPETokenizer(learned.vocabulary, learned.merges, pattern="llama3", normalizer="NFC")
    source, _ = random_source(qwen2(300))
    source.tokenizer = tokenizer
    with pytest.warns(GollmWarning, match="no place for the normalizer NFC"):
        format_named("gguf").write(source, tmp_path / "m.gguf", "f32")


def test_what_added_tokens_strip_is_left_out_with_a_warning(tmp_path):
    learned = BPETokenizer.train(TEXT, 280)
    mask = AddedToken("<mask>", learned.vocab_size, lstrip=True)
    tokenizer = BPETokenizer(Vocabulary.of([*learned.vocabulary, b"<mask>"]), learned.merges, added_tokens=[mask])
    source, _ = random_source(qwen2(300))
    source.tokenizer = tokenizer
    with pytest.warns(
        GollmWarning, match="lstrip, rstrip and single_word of the added token '<mask>', so they are left"
    ):
        format_named("gguf").write(source, tmp_path / "m.gguf", "f32")


def pieces(**changes: Any) -> dict[str, Any]:
    """As phi-3's file has them: the unknown token is a control token, and rows of padding are unknown ones."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "a", "b", "ab", "<|end|>"]
    types = [3, 3, 3, *[6] * 256, 1, 1, 1, 3]
    tokens += [f"[PAD{i}]" for i in range(len(tokens), len(tokens) + 5)]
    types += [2] * 5
    keys = {"model": "llama", "tokens": tokens, "token_type": types, "scores": [-1.0 * i for i in range(len(tokens))]}
    return {**keys, "unknown_token_id": 0, **changes}


def test_rows_of_padding_may_be_called_unknown(tmp_path):
    tokenizer = open_tokenizer(vocabulary(tmp_path / "v.gguf", **pieces()))
    assert isinstance(tokenizer, SentencePieceTokenizer)
    assert tokenizer.vocab_size == 263
    assert tokenizer.types[:3].tolist() == [2, 3, 3]
    assert tokenizer.encode("ab").tolist() == [3 + ord(" "), 261]


def test_begin_is_token_1_where_a_file_does_not_say(tmp_path):
    assert open_tokenizer(vocabulary(tmp_path / "v.gguf", **pieces())).prefix == (1,)
    assert open_tokenizer(vocabulary(tmp_path / "v.gguf", **pieces(add_bos_token=False))).prefix == ()


@pytest.mark.parametrize(("name", "takes"), [("Phi3", True), ("Phi-3 mini", True), ("Llama", False)])
def test_special_tokens_of_phi3_take_the_white_space_behind_them(tmp_path, name, takes):
    tokenizer = open_tokenizer(vocabulary(tmp_path / "v.gguf", name=name, **pieces(add_space_prefix=False)))
    found = tokenizer.encode("a<|end|>\n ab", allowed_special="all").tolist()
    assert found == ([259, 262, 261] if takes else [259, 262, 3 + 10, 3 + 32, 261])


def test_pieces_without_scores_are_joined_from_the_left(tmp_path):
    keys = pieces()
    del keys["scores"]
    assert open_tokenizer(vocabulary(tmp_path / "v.gguf", **keys)).encode("ab").tolist()[-1] == 261
