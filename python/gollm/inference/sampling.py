"""How tokens are drawn: every option of generation in one object, which checks itself."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from gollm.errors import GenerationError
from gollm.kernels import Array
from gollm.model.generation_defaults import GenerationDefaults
from gollm.system.strict_json import shorten

# (tokens of the text so far (T,) int32, logits of the next one (V,)) -> other logits, or None: the same array, perhaps
# changed.
Processor: TypeAlias = Callable[[Array, Array], "Array | None"]

MOST_CHOICES = 1024  # of a request: each is a text of its own

# The first six options where neither the user nor the model's file says anything.
DEFAULTS = {
    "max_new_tokens": 200,
    "temperature": 0.8,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
}


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the tokens of a text are drawn, and when it ends.

    The first six options are what the model's file recommends where they are None, else the values in brackets.
    A logit is changed, and a token drawn, in this order, which is Hugging Face's:

    1. logit_bias: a number is added to the logit of a token.
    2. repetition_penalty (1): positive logits of tokens in the prompt or the text are divided by it, negative ones
       multiplied (Keskar et al. 2019).
    3. presence_penalty, frequency_penalty: a token that was generated n > 0 times loses presence + n · frequency.
    4. processors: functions (tokens so far, logits) -> other logits, or None where they have changed them in place.
    5. json_schema, regex or grammar: only tokens with which the text can still become what it must be are kept.
    6. temperature (0.8): logits are divided by it. 0: the first of the largest logits is taken, and 7 to 9 are skipped.
    7. top_k (0): the k largest logits are kept; 0: all. Of equal ones the smaller ids.
    8. top_p (1): the fewest tokens of these, the likeliest first, whose probabilities sum to at least p.
    9. min_p (0): tokens of at least m times the largest probability.
    10. The token is drawn. The draw is a function of the logits, seed, choice and position in the text.

    max_new_tokens (200), stop (strings, token ids, or both, besides the model's own stop tokens) end the text;
    context_full says what happens where it fills the model's context: "forget" its older half, or "stop".
    n is the number of texts, which draw from streams of their own of the seed. logprobs and prompt_logprobs ask for the
    log-probabilities of the tokens of the text and the prompt, and of so many of the likeliest alternatives; they are
    those of the model itself, before steps 1 to 9. beams > 1 is beam search, which draws nothing: its n best texts, by
    the sum of log-probabilities divided by length ** length_penalty.

    Raises GenerationError for a value outside its range.

    >>> Sampling(temperature=0.5, stop="\\n").stop
    ('\\n',)
    """

    max_new_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int = 0
    stop: str | int | Sequence[str | int] = ()
    n: int = 1
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    processors: Sequence[Processor] = ()
    json_schema: str | Mapping[str, Any] | None = None
    regex: str | None = None
    grammar: str | None = None
    beams: int = 1
    length_penalty: float = 1.0
    context_full: Literal["forget", "stop"] = "forget"

    def __post_init__(self) -> None:
        for name, check in _CHECKS.items():
            value = getattr(self, name)
            if not (value is None and name in _MAY_BE_NONE):
                object.__setattr__(self, name, check(name, value))
        given = [name for name in ("json_schema", "regex", "grammar") if getattr(self, name) is not None]
        if len(given) > 1:
            raise GenerationError(f"{given[0]} and {given[1]} are both given; a text can have only one of them")
        if self.beams > 1 and self.n > self.beams:
            raise GenerationError(f"n is {self.n}; beam search with {self.beams} beams has at most as many results")

    @classmethod
    def of(cls, sampling: Sampling | None, options: Mapping[str, Any]) -> Sampling:
        """`sampling`, or one that says nothing, with some fields replaced."""
        if sampling is not None and not isinstance(sampling, Sampling):
            raise GenerationError(f"sampling is {shorten(sampling)}; it must be a gollm.Sampling")
        names = [field.name for field in dataclasses.fields(cls)]
        for name in options:
            if name not in names:
                raise TypeError(f"unknown option {shorten(name)}; the options of generation are {', '.join(names)}")
        return dataclasses.replace(sampling or cls(), **options)

    def resolved(self, defaults: GenerationDefaults) -> Sampling:
        """The same with a value for each option that is None: what the model's file recommends, or else the default."""
        values: dict[str, Any] = {}
        for name, otherwise in DEFAULTS.items():
            if getattr(self, name) is None:
                recommended = getattr(defaults, name)
                values[name] = otherwise if recommended is None else recommended
        return dataclasses.replace(self, **values)


