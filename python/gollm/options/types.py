"""What the value of an option may be: its annotation, in words and as checks.

int, float, bool, str, Path        Literal["a", "b"]        tuple[X, ...]        X | None
Annotated[X, Range(above=0)]       Annotated[X, Positional]: the flag may be left out
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import numbers
import operator
import os
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin

from gollm.errors import ConfigError


@dataclass(frozen=True)
class Range:
    """The numbers that are allowed, as an annotation: `Annotated[float, Range(above=0, at_most=1)]`."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    def __contains__(self, value: float) -> bool:
        return not (
            (self.at_least is not None and value < self.at_least)
            or (self.above is not None and value <= self.above)
            or (self.at_most is not None and value > self.at_most)
            or (self.below is not None and value >= self.below)
        )

    def __str__(self) -> str:
        bounds = {"at least": self.at_least, "above": self.above, "at most": self.at_most, "below": self.below}
        said = {word: str(n) if isinstance(n, int) else f"{n:g}" for word, n in bounds.items() if n is not None}
        if said.keys() == {"at least", "at most"}:
            return f"from {said['at least']} to {said['at most']}"
        return " and ".join(f"{word} {bound}" for word, bound in said.items())


class FileName:
    """Text that can name a file, as an annotation."""

    def __contains__(self, value: str) -> bool:
        try:
            return b"\0" not in os.fsencode(value) and value != ""
        except UnicodeEncodeError:  # a lone surrogate
            return False

    def __str__(self) -> str:
        return "that can name a file"


class Positional:
    """Annotation of options whose flag may be left out, `gollm info FILE` for `gollm info --model FILE`; words without
    a flag are theirs in the order of their fields."""


PositiveInt: TypeAlias = Annotated[int, Range(at_least=1)]
PositiveFloat: TypeAlias = Annotated[float, Range(above=0)]
NonNegativeInt: TypeAlias = Annotated[int, Range(at_least=0)]
NonNegativeFloat: TypeAlias = Annotated[float, Range(at_least=0)]
Fraction: TypeAlias = Annotated[float, Range(at_least=0, at_most=1)]
PathText: TypeAlias = Annotated[str, FileName()]

_WORDS = {
    int: ("a whole number", "INT"),
    float: ("a number", "FLOAT"),
    bool: ("true or false", "{true,false}"),
    str: ("text", "TEXT"),
    Path: ("a path", "PATH"),
}


class Mismatch(Exception):
    """A value that a type does not take; whoever knows the option's name makes the sentence."""


