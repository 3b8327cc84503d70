"""gollm's own tokenizer file: the header and the arrays of `to_state` as JSON that a person can read.

    {"format": "gollm-tokenizer", "version": 1, "kind": "bpe", "vocab_size": 258, "special_tokens": {},
     "pattern": "gpt2", "tokens": ["\\u0000", ..., {"hex": "ff"}, "aa", "th"],
     "merges": [[97, 97, 256], [116, 104, 257]]}

A token that is not UTF-8 is written in hexadecimal. Files are read with care: at most 256 MB, no deep nesting, nothing
but JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gollm.errors import TokenizerError
from gollm.system.files import read_regular, reason, refuse_pointer, replacing
from gollm.tokenizers.vocabulary import MAX_TOKENS, Vocabulary

if TYPE_CHECKING:
    from gollm.tokenizers.base import Tokenizer

FORMAT = "gollm-tokenizer"
_MAX_BYTES = 256 << 20
_NUMBERS = {"types": np.uint8, "scores": np.float32}
"""Arrays of numbers that some kinds of tokenizers have, beside merges and the bytes "charsmap"."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """A TokenizerError from within names the file, too."""
    try:
        yield
    except TokenizerError as error:
        message = str(error)
        raise TokenizerError(message if str(path) in message else f"{path}: {message}") from None


def read_head(path: Path) -> bytes:
    """The first bytes of a file, which tell what it is. Raises TokenizerError if it can't be read."""
    return _read(path, 256)


def _read(path: Path, size: int) -> bytes:
    try:
        data = read_regular(path, size)
    except OSError as error:
        raise TokenizerError(f"cannot read {path}: {reason(error)}") from None
    refuse_pointer(path, data, TokenizerError)
    return data


def read_bytes(path: Path) -> bytes:
    """The bytes of a file. Raises TokenizerError if it can't be read or is too long."""
    data = _read(path, _MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise TokenizerError(f"{path} is longer than {_MAX_BYTES >> 20} MB; no tokenizer is that large")
    return data


def read_text(path: Path) -> str:
    """The text of a file. Raises TokenizerError as read_bytes does, and if it is not UTF-8."""
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path} is not UTF-8 text (byte {error.start})") from None


def read_json(path: Path) -> Any:
    """The value of a JSON file. Raises TokenizerError if it isn't one."""
    text = read_text(path)
    try:
        return json.loads(text)
    except RecursionError:
        raise TokenizerError(f"{path}: nested too deeply for a tokenizer") from None
    except ValueError as error:
        raise TokenizerError(f"{path} is not JSON: {error}") from None


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all. Raises TokenizerError."""
    with replacing(path, TokenizerError) as file:
        file.write(text.encode())


def write(tokenizer: Tokenizer, path: Path) -> None:
    header, arrays = tokenizer.to_state()
    document = {"format": FORMAT, **header, "tokens": [_spell(token) for token in tokenizer.vocabulary]}
    lines = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in document.items()]
    lines += [f'"{name}": {json.dumps(arrays[name].tolist())}' for name in _NUMBERS if name in arrays]
    if "charsmap" in arrays:
        lines.append(f'"charsmap": "{arrays["charsmap"].tobytes().hex()}"')
    if "merges" in arrays:
        rows = ",\n  ".join(map(str, arrays["merges"].tolist()))
        lines.append(f'"merges": [\n  {rows}\n ]')
    write_text(path, "{" + ",\n ".join(lines) + "}\n")


def parse(document: dict[str, Any], path: Path) -> Tokenizer:
    """The tokenizer that a parsed file describes."""
    from gollm.tokenizers import from_state

    try:
        tokens = document.get("tokens")
        if not isinstance(tokens, list) or len(tokens) > MAX_TOKENS:
            raise TokenizerError(f"tokens must be a list of up to {MAX_TOKENS}")
        vocabulary = Vocabulary.of(_unspell(i, token) for i, token in enumerate(tokens))
        arrays: dict[str, Any] = {"tokens": vocabulary.tokens, "offsets": vocabulary.offsets}
        if "merges" in document:
            arrays["merges"] = _merges(document["merges"])
        arrays |= {name: _numbers(name, document[name]) for name in _NUMBERS if name in document}
        if "charsmap" in document:
            arrays["charsmap"] = np.frombuffer(_hex("charsmap", document["charsmap"]), np.uint8)
        header = {key: value for key, value in document.items() if key not in ("format", *arrays)}
        return from_state(header, arrays)
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from None


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
