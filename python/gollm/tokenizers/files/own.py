"""gollm's own tokenizer file: the header and the arrays of `to_state` as JSON that a person can read.

    {"format": "gollm-tokenizer", "version": 1, "kind": "bpe", "vocab_size": 258, "special_tokens": {},
     "pattern": "gpt2", "tokens": ["\\u0000", ..., {"hex": "ff"}, "aa", "th"],
     "merges": [[97, 97, 256], [116, 104, 257]]}

A token that is not UTF-8 is written in hexadecimal.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from gollm.errors import TokenizerError
from gollm.tokenizers.base import Tokenizer
from gollm.tokenizers.files.format import TokenizerFile, TokenizerFormat, naming
from gollm.tokenizers.kinds import KINDS, from_state
from gollm.tokenizers.vocabulary import MAX_VOCAB_SIZE, Vocabulary

_MARK = "gollm-tokenizer"
_NUMBERS = {"types": np.uint8, "scores": np.float32}
"""Arrays of numbers that some kinds of tokenizers have, beside merges and the bytes "charsmap"."""


def to_files(tokenizer: Tokenizer, path: Path) -> dict[Path, bytes]:
    header, arrays = tokenizer.to_state()
    document = {"format": _MARK, **header, "tokens": [_spell(token) for token in tokenizer.vocabulary]}
    lines = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in document.items()]
    lines += [f'"{name}": {json.dumps(arrays[name].tolist())}' for name in _NUMBERS if name in arrays]
    if "charsmap" in arrays:
        lines.append(f'"charsmap": "{arrays["charsmap"].tobytes().hex()}"')
    if "merges" in arrays:
        rows = ",\n  ".join(map(str, arrays["merges"].tolist()))
        lines.append(f'"merges": [\n  {rows}\n ]')
    return {path: ("{" + ",\n ".join(lines) + "}\n").encode()}


def recognises(file: TokenizerFile) -> bool:
    return isinstance(file.document, dict) and file.document.get("format") == _MARK


def read(file: TokenizerFile) -> Tokenizer:
    document = file.document
    with naming(file.path):
        tokens = document.get("tokens")
        if not isinstance(tokens, list) or len(tokens) > MAX_VOCAB_SIZE:
            raise TokenizerError(f"tokens must be a list of up to {MAX_VOCAB_SIZE}")
        vocabulary = Vocabulary.of(_unspell(i, token) for i, token in enumerate(tokens))
        arrays: dict[str, Any] = {"tokens": vocabulary.tokens, "offsets": vocabulary.offsets}
        if "merges" in document:
            arrays["merges"] = _merges(document["merges"])
        arrays |= {name: _numbers(name, document[name]) for name in _NUMBERS if name in document}
        if "charsmap" in document:
            arrays["charsmap"] = np.frombuffer(_hex("charsmap", document["charsmap"]), np.uint8)
        header = {key: value for key, value in document.items() if key not in ("format", *arrays)}
        return from_state(header, arrays)


def _spell(token: bytes) -> str | dict[str, str]:
    try:
        return token.decode()
    except UnicodeDecodeError:
        return {"hex": token.hex()}


def _unspell(index: int, token: Any) -> bytes:
    try:
        return bytes.fromhex(token["hex"]) if isinstance(token, dict) else token.encode()
    except (KeyError, TypeError, ValueError, AttributeError):
        raise TokenizerError(
            f'token {index} is {json.dumps(token)[:80]}; it must be text or {{"hex": "..."}}'
        ) from None


def _merges(rows: Any) -> Any:
    """(n, 3) int32"""
    try:
        if not all(len(row) == 3 and all(type(i) is int for i in row) for row in rows):
            raise ValueError
        return np.array(rows, np.int32).reshape(-1, 3)
    except (TypeError, ValueError, OverflowError):
        raise TokenizerError("merges must be a list of [left, right, result], three ids each") from None


def _numbers(name: str, values: Any) -> Any:
    """(n) of the dtype of `name`"""
    dtype = _NUMBERS[name]
    try:
        if not isinstance(values, list) or not all(type(value) in (int, float) for value in values):
            raise ValueError
        array = np.array(values, dtype)
        if dtype == np.uint8 and array.tolist() != values:
            raise ValueError
        return array
    except (TypeError, ValueError, OverflowError):
        raise TokenizerError(f"{name} must be a list of numbers ({np.dtype(dtype)})") from None


def _hex(name: str, value: Any) -> bytes:
    try:
        return bytes.fromhex(value)
    except (TypeError, ValueError):
        raise TokenizerError(f"{name} must be hexadecimal digits") from None


FORMAT = TokenizerFormat("gollm", recognises, read, tuple(KINDS.values()), to_files)