@dataclass(frozen=True)
class Type:
    """An annotation: one of `choices` or a value of `base` within `limits`; `many` of them in a tuple; or None."""

    base: Any
    choices: tuple[Any, ...] = ()
    limits: Range | FileName | None = None
    many: bool = False
    optional: bool = False
    positional: bool = False

    @classmethod
    def of(cls, annotation: Any) -> Type:
        """Raises TypeError for an annotation that options cannot have."""
        origin, arguments = get_origin(annotation), get_args(annotation)
        if origin is Annotated:
            found, extras = cls.of(arguments[0]), arguments[1:]
            limits = next((extra for extra in extras if isinstance(extra, Range | FileName)), found.limits)
            return dataclasses.replace(found, limits=limits, positional=Positional in extras)
        if origin in (Union, types.UnionType):
            (member,) = (member for member in arguments if member is not type(None))
            return dataclasses.replace(cls.of(member), optional=True)
        if origin is tuple and arguments[1:] == (Ellipsis,):
            return dataclasses.replace(cls.of(arguments[0]), many=True)
        if origin is Literal:
            return cls(type(arguments[0]), choices=arguments)
        if annotation not in _WORDS:
            raise TypeError(f"options of type {annotation} are not supported")
        return cls(annotation)

    @property
    def is_switch(self) -> bool:
        return self.base is bool and not self.many

    @property
    def each(self) -> Type:
        """Of one item of many."""
        return dataclasses.replace(self, many=False, optional=False)

    @property
    def allowed(self) -> str:
        """In words, for `it must be ...`."""
        if self.choices:
            words = ("one of " if len(self.choices) > 1 else "") + ", ".join(map(shown, self.choices))
        else:
            limits = {Range: f", {self.limits}", FileName: f" {self.limits}"}
            words = _WORDS[self.base][0] + limits.get(type(self.limits), "")
        return ("a list, each " if self.many else "") + words + (", or none" if self.optional else "")

    @property
    def metavar(self) -> str:
        """The placeholder of a value in the help."""
        word = "{" + ",".join(map(str, self.choices)) + "}" if self.choices else _WORDS[self.base][1]
        return word + (" ..." if self.many else "")

    def convert(self, value: Any, said: str) -> Any:
        """The value as the type wants it: Path for str, tuple for list, float for int. Raises ConfigError that names
        the option as `said`."""
        try:
            if value is None and self.optional:
                return None
            if not self.many:
                return self._single(value)
            if isinstance(value, str | os.PathLike):
                value = (value,)  # `data: corpus.txt` in a file: a list of one
            if not isinstance(value, list | tuple):
                raise Mismatch
        except Mismatch:
            raise self.refusal(said, value) from None
        return tuple(self.each.convert(item, f"{said}[{i}]") for i, item in enumerate(value))

    def convert_text(self, text: str, said: str) -> Any:
        """What a flag's text stands for: "1e-3" is 0.001 for a number. Raises ConfigError."""
        return self.convert(self._read(text, said), said)

    def _read(self, text: str, said: str) -> Any:
        for choice in self.choices:
            if str(choice) == text:
                return choice
        if self.optional and text.lower() in ("none", "null") and (self.choices or self.base not in (str, Path)):
            return None
        try:
            if self.base is bool:
                return {"true": True, "false": False}[text.lower()]
            return self.base(text) if self.base in (int, float) else text
        except (KeyError, ValueError):
            raise self.refusal(said, text) from None

    def _single(self, value: Any) -> Any:
        if self.choices:
            if not any(type(choice) is type(value) and choice == value for choice in self.choices):
                raise Mismatch
            return value
        try:
            found: Any = _CONVERT[self.base](value)
        except (TypeError, ValueError, OverflowError):
            raise Mismatch from None
        if self.limits is not None and found not in self.limits:
            raise Mismatch
        return found

    def refusal(self, said: str, value: Any) -> ConfigError:
        hint = ""
        if isinstance(value, str):
            near = nearest(value, map(str, self.choices))
            hint = f" (did you mean '{near}'?)" if near else ""
        elif isinstance(value, bool | int | float) and self.base is str:
            hint = f" (write '{value}' in quotes if that is meant as text)"
        elif isinstance(value, int) and not -(2**63) <= value < 2**64:
            hint = " (of 64 bits)"
        return ConfigError(f"{said} is {shown(value)}; it must be {self.allowed}{hint}")


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Mismatch
    return value


def _int(value: Any) -> int:
    number = operator.index(value)
    if isinstance(value, bool) or not -(2**63) <= number < 2**64:  # what a checkpoint holds
        raise Mismatch
    return number


def _float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(float(value)):
        raise Mismatch
    return float(value)


def _str(value: Any) -> str:
    if not isinstance(value, str | os.PathLike):  # a Python caller's Path, where any name will do
        raise Mismatch
    return os.fspath(value)


def _path(value: Any) -> Path:
    if not _str(value) or "\0" in _str(value):
        raise Mismatch
    return Path(value)


_CONVERT: dict[Any, Callable[[Any], Any]] = {bool: _bool, int: _int, float: _float, str: _str, Path: _path}


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The name that was probably meant: spelled nearly so, or the only one that begins so."""
    names = list(names)
    lowered = name.lower()
    same = [candidate for candidate in names if candidate.lower() == lowered]
    begun = [candidate for candidate in names if candidate.startswith(lowered)] if len(name) > 1 else []
    near = same or (begun if len(begun) == 1 else []) or difflib.get_close_matches(lowered, names, n=1, cutoff=0.7)
    return near[0] if near else None


def shown(value: Any) -> str:
    """A value as a message or the help quotes it: short, on one line, in the words of a configuration file."""
    if value is None or (isinstance(value, tuple | list) and not value):
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    value = str(value) if isinstance(value, Path) else value
    text = " ".join(map(str, value)) if isinstance(value, tuple) else repr(value)
    text = " ".join(text.split())
    return text if len(text) <= 80 else text[:76] + " ..."
