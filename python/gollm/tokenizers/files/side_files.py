"""What a folder of Hugging Face's says beside a vocabulary that says little: its added tokens and template.

    tokenizer_config.json    tokenizer_class, added_tokens_decoder (id -> token), bos_token, ..., add_bos_token, ...
    special_tokens_map.json  bos_token, ...; like added_tokens.json it counts where there is no added_tokens_decoder
    added_tokens.json        spelling -> id
    config.json              model_type, which tells the class where nothing else does

They are read as transformers 5 reads them for a tokenizer without tokenizer.json (tokenization_utils_base.py and
tokenization_utils_tokenizers.py there). What is odd in them is left out with a warning: it never costs the tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from gollm.errors import TokenizerError, warn
from gollm.system.strict_json import shorten
from gollm.tokenizers.added_tokens import MAX_ADDED_TOKENS, AddedToken
from gollm.tokenizers.files.added_tokens import FLAGS
from gollm.tokenizers.files.format import read_json
from gollm.tokenizers.vocabulary import MAX_VOCAB_SIZE

_CONFIG, _MAP, _ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class Beside(NamedTuple):
    """tokens: in transformers' order; one without an id of its own has -1. settings: tokenizer_config.json with the
    named tokens as spellings. kind: the class in transformers, without "Fast"."""

    tokens: list[AddedToken]
    settings: dict[str, Any]
    kind: str

    def template(self, ids: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        """`prefix` and `suffix`, where the files say anything about them."""
        found: dict[str, tuple[int, ...]] = {}
        for side, key, name in (("prefix", "add_bos_token", "bos_token"), ("suffix", "add_eos_token", "eos_token")):
            index = ids.get(self.settings.get(name, ""))
            if type(self.settings.get(key)) is bool:
                found[side] = (index,) if self.settings[key] and index is not None else ()
        return found


def read(folder: Path, defaults: Mapping[str, Mapping[str, str]] | None = None) -> Beside | None:
    """None if there are no such files. defaults: the named tokens that a class has where the files name none."""
    if not any((folder / name).is_file() for name in (_CONFIG, _MAP, _ADDED)):
        return None
    settings = _object(folder / _CONFIG)
    kind = _kind(folder, settings)
    settings = {**(defaults or {}).get(kind, {}), **settings}
    decoder = settings.get("added_tokens_decoder")
    tokens: list[AddedToken] = []
    if isinstance(decoder, dict):
        numbered = [(_number(key), value) for key, value in decoder.items()]
        for index, value in sorted(numbered, key=lambda pair: pair[0]):
            tokens += _token(value, index, folder / _CONFIG)
    else:
        settings |= _object(folder / _MAP)
        listed = {token.spelling for token in _named(settings, folder)}
        for spelling, index in _object(folder / _ADDED).items():
            special = spelling in listed
            value = {"content": spelling, "special": special, "normalized": not special}
            tokens += _token(value, index if type(index) is int else -2, folder / _ADDED)
    known = {token.spelling: i for i, token in enumerate(tokens)}
    for token in _named(settings, folder):
        if token.spelling not in known:
            known[token.spelling] = len(tokens)
            tokens.append(token)
        else:
            i = known[token.spelling]
            plain = AddedToken(token.spelling, tokens[i].id)  # that class adds all of them once more
            tokens[i] = plain if kind == "Qwen2Tokenizer" else replace(tokens[i], special=True)
    if len(tokens) > MAX_ADDED_TOKENS:
        raise TokenizerError(f"{folder}: {len(tokens)} added tokens; at most {MAX_ADDED_TOKENS} are possible")
    for name in _NAMED:
        if isinstance(settings.get(name), dict):
            settings[name] = settings[name].get("content")
        if not isinstance(settings.get(name), str):
            settings.pop(name, None)
    return Beside(tokens, settings, kind)


def _kind(folder: Path, settings: Mapping[str, Any]) -> str:
    name = settings.get("tokenizer_class")
    if isinstance(name, str):
        return name.removesuffix("Fast")
    return "Qwen2Tokenizer" if str(_object(folder / "config.json").get("model_type")).startswith("qwen") else ""


def _named(settings: Mapping[str, Any], folder: Path) -> Iterator[AddedToken]:
    """The special tokens that have a name, then the others."""
    more = settings.get("extra_special_tokens") or settings.get("additional_special_tokens")
    others = list(more.values()) if isinstance(more, dict) else more if isinstance(more, list) else []
    for value in [*(settings.get(name) for name in _NAMED), *others]:
        if value is not None:
            content = value.get("content") if isinstance(value, dict) else value
            flags = value if isinstance(value, dict) else {"normalized": False}
            yield from _token({**flags, "content": content, "special": True}, -1, folder / _CONFIG)


def _token(value: Any, index: int, path: Path) -> Iterator[AddedToken]:
    """The token, or a warning that it is left out."""
    spelling = value.get("content") if isinstance(value, dict) else None
    flags = {name: value.get(name, False) for name in FLAGS} if isinstance(value, dict) else {}
    sound = isinstance(spelling, str) and spelling and _is_text(spelling) and -1 <= index < MAX_VOCAB_SIZE
    if sound and all(type(flag) is bool for flag in flags.values()):
        yield AddedToken(str(spelling), index, **flags)
    else:
        warn(f"{path}: the added token {shorten(value)} is left out; it needs a spelling, an id and flags")


def _is_text(spelling: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in spelling)


def _number(key: str) -> int:
    return int(key) if key.isascii() and key.isdigit() and len(key) < 10 else -2


def _object(path: Path) -> dict[str, Any]:
    """The object in a file, or nothing, with a warning where it is damaged."""
    if not path.is_file():
        return {}
    try:
        value = read_json(path)
    except TokenizerError as error:
        warn(f"{error}; it is left out")
        return {}
    if isinstance(value, dict):
        return value
    warn(f"{path} is not a JSON object; it is left out")
    return {}
