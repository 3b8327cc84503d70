"""Folders without tokenizer.json: added tokens in files beside the vocabulary, as AutoTokenizer has them."""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gollm import tokenizers
from gollm.tokenizers import BPETokenizer

transformers = pytest.importorskip("transformers")

TOKENS = ["<|pad|>", "<|im_start|>", "<tool>", "the", "<|endoftext|>", "\u6f22", "<mask>", " x"]
TEXT = "hello <|im_start|> x<|pad|> the\u6f22<tool><|endoftext|> 12 I'LL <mask> , e\u0301"
FLAGS = st.fixed_dictionaries(
    {name: st.booleans() for name in ("single_word", "lstrip", "rstrip", "normalized", "special")}
)
NAMED = st.dictionaries(st.sampled_from(["pad_token", "mask_token", "sep_token"]), st.sampled_from(TOKENS), max_size=2)
SIDE = st.fixed_dictionaries(
    {},
    optional={
        "added": st.lists(st.sampled_from(TOKENS), unique=True, max_size=4),
        "decoder": st.dictionaries(st.sampled_from(TOKENS), FLAGS, max_size=4),
        "map": NAMED,
        "config": NAMED,
        "more": st.lists(st.sampled_from(TOKENS), unique=True, max_size=2),
        "bos": st.booleans(),
    },
)


def write_side_files(folder: Path, vocab: dict[str, int], side: dict[str, Any], kind: str) -> None:
    def ids(spellings: Any) -> dict[str, int]:
        new = [spelling for spelling in spellings if spelling not in vocab]
        return {spelling: vocab.get(spelling) or len(vocab) + new.index(spelling) for spelling in spellings}

    config: dict[str, Any] = {"tokenizer_class": kind, **side.get("config", {})}
    if "more" in side:
        config["additional_special_tokens"] = side["more"]
    if "bos" in side:
        config["add_bos_token"] = side["bos"]
    if "decoder" in side:
        numbers = ids(side["decoder"])
        config["added_tokens_decoder"] = {
            str(numbers[content]): {"content": content, **flags} for content, flags in side["decoder"].items()
        }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if "added" in side:
        (folder / "added_tokens.json").write_text(json.dumps(ids(side["added"])))
    if "map" in side:
        (folder / "special_tokens_map.json").write_text(json.dumps(side["map"]))


@pytest.mark.parametrize("kind", ["GPT2Tokenizer", "Qwen2Tokenizer"])
@settings(max_examples=40, deadline=None)
@given(SIDE)
@example({"added": ["<|pad|>", "<|im_start|>"], "config": {"pad_token": "<|pad|>"}})
@example({"decoder": {"<tool>": {"special": False, "normalized": True, "lstrip": True}}, "bos": True})
def test_vocab_and_merges(tmp_path_factory: Any, kind: str, side: dict[str, Any]) -> None:
    folder = tmp_path_factory.mktemp("t")
    pattern = "qwen2" if kind == "Qwen2Tokenizer" else "gpt2"
    mine = BPETokenizer.train("the theme of hello, the thesis " * 9, 280, special_tokens=["<|endoftext|>"])
    tokenizers.save(mine, folder, "gpt2")
    write_side_files(folder, json.loads((folder / "vocab.json").read_text()), side, kind)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = tokenizers.load(folder)
    assert isinstance(found, BPETokenizer)
    assert found.pattern == pattern
    expected = theirs(TEXT).input_ids
    assert found.encode(TEXT, allowed_special="all", add_special_tokens=True).tolist() == expected
    assert found.vocab_size == len(theirs)
    for name in TOKENS:
        if name in found.special_tokens:
            assert theirs.convert_tokens_to_ids(name) == found.special_tokens[name]


def test_damage_in_side_files_never_costs_the_tokenizer(tmp_path: Path) -> None:
    mine = BPETokenizer.train("the theme of the thesis " * 9, 270, special_tokens=["<|endoftext|>"])
    tokenizers.save(mine, tmp_path, "gpt2")
    (tmp_path / "tokenizer_config.json").write_text('{"pad_token": 7, "added_tokens_decoder": {"x": [], "-1": null}}')
    (tmp_path / "added_tokens.json").write_text("[1]")
    with pytest.warns(match="left out"):
        assert tokenizers.load(tmp_path).special_tokens == mine.special_tokens
    (tmp_path / "tokenizer_config.json").write_bytes(b"\xff\xfe{")
    with pytest.warns(match="left out"):
        assert tokenizers.load(tmp_path).special_tokens == mine.special_tokens


def test_sentencepiece_model(tmp_path: Path) -> None:
    """Added tokens come behind the pieces; the text between them has sentencepiece's ids."""
    sentencepiece = pytest.importorskip("sentencepiece")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the theme of the thesis"] * 20), model_writer=model, vocab_size=280, model_type="bpe",
        byte_fallback=True, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    theirs = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    n = theirs.get_piece_size()
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<pad>": n, "<tool>": n + 1}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<pad>"}))
    mine = tokenizers.load(tmp_path)
    expected = [*theirs.encode("the theme"), n + 1, *theirs.encode("of"), n]
    for one in (mine, tokenizers.from_state(*mine.to_state())):
        assert one.encode("the theme<tool>of<pad>", allowed_special="all").tolist() == expected
        assert n not in one.encode("of<pad>")
        assert one.vocab_size == n + 2
        assert one.special_tokens["<pad>"] == n


@pytest.mark.parametrize("config", [{}, {"tokenizer_class": "LlamaTokenizerFast"}, {"legacy": True}, {"legacy": False}])
@pytest.mark.parametrize("decoder", [False, True])
def test_sentencepiece_model_of_a_class(tmp_path: Path, config: dict[str, Any], decoder: bool) -> None:
    """LlamaTokenizer puts no space after an added token (unless legacy), nor before a text that begins with one."""
    sentencepiece = pytest.importorskip("sentencepiece")
    pytest.importorskip("google.protobuf")  # with which transformers reads tokenizer.model
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the theme of the thesis"] * 20), model_writer=model, vocab_size=280, model_type="bpe",
        byte_fallback=True, hard_vocab_limit=False, normalization_rule_name="identity",
        remove_extra_whitespaces=False, minloglevel=2,
    )  # fmt: skip
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    n = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).get_piece_size()
    added = {"<x>": n, "<y>": n + 1}
    if decoder:
        flags = dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word", "special"), False)
        config = config | {"added_tokens_decoder": {str(i): {"content": x, **flags} for x, i in added.items()}}
    else:
        (tmp_path / "added_tokens.json").write_text(json.dumps(added))
    if "legacy" in config:
        config = {"tokenizer_class": "LlamaTokenizer", **config}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    mine, theirs = tokenizers.load(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in ("the theme", "of <x> the", "<x>of", "<x> of", " of  <x>  the", "of<y>of<x><y> the", "", " ", "<x>"):
        expected = theirs(text, add_special_tokens=False)["input_ids"]
        for one in (mine, tokenizers.from_state(*mine.to_state())):
            assert one.encode(text, allowed_special="all").tolist() == expected, text
