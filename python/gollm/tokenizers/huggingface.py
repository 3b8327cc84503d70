"""Hugging Face's tokenizer.json, if it is byte-level BPE as GPT-2's; anything else is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gollm.errors import TokenizerError
from gollm.tokenizers.gpt2_files import build, to_vocab, unmade, vocab_of
from gollm.tokenizers.json_file import read_json, write_text

if TYPE_CHECKING:
    from gollm.tokenizers.bpe import BPETokenizer

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def read(path: Path) -> BPETokenizer:
    return parse(read_json(path), path)


def parse(document: Any, path: Path) -> BPETokenizer:
    """The tokenizer that a parsed tokenizer.json describes."""
    if not isinstance(document, dict) or not isinstance(document.get("model"), dict):
        raise TokenizerError(f'{path}: not a tokenizer.json, which has a "model"')
    _check_pipeline(document, path)
    model = document["model"]
    _check_model(model, path)
    vocab = dict(vocab_of(model.get("vocab"), path))
    merges = _merges(model.get("merges"), path)
    special = _added_tokens(document.get("added_tokens") or [], vocab, path)
    for token in unmade(vocab, merges):
        if token not in special:
            raise TokenizerError(
                f"{path}: token {token!r} (id {vocab[token]}) is made by no merge and is no added token; not supported"
            )
    return build(vocab, merges, special, path)


def _refuse(path: Path, what: str, value: Any, allowed: str) -> TokenizerError:
    return TokenizerError(
        f"{path}: {what} is {json.dumps(value)[:80]}; supported is byte-level BPE as GPT-2's, with {allowed}"
    )


def _check_pipeline(document: dict[str, Any], path: Path) -> None:
    for key in ("normalizer", "truncation", "padding"):
        if document.get(key) is not None:
            raise _refuse(path, key, document[key], "none")
    before = document.get("pre_tokenizer")
    if not isinstance(before, dict) or before.get("type") != "ByteLevel":
        raise _refuse(path, "pre_tokenizer", before, "ByteLevel")
    if before.get("add_prefix_space", True) is not False:
        raise _refuse(path, "pre_tokenizer's add_prefix_space", before.get("add_prefix_space", True), "false")
    if before.get("use_regex", True) is not True:
        raise _refuse(path, "pre_tokenizer's use_regex", before.get("use_regex"), "true")
    for key in ("post_processor", "decoder"):
        part = document.get(key)
        if part is not None and (not isinstance(part, dict) or part.get("type") != "ByteLevel"):
            raise _refuse(path, key, part, "ByteLevel or none")


def _check_model(model: dict[str, Any], path: Path) -> None:
    if model.get("type", "BPE") != "BPE":
        raise _refuse(path, "the model's type", model.get("type"), '"BPE"')
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges"):
        if model.get(key):
            raise _refuse(path, f"the model's {key}", model[key], "none")


def _merges(merges: Any, path: Path) -> list[tuple[str, str]]:
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


def _added_tokens(added: Any, vocab: dict[str, int], path: Path) -> list[str]:
    """The special tokens' spellings; those that the model's vocabulary leaves out are put into `vocab`."""
    special: list[str] = []
    if not isinstance(added, list):
        raise TokenizerError(f"{path}: added_tokens must be a list")
    for token in added:
        spelling, index = (token.get("content"), token.get("id")) if isinstance(token, dict) else (None, None)
        if not isinstance(spelling, str) or not spelling or type(index) is not int:
            raise TokenizerError(f"{path}: an added token is {json.dumps(token)[:80]}; it needs content and id")
        for key in ("single_word", "lstrip", "rstrip"):
            if token.get(key):
                raise _refuse(path, f"{key} of the added token {spelling!r}", token[key], "false")
        if token.get("special") is not True:
            raise _refuse(path, f"special of the added token {spelling!r}", token.get("special"), "true")
        if vocab.setdefault(spelling, index) != index:
            raise TokenizerError(
                f"{path}: the added token {spelling!r} has id {index}, but {vocab[spelling]} in the vocabulary"
            )
        special.append(spelling)
    return special


def write(tokenizer: BPETokenizer, path: Path) -> None:
    vocab, merges = to_vocab(tokenizer)
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    special = sorted(tokenizer.special_tokens.items(), key=lambda item: item[1])
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": index, "content": spelling, **flags} for spelling, index in special],
        "normalizer": None,
        "pre_tokenizer": _BYTE_LEVEL,
        "post_processor": _BYTE_LEVEL,
        "decoder": _BYTE_LEVEL,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": [f"{left} {right}" for left, right in merges],
        },
    }
    write_text(path, json.dumps(document, ensure_ascii=False))
