"""What a model's file says about generating with it: special tokens, the author's sampling options, chat templates."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gollm.errors import GenerationError, warn
from gollm.system.strict_json import shorten


@dataclass(frozen=True)
class GenerationDefaults:
    """What a model's file says about generating with it; None or empty where it says nothing.

    stop_tokens end a text (the end-of-sequence tokens of other formats); bos_token and pad_token are ids, too. The
    sampling options and max_new_tokens are the author's recommendation, kept for whoever asks. chat_template is a
    Jinja template that turns a conversation into a prompt; chat_templates are further ones by name, such as "tool_use".
    """

    stop_tokens: tuple[int, ...] = ()
    bos_token: int | None = None
    pad_token: int | None = None
    temperature: float | None = None  # 0: greedy
    top_k: int | None = None
    top_p: float | None = None
    chat_template: str | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_new_tokens: int | None = None
    chat_templates: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """What is said, as JSON can hold it; `from_dict` gives the same back."""
        values = {name: value for name, value in dataclasses.asdict(self).items() if value not in (None, (), {})}
        return {**values, **({"stop_tokens": list(self.stop_tokens)} if self.stop_tokens else {})}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GenerationDefaults:
        """From values that may come from anywhere. Raises GenerationError that names the one that is not allowed."""
        for name, value in values.items():
            if name not in _ALLOWED:
                known = ", ".join(_ALLOWED)
                raise GenerationError(f"the generation default {shorten(name)} is unknown; known are {known}")
            allowed, test = _ALLOWED[name]
            if not test(value):
                raise GenerationError(f"the generation default {name} is {shorten(value)}; it must be {allowed}")
        return cls(**{**values, "stop_tokens": tuple(values.get("stop_tokens", ()))})


def possible(name: str, value: Any) -> bool:
    """Whether the generation default `name` can have this value."""
    return _ALLOWED[name][1](value)


def sound(name: str, value: Any, where: str) -> Any:
    """A value for the generation default `name` from a file from outside; None, with a warning, for one that it cannot
    have."""
    allowed, test = _ALLOWED[name]
    if value is None or test(value):
        return value
    warn(f"{where} is {shorten(value)}; it must be {allowed}, so it is left out")
    return None


_MAX = sys.float_info.max
_MAX_TEMPLATE = 1 << 18  # characters; usual ones have a few thousand


def _is_id(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


def _is_text(value: object) -> bool:
    """A template; a checkpoint's header has little room."""
    return isinstance(value, str) and len(value) <= _MAX_TEMPLATE and not re.search("[\ud800-\udfff]", value)


def _is_name(value: object) -> bool:
    """The name of a chat template, which becomes a file's name."""
    return (
        isinstance(value, str)
        and value.isprintable()
        and 0 < len(value.encode()) <= 100
        and re.search(r'[/\\:*?"<>|]|^\.', value) is None
        and value != "default"
    )


_ALLOWED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "stop_tokens": ("a list of token ids", lambda v: isinstance(v, list | tuple) and all(map(_is_id, v))),
    "bos_token": ("a token id", _is_id),
    "pad_token": ("a token id", _is_id),
    "temperature": ("0 or a positive number", lambda v: _is_number(v) and 0 <= v <= _MAX),
    "top_k": ("0 (off) or a whole number up to 2147483647", _is_id),
    "top_p": ("above 0 and at most 1", lambda v: _is_number(v) and 0 < v <= 1),
    "chat_template": (f"text of at most {_MAX_TEMPLATE:,} characters", _is_text),
    "min_p": ("from 0 (off) to 1", lambda v: _is_number(v) and 0 <= v <= 1),
    "repetition_penalty": ("a positive number", lambda v: _is_number(v) and 0 < v <= _MAX),
    "max_new_tokens": ("a whole number from 1 to 2147483647", lambda v: _is_id(v) and v > 0),
    "chat_templates": (
        "texts by names that files can have",
        lambda v: isinstance(v, Mapping) and all(map(_is_name, v)) and all(map(_is_text, v.values())),
    ),
}
