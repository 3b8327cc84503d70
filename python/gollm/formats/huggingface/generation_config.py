"""What a Hugging Face folder says about generating: generation_config.json, and the chat templates.

The weights do not need these files, so nothing in them is a reason to refuse a model: what is odd is left out, with one
warning that names the file, the key and the value.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gollm.errors import FormatError, warn
from gollm.model.generation_defaults import GenerationDefaults, sound
from gollm.system.files import read_regular, reason, refuse_pointer, replacing
from gollm.system.strict_json import parse_object, shorten
from gollm.tokenizers import Tokenizer

MAX_JSON_BYTES = 8 << 20
TEMPLATE, MORE_TEMPLATES = "chat_template.jinja", "additional_chat_templates"
_MAX_TEMPLATES = 64

_TOKENS = ("eos", "bos", "pad")
_DRAWING = ("temperature", "top_k", "top_p", "min_p")  # heard only with do_sample
_NUMBERS = (*_DRAWING, "repetition_penalty", "max_new_tokens")
_WHOLE = ("top_k", "max_new_tokens")
_BOM = b"\xef\xbb\xbf"


def _read_small(path: Path) -> bytes | None:
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
    return text.removeprefix(_BOM)


def read_object(path: Path, *, lenient: bool = False) -> dict[str, Any] | None:
    """A small JSON object, or None where there is no file. Raises FormatError."""
    text = _read_small(path)
    return None if text is None else parse_object(text, str(path), FormatError, lenient=lenient)


def read_defaults(folder: Path, model: Mapping[str, Any], vocab_size: int) -> GenerationDefaults:
    """From generation_config.json where it is there, else from `model`, the parsed config.json."""
    path = folder / "generation_config.json"
    found = _side_json(path)
    ids: dict[str, tuple[int, ...]] = {}
    for token in _TOKENS:
        key = f"{token}_token_id"
        values, where = (found, path) if key in found else (model, folder / "config.json")
        ids[token] = _ids(values.get(key), f"{where}: {key}", vocab_size)
    numbers = {name: sound(name, found.get(name), f"{path}: {name}") for name in _NUMBERS}
    do_sample = found.get("do_sample")
    if do_sample is False:
        numbers |= dict.fromkeys(_DRAWING) | {"temperature": 0.0}
    elif do_sample not in (None, True):
        warn(f"{path}: do_sample is {shorten(do_sample)}; it must be true or false, so it is left out")
    template, templates = read_chat_templates(folder)
    return GenerationDefaults(
        stop_tokens=ids["eos"],
        bos_token=next(iter(ids["bos"]), None),
        pad_token=next(iter(ids["pad"]), None),
        chat_template=template,
        chat_templates=templates,
        **numbers,
    )


def _side_json(path: Path) -> dict[str, Any]:
    """A JSON object that the model can do without; empty, with a warning, where it cannot be read."""
    try:
        return read_object(path, lenient=True) or {}
    except FormatError as error:
        warn(f"{error}; the file is left out")
        return {}


def _ids(value: Any, where: str, vocab_size: int) -> tuple[int, ...]:
    """A number, or a list of them. Files have -1 for none."""
    ids = value if isinstance(value, list) else [] if value is None else [value]
    kept = tuple(index for index in ids if type(index) is int and 0 <= index < vocab_size)
    odd = [index for index in ids if type(index) is not int or (index != -1 and index not in kept)]
    if odd:
        warn(
            f"{where} is {shorten(value)}; it must be the id of a token, from 0 to {vocab_size - 1}, or a list of "
            f"them, so {shorten(odd[0])} is left out"
        )
    return kept


# --- chat templates --------------------------------------------------------------------------------------------------


def read_chat_templates(folder: Path) -> tuple[str | None, dict[str, str]]:
    """The default one and those with names, as transformers finds them: chat_template.jinja and the files in
    additional_chat_templates, else what older folders have in tokenizer_config.json: a template, or a list of named
    ones."""
    found: dict[str, Any] = {}
    files = {"default": folder / TEMPLATE}
    if (folder / MORE_TEMPLATES).is_dir():
        files |= {path.name.removesuffix(".jinja"): path for path in _jinja_files(folder / MORE_TEMPLATES)}
    for name, path in files.items():
        try:
            text = _read_small(path)
            if text is not None:
                found[name] = text.decode()
        except FormatError as error:
            warn(f"{error}; the file is left out")
        except UnicodeDecodeError as failure:
            warn(f"{path} is not UTF-8 text (byte {failure.start}); the file is left out")
    where = folder / MORE_TEMPLATES
    if not found:
        where = folder / "tokenizer_config.json"
        found = _named(_side_json(where).get("chat_template"), f"{where}: chat_template")
    template = sound("chat_template", found.pop("default", None), f"{where}: chat_template")
    templates = {
        name: text
        for name, text in found.items()
        if sound("chat_templates", {name: text}, f"{where}: a chat template") is not None
    }
    return template, templates


def _jinja_files(folder: Path) -> list[Path]:
    paths = sorted(folder.glob("*.jinja"))
    if len(paths) > _MAX_TEMPLATES:
        warn(f"{folder} has {len(paths)} templates; only the first {_MAX_TEMPLATES} are read")
    return paths[:_MAX_TEMPLATES]


def _named(value: Any, where: str) -> dict[str, Any]:
    """What tokenizer_config.json has: {name: template}, the one without a name called "default"."""
    if not isinstance(value, list):
        return value if isinstance(value, dict) else {"default": value}
    named = {}
    for entry in value:
        if isinstance(entry, dict) and isinstance(entry.get("name"), str):
            named[entry["name"]] = entry.get("template")
        else:
            warn(f"{where} has {shorten(entry)}; it must be an object with name and template, so it is left out")
    return named


def write_chat_templates(defaults: GenerationDefaults, folder: Path) -> None:
    """chat_template.jinja and additional_chat_templates, as transformers 5 writes them."""
    files = {} if defaults.chat_template is None else {folder / TEMPLATE: defaults.chat_template}
    if defaults.chat_templates:
        (folder / MORE_TEMPLATES).mkdir()
    files |= {folder / MORE_TEMPLATES / f"{name}.jinja": text for name, text in defaults.chat_templates.items()}
    for path, text in files.items():
        with replacing(path, FormatError) as file:
            file.write(text.encode())


# --- tokens and numbers ----------------------------------------------------------------------------------------------


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
    """generation_config.json: what is known, and no more. transformers wants floats where they are possible."""
    greedy = defaults.temperature == 0
    stop = list(defaults.stop_tokens)
    numbers = {name: getattr(defaults, name) for name in _NUMBERS if not (greedy and name in _DRAWING)}
    draws = any(numbers.get(name) is not None for name in _DRAWING)
    values = {
        "bos_token_id": defaults.bos_token,
        "eos_token_id": stop[0] if len(stop) == 1 else stop or None,
        "pad_token_id": defaults.pad_token,
        "do_sample": False if greedy else True if draws else None,
        **{name: number if name in _WHOLE or number is None else float(number) for name, number in numbers.items()},
    }
    return {key: value for key, value in values.items() if value is not None}