def check_text_only(sampling: Sampling, where: str) -> None:
    """For what returns one text and nothing else. Raises GenerationError where more is asked for."""
    if sampling.n != 1:
        raise GenerationError(f"n is {sampling.n}; it must be 1 {where}: gollm.Engine.submit returns several choices")
    for name in ("logprobs", "prompt_logprobs"):
        if (value := getattr(sampling, name)) is not None:
            raise GenerationError(
                f"{name} is {value}; it must be None {where}: gollm.Engine.submit returns log-probabilities"
            )


def _whole(at_least: int, below: float, allowed: str) -> Callable[[str, Any], int]:
    """A whole number of Python or NumPy. Raises GenerationError for one outside its range and for anything else."""

    def check(name: str, value: Any) -> int:
        if isinstance(value, numbers.Integral) and not isinstance(value, bool) and at_least <= int(value) < below:
            return int(value)
        raise _odd(name, value, allowed)

    return check


def _number(test: Callable[[float], bool], allowed: str) -> Callable[[str, Any], float]:
    """The same of a real number."""

    def check(name: str, value: Any) -> float:
        if isinstance(value, numbers.Real) and not isinstance(value, bool):
            with contextlib.suppress(OverflowError):
                if test(number := float(value)):
                    return number
        raise _odd(name, value, allowed)

    return check


def _odd(name: str, value: Any, allowed: str) -> GenerationError:
    return GenerationError(f"{name} is {shorten(value)}; it must be {allowed}")


def _stop(name: str, value: Any) -> tuple[str | int, ...]:
    values = (value,) if isinstance(value, str | numbers.Integral) else value
    try:
        found = tuple(one if isinstance(one, str) else _token(name, one) for one in values)
    except (TypeError, GenerationError):
        raise _odd(name, value, "a string, a token id, or a list of them") from None
    if "" in found:
        raise GenerationError("stop has an empty string; it must have at least one character")
    return found


_token = _whole(0, math.inf, "a token id")
_finite = _number(math.isfinite, "a finite number")


def _logit_bias(name: str, value: Any) -> dict[int, float]:
    try:
        return {_token(name, token): _bias(name, number) for token, number in value.items()}
    except (AttributeError, TypeError, GenerationError):
        raise _odd(name, value, "a dictionary from token ids to numbers, which are finite or -inf") from None


_bias = _number(lambda v: v < math.inf, "a finite number or -inf")


def _processors(name: str, value: Any) -> tuple[Processor, ...]:
    found = (value,) if callable(value) else value
    if not isinstance(found, Sequence) or not all(map(callable, found)):
        raise _odd(name, value, "a function (tokens, logits) -> logits, or a list of them")
    return tuple(found)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _odd(name, value, "text (str)")
    return value


def _json_schema(name: str, value: Any) -> str | Mapping[str, Any]:
    if not isinstance(value, str | Mapping):
        raise _odd(name, value, "a JSON schema, as text or a dictionary")
    return value


def _context_full(name: str, value: Any) -> str:
    if value not in ("forget", "stop"):
        raise _odd(name, value, "'forget' or 'stop'")
    return str(value)


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "max_new_tokens": _whole(0, math.inf, "a whole number, 0 or more"),
    "temperature": _number(lambda v: 0 <= v < math.inf, "0 (greedy) or a positive number"),
    "top_k": _whole(0, math.inf, "a whole number, 0 (off) or more"),
    "top_p": _number(lambda v: 0 < v <= 1, "above 0 and at most 1"),
    "min_p": _number(lambda v: 0 <= v <= 1, "from 0 (off) to 1"),
    "repetition_penalty": _number(lambda v: 0 < v < math.inf, "a positive number"),
    "presence_penalty": _finite,
    "frequency_penalty": _finite,
    "logit_bias": _logit_bias,
    "seed": _whole(0, 2**64, "a whole number from 0 to 2^64 - 1"),
    "stop": _stop,
    "n": _whole(1, MOST_CHOICES + 1, f"a whole number from 1 to {MOST_CHOICES}"),
    "logprobs": _whole(0, math.inf, "a whole number, 0 or more, or None"),
    "prompt_logprobs": _whole(0, math.inf, "a whole number, 0 or more, or None"),
    "processors": _processors,
    "json_schema": _json_schema,
    "regex": _text,
    "grammar": _text,
    "beams": _whole(1, MOST_CHOICES + 1, f"a whole number from 1 (no beam search) to {MOST_CHOICES}"),
    "length_penalty": _finite,
    "context_full": _context_full,
}
_MAY_BE_NONE = {*DEFAULTS, "logprobs", "prompt_logprobs", "json_schema", "regex", "grammar"}
