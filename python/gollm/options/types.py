"""What the value of an option may be: its annotation, in words and as checks.

int, float, bool, str, Path        Literal["a", "b"]        tuple[X, ...]        X | None
Annotated[X, Range(above=0)]       Annotated[X, Positional]: the flag may be left out
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import math
import numbers
import operator
import os
import types
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin

from gollm.errors import ConfigError


@dataclass(frozen=True)
class Range:
    """The numbers that are allowed, as an annotation: `Annotated[float, Range(above=0, at_most=1)]`."""

    at_least: float = -math.inf
    above: float = -math.inf
    at_most: float = math.inf
    below: float = math.inf

    def __contains__(self, value: float) -> bool:
        return self.at_least <= value <= self.at_most and self.above < value < self.below

    def __str__(self) -> str:
        bounds = {"at least": self.at_least, "above": self.above, "at most": self.at_most, "below": self.below}
        said = {word: f"{n:g}" if isinstance(n, float) else str(n) for word, n in bounds.items() if abs(n) != math.inf}
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

INT64 = range(-(2**63), 2**64)  # the whole numbers that a checkpoint holds
_WORDS = {
    int: ("a whole number", "INT"),
    float: ("a number", "FLOAT"),
    bool: ("true or false", "{true,false}"),
    str: ("text", "TEXT"),
    Path: ("a path", "PATH"),
}


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
        if value is None and self.optional:
            return None
        if self.many and isinstance(value, str | os.PathLike):
            value = (value,)  # `data: corpus.txt` in a file: a list of one
        if self.many and isinstance(value, list | tuple):
            return tuple(self.each.convert(item, f"{said}[{i}]") for i, item in enumerate(value))
        found = None if self.many else self._single(value)
        if found is None:
            raise ConfigError(f"{said} is {shown(value)}; it must be {self.allowed}{self._hint(value)}")
        return found

    def convert_text(self, text: str, said: str) -> Any:
        """What a flag's text stands for: "1e-3" is 0.001 for a number. Raises ConfigError."""
        for choice in self.choices:
            if str(choice) == text:
                return choice
        value: Any = text
        if text.lower() in ("none", "null") and self.optional and (self.choices or self.base not in (str, Path)):
            value = None
        elif self.base is bool:
            value = {"true": True, "false": False}.get(text.lower(), text)
        elif self.base in (int, float):
            with contextlib.suppress(ValueError):
                value = _whole(text) if self.base is int else float(text)
        return self.convert(value, said)

    def _single(self, value: Any) -> Any:
        """One value as the type wants it; None where it is not allowed."""
        if self.choices:
            return next((choice for choice in self.choices if type(choice) is type(value) and choice == value), None)
        found = _as(self.base, value)
        return found if found is not None and (self.limits is None or found in self.limits) else None

    def _hint(self, value: Any) -> str:
        """What was probably meant by a value that is not allowed."""
        if isinstance(value, str):
            near = nearest(value, map(str, self.choices))
            return f" (did you mean '{near}'?)" if near else ""
        if isinstance(value, bool | int | float) and self.base is str:
            return f" (write '{value}' in quotes if that is meant as text)"
        return " (of 64 bits)" if isinstance(value, int) and value not in INT64 else ""


def _as(base: Any, value: Any) -> Any:
    """The value as a bool, int, float, str or Path; None where it is none."""
    if isinstance(value, bool) or base is bool:
        return value if isinstance(value, bool) and base is bool else None
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        if base is int and operator.index(value) in INT64:
            return operator.index(value)
        if base is float and isinstance(value, numbers.Real) and math.isfinite(value):
            return float(value)
        if base is str and isinstance(value, str | os.PathLike):  # a Python caller's Path, where any name will do
            return os.fspath(value)
        if base is Path and os.fspath(value) and "\0" not in os.fspath(value):
            return Path(value)
    return None


def _whole(text: str) -> int | float:
    """ "1e3" -> 1000, "1.5e3" -> 1500; "1e-3" stays 0.001, which is no whole number. Raises ValueError."""
    if "e" not in text.lower():
        return int(text)
    number = float(text)
    return int(number) if number.is_integer() and abs(number) < 2**53 else number


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
