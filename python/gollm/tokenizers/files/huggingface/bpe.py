"""Hugging Face's tokenizer.json with byte-level BPE; what is not supported is refused by its name and value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gollm.tokenizers.alphabet import BYTE_OF_CHARACTER
from gollm.tokenizers.bpe import BPETokenizer
from gollm.tokenizers.files import added_tokens
from gollm.tokenizers.files.added_tokens import without_added
from gollm.tokenizers.files.gpt2 import bpe_tokenizer, to_vocab, vocab_of
from gollm.tokenizers.files.huggingface.byte_level import (
    byte_level,
    read_decoder,
    read_normalizer,
    read_pre_tokenizer,
    write_pre_tokenizer,
)
from gollm.tokenizers.files.huggingface.document import (
    read_merges,
    read_template,
    refuse,
    to_json,
    warn_of_limits,
    write_template,
)


def parse(document: dict[str, Any], path: Path) -> BPETokenizer:
    """The tokenizer that a parsed tokenizer.json describes."""
    warn_of_limits(document, path)
    model = document["model"]
    if model.get("type", "BPE") != "BPE":
        raise refuse(path, "the model's type", model.get("type"), '"BPE"')
    normalizer = read_normalizer(document.get("normalizer"), path)
    pattern, add_prefix_space = read_pre_tokenizer(document.get("pre_tokenizer"), path)
    read_decoder(document.get("decoder"), path)
    prefix, suffix = read_template(document.get("post_processor"), path)
    vocab = dict(vocab_of(model.get("vocab"), path))
    unknown_token = _check_model(model, vocab, path)
    added = added_tokens.read_list(document.get("added_tokens") or [], vocab, path)
    if unknown_token is not None and not any(token.special and token.spelling == unknown_token for token in added):
        raise refuse(path, "the model's unk_token", unknown_token, "one of the special added_tokens, or null")
    return bpe_tokenizer(
        vocab,
        read_merges(model.get("merges"), path),
        added,
        path,
        pattern=pattern,
        normalizer=normalizer,
        add_prefix_space=add_prefix_space,
        ignore_merges=bool(model.get("ignore_merges")),
        unknown_token=unknown_token,
        prefix=prefix,
        suffix=suffix,
    )


def _check_model(model: dict[str, Any], vocab: dict[str, int], path: Path) -> str | None:
    """The unknown token, if there are bytes that it may have to stand for."""
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise refuse(path, f"the model's {key}", model[key], "none")
    if vocab.keys() >= BYTE_OF_CHARACTER.keys():
        return None
    for key in ("byte_fallback", "fuse_unk"):
        if model.get(key) and (key == "byte_fallback" or model.get("unk_token") is not None):
            raise refuse(path, f"the model's {key}", model[key], "false, unless all 256 bytes are in the vocabulary")
    unknown = model.get("unk_token")
    if unknown is not None and not isinstance(unknown, str):
        raise refuse(path, "the model's unk_token", unknown, "text or null")
    return unknown


def to_files(tokenizer: BPETokenizer, path: Path) -> dict[Path, bytes]:
    vocab, merges = to_vocab(tokenizer)
    if tokenizer.lowest_id_first:  # the order of the list is all that the format has
        by_result = tokenizer.merges[:, 2].argsort(kind="stable")
        merges = [merges[i] for i in by_result]
    template = write_template(tokenizer, {index: name for name, index in vocab.items()})
    return to_json(
        tokenizer,
        path,
        normalizer={"type": tokenizer.normalizer} if tokenizer.normalizer else None,
        pre_tokenizer=write_pre_tokenizer(tokenizer.pattern, tokenizer.add_prefix_space),
        post_processor={"type": "Sequence", "processors": [byte_level(), template]} if template else byte_level(),
        decoder=byte_level(),
        model={
            "type": "BPE",
            "dropout": None,
            "unk_token": tokenizer.unknown_token,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": tokenizer.ignore_merges,
            "vocab": without_added(vocab, tokenizer, tokenizer.unknown_token) if tokenizer.ignore_merges else vocab,
            "merges": [f"{left} {right}" for left, right in merges],
        },
    )
