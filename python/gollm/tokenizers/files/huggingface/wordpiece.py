"""Hugging Face's tokenizer.json of BERT and its like; what is not supported is refused by its name and value."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from gollm import _native
from gollm.errors import TokenizerError
from gollm.system.strict_json import shorten
from gollm.tokenizers.files import added_tokens
from gollm.tokenizers.files.added_tokens import without_added
from gollm.tokenizers.files.format import naming
from gollm.tokenizers.files.gpt2 import vocab_of
from gollm.tokenizers.files.huggingface.document import (
    in_order,
    read_template,
    refuse,
    to_json,
    type_of,
    warn_of_limits,
    write_template,
)
from gollm.tokenizers.vocabulary import Vocabulary
from gollm.tokenizers.wordpiece import CONTINUING, WordPieceTokenizer

_refuse = partial(refuse, of="BERT's WordPiece")


def recognises(document: dict[str, Any]) -> bool:
    """Whether a parsed tokenizer.json is WordPiece."""
    return type_of(document["model"]) == "WordPiece"


def parse(document: dict[str, Any], path: Path) -> WordPieceTokenizer:
    """The tokenizer that a parsed tokenizer.json describes."""
    model = document["model"]
    warn_of_limits(document, path)
    if type_of(document.get("pre_tokenizer")) != "BertPreTokenizer":
        raise _refuse(path, "pre_tokenizer", document.get("pre_tokenizer"), "BertPreTokenizer")
    if model.get("continuing_subword_prefix", CONTINUING) != CONTINUING:
        raise _refuse(path, "continuing_subword_prefix", model["continuing_subword_prefix"], f'"{CONTINUING}"')
    cleanup = _read_decoder(document.get("decoder"), path)
    switches = _read_normalizer(document.get("normalizer"), path)
    prefix, suffix = read_template(document.get("post_processor"), path)
    vocab = dict(vocab_of(model.get("vocab"), path))
    added = added_tokens.read_list(document.get("added_tokens") or [], vocab, path)
    added = [replace(token, ordinary=token.ordinary and _is_word(token.spelling, switches)) for token in added]
    unknown = model.get("unk_token", "[UNK]")
    if not isinstance(unknown, str) or unknown not in vocab:
        raise _refuse(path, "unk_token", unknown, "a token of the vocabulary")
    special = {token.spelling: token.id for token in added if token.plain} | {unknown: vocab[unknown]}
    with naming(path):
        tokenizer = WordPieceTokenizer(
            Vocabulary.of(_tokens(vocab, path)),
            special,
            unknown,
            **switches,
            cleanup=cleanup,
            max_word=model.get("max_input_chars_per_word", 100),
            added_tokens=[token for token in added if not token.plain],
            prefix=prefix,
            suffix=suffix,
        )
        tokenizer.check()
    return tokenizer


def _is_word(spelling: str, switches: dict[str, bool]) -> bool:
    """Whether a token can be a word or a part of one, and not only be looked for: "the", but not "[SEP]"."""
    word = spelling.removeprefix(CONTINUING)
    names = ("clean_text", "space_chinese", "strip_accents", "lowercase")
    return _native.bert_words(word, *(switches[name] for name in names)) == [word]


def _read_normalizer(part: Any, path: Path) -> dict[str, bool]:
    if not isinstance(part, dict) or part.get("type") != "BertNormalizer":
        raise _refuse(path, "normalizer", part, "BertNormalizer")
    lowercase = part.get("lowercase", True)
    strip = part.get("strip_accents")
    switches = {
        "lowercase": lowercase,
        "strip_accents": lowercase if strip is None else strip,
        "clean_text": part.get("clean_text", True),
        "space_chinese": part.get("handle_chinese_chars", True),
    }
    if not all(type(value) is bool for value in switches.values()):
        raise _refuse(path, "normalizer", part, "switches that are true or false")
    return switches


def _read_decoder(part: Any, path: Path) -> bool:
    """Whether decoding tidies up."""
    if part is None:
        return True
    if not isinstance(part, dict) or part.get("type") != "WordPiece" or part.get("prefix", CONTINUING) != CONTINUING:
        raise _refuse(path, "decoder", part, f'WordPiece with the prefix "{CONTINUING}"')
    if type(part.get("cleanup", True)) is not bool:
        raise _refuse(path, "the decoder's cleanup", part["cleanup"], "true or false")
    return bool(part.get("cleanup", True))


def _tokens(vocab: dict[str, int], path: Path) -> list[bytes]:
    names = in_order(vocab, path)
    try:
        return [name.encode() for name in names]
    except UnicodeEncodeError as error:
        raise TokenizerError(f"{path}: token {shorten(error.object)} (id {vocab[error.object]}) is no text") from None


def to_files(tokenizer: WordPieceTokenizer, path: Path) -> dict[Path, bytes]:
    try:
        names = [token.decode() for token in tokenizer.vocabulary]
    except UnicodeDecodeError as error:
        raise TokenizerError(f"cannot write {path}: the token {shorten(error.object)} is no text") from None
    return to_json(
        tokenizer,
        path,
        normalizer={
            "type": "BertNormalizer",
            "clean_text": tokenizer.clean_text,
            "handle_chinese_chars": tokenizer.space_chinese,
            "strip_accents": tokenizer.strip_accents,
            "lowercase": tokenizer.lowercase,
        },
        pre_tokenizer={"type": "BertPreTokenizer"},
        post_processor=write_template(tokenizer, names),
        decoder={"type": "WordPiece", "prefix": CONTINUING, "cleanup": tokenizer.cleanup},
        model={
            "type": "WordPiece",
            "unk_token": tokenizer.unknown_token,
            "continuing_subword_prefix": CONTINUING,
            "max_input_chars_per_word": tokenizer.max_word,
            "vocab": without_added({name: i for i, name in enumerate(names)}, tokenizer, tokenizer.unknown_token),
        },
    )
