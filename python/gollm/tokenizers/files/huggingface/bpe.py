"""Hugging Face's tokenizer.json with byte-level BPE; what is not supported is refused by its name and value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gollm.errors import TokenizerError, warn
from gollm.system.strict_json import shorten
from gollm.tokenizers.added_tokens import MAX_ADDED_TOKENS, AddedToken, place
from gollm.tokenizers.alphabet import BYTE_OF_CHARACTER
from gollm.tokenizers.files.gpt2 import build, to_vocab, vocab_of
from gollm.tokenizers.files.huggingface.pipeline import (
    read_decoder,
    read_normalizer,
    read_pre_tokenizer,
    read_template,
    refuse,
    write_decoder,
    write_normalizer,
    write_post_processor,
    write_pre_tokenizer,
)
from gollm.tokenizers.files.own import read_json, write_text

if TYPE_CHECKING:
    from gollm.tokenizers.base import Tokenizer
    from gollm.tokenizers.bpe import BPETokenizer

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def read(path: Path) -> BPETokenizer:
    return parse(read_json(path), path)


def parse(document: Any, path: Path) -> BPETokenizer:
    """The tokenizer that a parsed tokenizer.json describes."""
    if not isinstance(document, dict) or not isinstance(document.get("model"), dict):
        raise TokenizerError(f'{path}: not a tokenizer.json, which has a "model"')
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
    added = read_added_tokens(document.get("added_tokens") or [], vocab, path)
    if unknown_token is not None and not any(token.special and token.spelling == unknown_token for token in added):
        raise refuse(path, "the model's unk_token", unknown_token, "one of the special added_tokens, or null")
    return build(
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


def read_merges(merges: Any, path: Path) -> list[tuple[str, str]]:
    """Written "left right" by old versions, ["left", "right"] by new ones."""
    if not isinstance(merges, list):
        raise TokenizerError(f"{path}: the model has no list of merges")
    pairs: list[tuple[str, str]] = []
    for merge in merges:
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(parts, list) or len(parts) != 2 or not all(isinstance(part, str) and part for part in parts):
            raise TokenizerError(f"{path}: merge {len(pairs)} is {json.dumps(merge)[:80]}; it must be two tokens")
        pairs.append((parts[0], parts[1]))
    return pairs


def read_added_tokens(added: Any, vocab: dict[str, int], path: Path) -> list[AddedToken]:
    """The added tokens of a tokenizer.json, with their ids (`place`)."""
    tokens: list[AddedToken] = []
    if not isinstance(added, list) or len(added) > MAX_ADDED_TOKENS:
        raise TokenizerError(f"{path}: added_tokens must be a list of up to {MAX_ADDED_TOKENS}")
    for token in added:
        spelling, index = (token.get("content"), token.get("id")) if isinstance(token, dict) else (None, None)
        if not isinstance(spelling, str) or type(index) is not int:
            raise TokenizerError(f"{path}: an added token is {json.dumps(token)[:80]}; it needs content and id")
        flags = {key: token.get(key, False) for key in _FLAGS}
        if not all(type(flag) is bool for flag in flags.values()):
            raise TokenizerError(
                f"{path}: the added token {shorten(spelling)} has a flag that is neither true nor false"
            )
        tokens.append(AddedToken(spelling, index, **flags))
    return place(tokens, vocab, path)


def warn_of_limits(document: dict[str, Any], path: Path) -> None:
    """Says once what is left out: they concern batches, and no text's ids."""
    found = [key for key in ("truncation", "padding") if document.get(key) is not None]
    if found:
        warn(f"{path}: {' and '.join(found)} left out; a text is neither cut nor filled up")


def write_head(tokenizer: Tokenizer) -> dict[str, Any]:
    """What every tokenizer.json begins with: its version, and the added tokens."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": token.id, "content": token.spelling, **{flag: getattr(token, flag) for flag in _FLAGS}}
            for token in sorted(tokenizer.added_tokens, key=lambda token: token.id)
        ],
    }


def without_added(vocab: dict[str, int], tokenizer: Tokenizer, unknown: str | None) -> dict[str, int]:
    """A vocabulary without the added tokens at its end, which their own list gives the same ids.

    Where a word that is a whole token is that token, text could otherwise spell one that only the list recognises."""
    added = {token.id for token in tokenizer.added_tokens if not token.ordinary and token.spelling != unknown}
    end = tokenizer.vocab_size
    while end - 1 in added:
        end -= 1
    rest = {name: i for name, i in vocab.items() if i < end}
    return rest if len(rest) == end else vocab  # with gaps, the list would begin in the first


def write(tokenizer: BPETokenizer, path: Path) -> None:
    vocab, merges = to_vocab(tokenizer)
    if tokenizer.lowest_id_first:  # the order of the list is all that the format has
        by_result = tokenizer.merges[:, 2].argsort(kind="stable")
        merges = [merges[i] for i in by_result]
    names = {index: name for name, index in vocab.items()}
    template = {index: names[index] for index in (*tokenizer.prefix, *tokenizer.suffix)}
    document = {
        **write_head(tokenizer),
        "normalizer": write_normalizer(tokenizer.normalizer),
        "pre_tokenizer": write_pre_tokenizer(tokenizer.pattern, tokenizer.add_prefix_space),
        "post_processor": write_post_processor(tokenizer.prefix, tokenizer.suffix, template),
        "decoder": write_decoder(),
        "model": {
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
    }
    write_text(path, json.dumps(document, ensure_ascii=False))
