"""What a Hugging Face folder says about generating: generation_config.json, and the chat template."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gollm.errors import FormatError, GenerationError
from gollm.files import read_regular, reason, refuse_pointer
from gollm.generation import GenerationDefaults
from gollm.strict_json import parse_object, shorten
from gollm.tokenizers import Tokenizer

MAX_JSON_BYTES = 8 << 20

_TOKENS = ("eos", "bos", "pad")

Values = Mapping[str, Any]


def read_text(path: Path) -> bytes | None:
    """A small file's bytes, or None where there is none. Raises FormatError for one that is large or unreadable."""
    try:
        text = read_regular(path, MAX_JSON_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as failure:
        raise FormatError(f"cannot read {path}: {reason(failure)}") from None
    if len(text) > MAX_JSON_BYTES:
        raise FormatError(f"{path} is longer than {MAX_JSON_BYTES >> 20} MB; no configuration is that large")
    refuse_pointer(path, text, FormatError)
    return text


def read_json(path: Path) -> dict[str, Any] | None:
    """A small JSON object, or None where there is no file. Raises FormatError."""
    text = read_text(path)
    return None if text is None else parse_object(text, str(path), FormatError)


def read_defaults(folder: Path, model: Values, vocab_size: int) -> GenerationDefaults:
    """From generation_config.json where it is there, else from `model`, the parsed config.json."""
    found = read_json(folder / "generation_config.json") or {}
    where = str(folder / ("generation_config.json" if found else "config.json"))
    values = {**{f"{key}_token_id": model.get(f"{key}_token_id") for key in _TOKENS}, **found}

    ids = {key: _ids(values.get(f"{key}_token_id"), f"{key}_token_id", where, vocab_size) for key in _TOKENS}
    sampling = {key: values.get(key) for key in ("temperature", "top_k", "top_p")}
    if values.get("do_sample") is False:
        sampling = {"temperature": 0.0}
    try:
        defaults = GenerationDefaults.from_dict({k: v for k, v in sampling.items() if v is not None})
    except GenerationError as error:
        raise FormatError(f"{where}: {error}") from None
    return dataclasses.replace(
        defaults,
        stop_tokens=ids["eos"],
        bos_token=next(iter(ids["bos"]), None),
        pad_token=next(iter(ids["pad"]), None),
        chat_template=_chat_template(folder),
    )


def _ids(value: Any, key: str, where: str, vocab_size: int) -> tuple[int, ...]:
    """A number, or a list of them. Files have -1 for none; an id that the model has not got never comes."""
    ids = value if isinstance(value, list) else [] if value is None else [value]
    if not all(type(index) is int for index in ids):
        raise FormatError(f"{where}: {key} is {shorten(value)}; it must be a token's id, or a list of them")
    return tuple(index for index in ids if 0 <= index < vocab_size)


def _chat_template(folder: Path) -> str | None:
    """chat_template.jinja, or what older folders have in tokenizer_config.json: a template, or a list of named ones."""
    text = read_text(folder / "chat_template.jinja")
    if text is not None:
        try:
            return text.decode()
        except UnicodeDecodeError as error:
            raise FormatError(f"{folder / 'chat_template.jinja'} is not UTF-8 text (byte {error.start})") from None
    where = folder / "tokenizer_config.json"
    found = (read_json(where) or {}).get("chat_template")
    if isinstance(found, list):
        named = [entry for entry in found if isinstance(entry, dict) and entry.get("name") == "default"]
        found = named[0].get("template") if named else None
    if found is not None and not isinstance(found, str):
        raise FormatError(f"{where}: chat_template is {shorten(found)}; it must be a Jinja template")
    return found


def with_tokens_of(tokenizer: Tokenizer | None, defaults: GenerationDefaults) -> GenerationDefaults:
    """The defaults with what only the tokenizer says of where a text begins and ends."""
    end = None if tokenizer is None else tokenizer.end_of_text
    if tokenizer is None or end is None:
        return defaults
    begin = tokenizer.prefix[0] if tokenizer.prefix else end  # GPT-2 has one token for both
    return dataclasses.replace(
        defaults,
        stop_tokens=defaults.stop_tokens or (end,),
        bos_token=begin if defaults.bos_token is None else defaults.bos_token,
    )


def generation_json(defaults: GenerationDefaults) -> dict[str, Any]:
    """generation_config.json: what is known, and no more."""
    greedy = defaults.temperature == 0
    sampling = {} if greedy else {key: getattr(defaults, key) for key in ("temperature", "top_k", "top_p")}
    stop = list(defaults.stop_tokens)
    values = {
        "bos_token_id": defaults.bos_token,
        "eos_token_id": stop[0] if len(stop) == 1 else stop or None,
        "pad_token_id": defaults.pad_token,
        "do_sample": False if greedy else True if any(v is not None for v in sampling.values()) else None,
        **sampling,
    }
    return {key: value for key, value in values.items() if value is not None}
