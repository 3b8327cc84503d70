"""Generation: drawing tokens one after the other from a decoder, with a key/value cache.

Policy for long texts: a prompt longer than the context is refused. When the text grows past the context, the oldest
tokens are forgotten: generation goes on from the last half of the context. Nothing else is ever cut.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gollm.cache import KVCache
from gollm.errors import GenerationError, warn
from gollm.model import Decoder
from gollm.strict_json import shorten
from gollm.tensor import Array


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


def sound(name: str, value: Any, where: str) -> Any:
    """A value for the generation default `name` from a file from outside; None, with a warning, for one that it cannot
    have."""
    allowed, test = _ALLOWED[name]
    if value is None or test(value):
        return value
    warn(f"{where} is {shorten(value)}; it must be {allowed}, so it is left out")
    return None


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
    "temperature": ("0 or a positive number", lambda v: _is_number(v) and 0 <= v < math.inf),
    "top_k": ("0 (off) or a whole number up to 2147483647", _is_id),
    "top_p": ("above 0 and at most 1", lambda v: _is_number(v) and 0 < v <= 1),
    "chat_template": (f"text of at most {_MAX_TEMPLATE:,} characters", _is_text),
    "min_p": ("from 0 (off) to 1", lambda v: _is_number(v) and 0 <= v <= 1),
    "repetition_penalty": ("a positive number", lambda v: _is_number(v) and 0 < v < math.inf),
    "max_new_tokens": ("a whole number from 1 to 2147483647", lambda v: _is_id(v) and v > 0),
    "chat_templates": (
        "texts by names that files can have",
        lambda v: isinstance(v, Mapping) and all(map(_is_name, v)) and all(map(_is_text, v.values())),
    ),
}


def choose(
    logits: Array, generator: np.random.Generator, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> int:
    """Draws a token id from the logits (V,) of one position.

    Temperature 0 takes the largest logit (the first of equals) and draws nothing. top_k keeps the k largest (0: all),
    then top_p the fewest of these whose probabilities sum to at least p (Holtzman et al. 2020); ties go to the
    smaller id."""
    if temperature == 0:
        return int(logits.argmax())
    scaled = logits.astype(np.float64) / temperature
    order = np.argsort(-scaled, kind="stable")
    if top_k:
        order = order[:top_k]
    p = np.exp(scaled[order] - scaled[order[0]])
    p /= p.sum()
    if top_p < 1:
        keep = int(np.searchsorted(np.cumsum(p), top_p)) + 1
        order, p = order[:keep], p[:keep] / p[:keep].sum()
    cumulative = np.cumsum(p)
    index = int(np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right"))
    return int(order[min(index, len(order) - 1)])


def check_sampling(max_new_tokens: int, temperature: float, top_k: int, top_p: float) -> None:
    """Raises GenerationError for a sampling option outside of its range."""
    if max_new_tokens < 0:
        raise GenerationError(f"max_new_tokens is {max_new_tokens}; it must be 0 or more")
    if not 0 <= temperature < float("inf"):
        raise GenerationError(f"temperature is {temperature}; it must be 0 (greedy) or a positive number")
    if top_k < 0:
        raise GenerationError(f"top_k is {top_k}; it must be 0 (off) or more")
    if not 0 < top_p <= 1:
        raise GenerationError(f"top_p is {top_p}; it must be above 0 and at most 1")


def generate_tokens(
    model: Decoder,
    prompt: Sequence[int] | Array,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    stop: Sequence[int] = (),
    vocab_size: int | None = None,
) -> Iterator[int]:
    """Yields up to max_new_tokens token ids that continue the prompt; ends before a token of `stop`. Only ids below
    vocab_size are drawn, where it is given: a model may have rows of padding that no text is.

    The same arguments give the same tokens, whatever the number of threads. Raises GenerationError for an empty
    prompt, one that is longer than the context, or a sampling option outside of its range."""
    check_sampling(max_new_tokens, temperature, top_k, top_p)
    context = model.config.context
    tokens = [int(t) for t in prompt]
    if not tokens:
        raise GenerationError("the prompt is empty; give at least one token")
    if len(tokens) > context:
        raise GenerationError(
            f"the prompt has {len(tokens)} tokens, more than this model's context ({context}); shorten the prompt"
        )
    return _generate(model, tokens, max_new_tokens, temperature, top_k, top_p, seed, frozenset(stop), vocab_size)


def _generate(
    model: Decoder,
    tokens: list[int],
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    stop: frozenset[int],
    vocab_size: int | None,
) -> Iterator[int]:
    generator = np.random.Generator(np.random.Philox(seed))
    context = model.config.context
    capacity = min(context, len(tokens) + max_new_tokens)
    cache = KVCache(model.config, capacity=capacity, dtype=model.parameters.dtype)
    new = tokens
    for _ in range(max_new_tokens):
        if cache.lengths[0] + len(new) > context:
            cache.clear()
            new = tokens[-max(1, context // 2) :]
        cache.extend([len(new)])
        logits = model.next_logits(np.asarray(new, np.int32), cache)[0][:vocab_size]
        token = choose(logits, generator, temperature=temperature, top_k=top_k, top_p=top_p)
        if token in stop:
            return
        yield token
        tokens.append(token)
        new = [token]
