"""Hugging Face's tokenizer.json of LLaMA-2, TinyLlama, Mistral and their like: BPE on characters, spaces as U+2581.

Two forms are in use, and both are read. In the old one a normalizer writes U+2581 before the text and in place of
spaces; in the new one the pre-tokenizer Metaspace does. What is not supported is refused by its name and value.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gollm.errors import TokenizerError
from gollm.system.strict_json import shorten
from gollm.tokenizers.files import added_tokens
from gollm.tokenizers.files.format import naming
from gollm.tokenizers.files.gpt2 import merge_table, vocab_of
from gollm.tokenizers.files.huggingface.document import (
    in_order,
    read_merges,
    read_template,
    refuse,
    to_json,
    type_of,
    warn_of_limits,
    write_template,
)
from gollm.tokenizers.files.piece_scores import merges_of
from gollm.tokenizers.sentencepiece import MARK, DummyPrefix, PieceType, SentencePieceTokenizer
from gollm.tokenizers.vocabulary import Vocabulary

_refuse = partial(refuse, of="LLaMA-2's kind of BPE")

_PREPEND = {"type": "Prepend", "prepend": MARK}
_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": MARK}
_REPLACE_BACK = {"type": "Replace", "pattern": {"String": MARK}, "content": " "}
_STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
_JOIN: list[dict[str, Any]] = [_REPLACE_BACK, {"type": "ByteFallback"}, {"type": "Fuse"}]
_BYTE_OF_NAME = {f"<0x{byte:02X}>": bytes([byte]) for byte in range(256)}
_NAME_OF_BYTE = {byte: name for name, byte in _BYTE_OF_NAME.items()}


def recognises(document: dict[str, Any]) -> bool:
    """Whether a parsed tokenizer.json is one of these: BPE with U+2581 in its normalizer or pre-tokenizer."""
    if type_of(document.get("pre_tokenizer")) == "Metaspace":
        return type_of({"type": "BPE", **document["model"]}) == "BPE"
    return any(step in (_PREPEND, _REPLACE) for step in _steps(document.get("normalizer"), "normalizers"))


def _steps(part: Any, key: str) -> list[Any]:
    """The parts of a Sequence, or the one part."""
    steps = part.get(key) if isinstance(part, dict) and part.get("type") == "Sequence" else [part]
    return steps if isinstance(steps, list) else [part]


def parse(document: dict[str, Any], path: Path) -> SentencePieceTokenizer:
    """The tokenizer that a parsed tokenizer.json describes."""
    model = document["model"]
    warn_of_limits(document, path)
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"):
        if model.get(key):
            raise _refuse(path, f"the model's {key}", model[key], "none")
    dummy_prefix, split_spaces = _read_prefix(document, path)
    _check_decoder(document.get("decoder"), dummy_prefix, path)
    prefix, suffix = read_template(document.get("post_processor"), path)
    vocab = dict(vocab_of(model.get("vocab"), path))
    added = added_tokens.read_list(document.get("added_tokens") or [], vocab, path)
    unknown = model.get("unk_token")
    if unknown is not None and (not isinstance(unknown, str) or unknown not in vocab):
        raise _refuse(path, "the model's unk_token", unknown, "one of the vocabulary, or null")
    merges = read_merges(model.get("merges"), path)
    byte_fallback = bool(model.get("byte_fallback"))
    reached = {left + right for left, right in merges}.union(*merges, _BYTE_OF_NAME if byte_fallback else ())
    added = [
        replace(token, ordinary=token.ordinary and (len(token.spelling) == 1 or token.spelling in reached))
        for token in added
    ]
    if dummy_prefix == "never" and document.get("normalizer") is None:  # nothing is normalized there
        added = [replace(token, normalized=False) for token in added]
    outside = {token.spelling for token in added if not token.ordinary}
    tokens, types = _tokens(vocab, outside, unknown, byte_fallback, path)
    with naming(path):
        tokenizer = SentencePieceTokenizer(
            Vocabulary.of(tokens),
            types,
            merges=merge_table(merges, vocab, path),
            dummy_prefix=dummy_prefix,
            split_spaces=split_spaces,
            fuse_unknown=bool(model.get("fuse_unk")),
            added_tokens=[token for token in added if not token.plain],
            prefix=prefix,
            suffix=suffix,
        )
        tokenizer.check()
    return tokenizer


def _read_prefix(document: dict[str, Any], path: Path) -> tuple[DummyPrefix, bool]:
    """(dummy_prefix, split_spaces)"""
    normalizer, before = document.get("normalizer"), document.get("pre_tokenizer")
    if before is None:
        steps = _steps(normalizer, "normalizers")
        if steps not in ([_PREPEND, _REPLACE], [_REPLACE]):
            raise _refuse(path, "normalizer", normalizer, "Prepend and Replace, or Replace, of U+2581")
        return ("always" if len(steps) == 2 else "never"), False
    if normalizer is not None:
        raise _refuse(path, "normalizer beside a pre_tokenizer", normalizer, "one of the two")
    if type_of(before) != "Metaspace" or before.get("replacement") != MARK:
        raise _refuse(path, "pre_tokenizer", before, "Metaspace of U+2581, or none")
    scheme = before.get("prepend_scheme", "always" if before.get("add_prefix_space", True) else "never")
    prefixes: dict[Any, DummyPrefix] = {"always": "missing", "first": "first", "never": "never"}
    split = before.get("split", True)
    if not isinstance(scheme, str) or scheme not in prefixes or type(split) is not bool:
        raise _refuse(path, "pre_tokenizer", before, "prepend_scheme always, first or never, and split true or false")
    return prefixes[scheme], split


def _check_decoder(decoder: Any, dummy_prefix: DummyPrefix, path: Path) -> None:
    strips = [] if dummy_prefix == "never" else [_STRIP]
    if _steps(decoder, "decoders") != _JOIN + strips and type_of(decoder) != "Metaspace" and decoder is not None:
        names = "Replace, ByteFallback, Fuse" + (" and Strip of one space" if strips else ", and no Strip")
        raise _refuse(path, "decoder", decoder, names)


def _tokens(
    vocab: dict[str, int], added: set[str], unknown: str | None, byte_fallback: bool, path: Path
) -> tuple[list[bytes], np.ndarray[Any, Any]]:
    """What each token stands for, and its type."""
    tokens: list[bytes] = []
    types = np.full(len(vocab), PieceType.NORMAL, np.uint8)
    for index, token in enumerate(in_order(vocab, path)):
        if token == unknown or token in added:
            types[index] = PieceType.UNKNOWN if token == unknown else PieceType.CONTROL
            tokens.append(token.encode("utf-8", "replace"))
        elif byte_fallback and token in _BYTE_OF_NAME:
            types[index] = PieceType.BYTE
            tokens.append(_BYTE_OF_NAME[token])
        elif " " in token:
            raise TokenizerError(
                f"{path}: token {shorten(token)} (id {index}) has a space, which must be written as U+2581"
            )
        else:
            try:
                tokens.append(token.replace(MARK, " ").encode())
            except UnicodeEncodeError:
                raise TokenizerError(f"{path}: token {shorten(token)} (id {index}) is no text") from None
    return tokens, types


def to_files(tokenizer: SentencePieceTokenizer, path: Path) -> dict[Path, bytes]:
    """In the old form where a space stands before every text, else in the new one."""
    if tokenizer.charsmap is not None or tokenizer.remove_extra_spaces:
        raise TokenizerError(
            f"cannot write {path}: tokenizer.json has no equal of SentencePiece's normalisation and of removing spaces"
        )
    kinds = tokenizer.types.tolist()
    if tokenizer.dummy_prefix != "never":  # no merge has a user-defined piece: a single character is one without rules
        kinds = [_without_rules(token, kind) for token, kind in zip(tokenizer.vocabulary, kinds, strict=True)]
    user_defined = [i for i, kind in enumerate(kinds) if kind == PieceType.USER_DEFINED]
    if user_defined and tokenizer.dummy_prefix != "never":
        raise TokenizerError(
            f"cannot write {path}: the user-defined piece {shorten(tokenizer.vocabulary[user_defined[0]])} would be an "
            "added token in tokenizer.json, where no space is put before a text that begins with one"
        )
    names = [_spell(token, kind) for token, kind in zip(tokenizer.vocabulary, kinds, strict=True)]
    vocab = {name: i for i, name in enumerate(names)}
    unknown = kinds.index(PieceType.UNKNOWN) if PieceType.UNKNOWN in kinds else None
    normalizer, pre_tokenizer = _write_prefix(tokenizer)
    merges = [[names[left], names[right]] for left, right, _ in merges_of(tokenizer)]
    if len(vocab) < len(names):
        raise TokenizerError(f"cannot write {path}: two tokens have the same spelling there")
    return to_json(
        tokenizer,
        path,
        [added_tokens.entry(names[i], i) for i in user_defined],  # found in every text
        normalizer=normalizer,
        pre_tokenizer=pre_tokenizer,
        post_processor=write_template(tokenizer, names),
        decoder={"type": "Sequence", "decoders": _JOIN + ([] if tokenizer.dummy_prefix == "never" else [_STRIP])},
        model={
            "type": "BPE",
            "dropout": None,
            "unk_token": None if unknown is None else names[unknown],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": tokenizer.fuse_unknown,
            "byte_fallback": PieceType.BYTE in kinds,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": merges,
        },
    )


def _write_prefix(tokenizer: SentencePieceTokenizer) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """(normalizer, pre_tokenizer)"""
    schemes = {"missing": "always", "first": "first", "never": "never"}
    if tokenizer.dummy_prefix == "always" and not tokenizer.split_spaces:
        return {"type": "Sequence", "normalizers": [_PREPEND, _REPLACE]}, None
    if tokenizer.dummy_prefix == "never" and any(token.normalized for token in tokenizer.added_tokens):
        return _REPLACE, None
    if tokenizer.dummy_prefix == "always":
        raise TokenizerError("tokenizer.json can't put a space before every text and cut the text at spaces")
    scheme = schemes[tokenizer.dummy_prefix]
    return None, {"type": "Metaspace", "replacement": MARK, "prepend_scheme": scheme, "split": tokenizer.split_spaces}


def _without_rules(token: bytes, kind: int) -> int:
    single = kind == PieceType.USER_DEFINED and len(token.decode("utf-8", "replace")) == 1
    return PieceType.NORMAL if single else kind


def _spell(token: bytes, kind: int) -> str:
    if kind == PieceType.BYTE:
        return _NAME_OF_BYTE[token]
    try:
        text = token.decode()
    except UnicodeDecodeError:
        raise TokenizerError(f"token {shorten(token)} is no text; tokenizer.json can't hold it") from None
    return text.replace(" ", MARK) if kind == PieceType.NORMAL else text
