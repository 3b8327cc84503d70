"""Values into options, with every check: the same for files, flags and Python callers."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import math
import numbers
import operator
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from gollm.errors import ConfigError
from gollm.options.describe import (
    FileName,
    Range,
    allowed,
    is_dataclass,
    shown,
    takes_none,
    union_members,
    without_annotation,
)

T = TypeVar("T")


class Mismatch(Exception):
    """A value that its type does not take; whoever knows the option's name makes the sentence."""


def from_mapping(cls: type[T], mapping: Mapping[str, Any], where: str | None = None) -> T:
    """An object of the dataclass `cls` from names and values; what is left out keeps its default.

    Names may have hyphens for underscores, and the aliases of `cls.ALIASES` are understood. `where` opens each message:
    the file's name. Raises ConfigError for an unknown or repeated name, a missing option, or a value not allowed.
    """
    where = cls.__name__ if where is None else where
    return build(cls, converted(cls, mapping, f"{where}: "), f"{where}: ")


def check(options: Any) -> None:
    """Checks the values of a dataclass object, and makes them what the types say ("a" -> Path("a")).

    For __post_init__; frozen dataclasses too. Raises ConfigError.
    """
    for name, annotation in _fields(options).items():
        object.__setattr__(options, name, convert_named(getattr(options, name), annotation, name))


def refuse_values(options: Any, but: Collection[str] = ()) -> None:
    """check() that changes nothing, of all fields but some."""
    for name, annotation in _fields(options).items():
        if name not in but:
            convert_named(getattr(options, name), annotation, name)


def _fields(options: Any) -> dict[str, Any]:
    cls: Any = type(options)
    return _hints(cls)


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    """The annotations of a dataclass' fields."""
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


def to_mapping(options: Any) -> dict[str, Any]:
    """The options as a dictionary that JSON and YAML can write, and that from_mapping() takes back."""
    return {field.name: _plain(getattr(options, field.name)) for field in dataclasses.fields(options) if field.init}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_mapping(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def converted(cls: type, mapping: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The checked values of those fields that the mapping names."""
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"{prefix}expected names and values, but found {shown(mapping)}")
    hints = _hints(cls)
    names = list(hints)
    aliases: Mapping[str, str] = getattr(cls, "ALIASES", {})
    values: dict[str, Any] = {}
    spelled: dict[str, str] = {}
    for key, value in mapping.items():
        spelling = key.replace("-", "_") if isinstance(key, str) else str(key)
        name = aliases.get(spelling, spelling)
        if name not in names:
            raise ConfigError(f"{prefix}unknown option {shown(key)}; {suggestion(spelling, names, aliases)}")
        if name in values:
            raise ConfigError(f"{prefix}{spelled[name]} and {key} are the same option; keep one of them")
        spelled[name] = key
        values[name] = convert_named(value, hints[name], f"{prefix}{key}")
    return values


def build(cls: type[T], values: Mapping[str, Any], prefix: str = "") -> T:
    """cls(**values), with words for a missing option."""
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        absent = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if field.init and absent and field.name not in values:
            raise ConfigError(f"{prefix}{field.name} is missing; it has no default")
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{prefix}{error}") from None


def suggestion(name: str, names: Iterable[str], aliases: Iterable[str] = ()) -> str:
    """ "did you mean 'batch_size'?", or all that there are."""
    names = list(names)
    near = nearest(name, [*names, *aliases])
    return f"did you mean '{near}'?" if near else f"allowed are {', '.join(sorted(names))}"


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The name that was probably meant: spelled nearly so, or the only one that begins so."""
    names = list(names)
    lowered = name.lower()
    same = [candidate for candidate in names if candidate.lower() == lowered]
    begun = [candidate for candidate in names if candidate.startswith(lowered)] if len(name) > 1 else []
    near = same or (begun if len(begun) == 1 else []) or difflib.get_close_matches(lowered, names, n=1, cutoff=0.7)
    return near[0] if near else None


def convert_named(value: Any, annotation: Any, said: str) -> Any:
    """convert(), with the sentence for a mistake; `said` is the option as the user wrote it, with the file's name."""
    try:
        return convert(value, annotation, said)
    except Mismatch:
        raise refusal(said, value, annotation) from None


def refusal(said: str, value: Any, annotation: Any) -> ConfigError:
    plain, _ = without_annotation(annotation)
    hint = ""
    if isinstance(value, str):
        literals = [part for part in (plain, *union_members(plain)) if get_origin(part) is Literal]
        near = nearest(value, [str(choice) for part in literals for choice in get_args(part)])
        hint = f" (did you mean '{near}'?)" if near else ""
    elif isinstance(value, (bool, int, float)) and str in (plain, *union_members(plain)):
        hint = f" (write '{value}' in quotes if that is meant as text)"
    elif isinstance(value, int) and not -(2**63) <= value < 2**64:
        hint = " (of 64 bits)"
    return ConfigError(f"{said} is {shown(value)}; it must be {allowed(annotation)}{hint}")


def convert(value: Any, annotation: Any, said: str = "") -> Any:
    """The value as its type wants it: Path for str, tuple for list, float for int.

    Raises Mismatch; ConfigError for a mistake inside of a list or mapping, whose place it names."""
    plain, limits = without_annotation(annotation)
    if members := union_members(plain):
        return _within(_convert_union(value, plain, members, said), limits)
    if plain is Any:
        return value
    if get_origin(plain) is Literal:
        for choice in get_args(plain):
            if type(choice) is type(value) and choice == value:
                return value
        raise Mismatch
    if get_origin(plain) is tuple:
        return _convert_tuple(value, get_args(plain), said)
    if get_origin(plain) in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise Mismatch
        key_type, item_type = get_args(plain)
        return {convert(k, key_type): convert_named(item, item_type, f"{said}.{k}") for k, item in value.items()}
    if is_dataclass(plain):
        if isinstance(value, plain):
            return value
        if not isinstance(value, Mapping):
            raise Mismatch
        return from_mapping(plain, value, said)
    return _within(_convert_scalar(value, plain), limits)


def _within(value: Any, limits: Range | FileName | None) -> Any:
    if limits is not None and value is not None and value not in limits:
        raise Mismatch
    return value


def _convert_union(value: Any, union: Any, members: tuple[Any, ...], said: str) -> Any:
    if value is None and takes_none(union):
        return None
    for member in members:
        if without_annotation(member)[0] is type(value):  # an exact fit first: `float | int` keeps a whole number whole
            return convert(value, member, said)
    for member in members:
        try:
            return convert(value, member, said)
        except Mismatch:
            continue
    raise Mismatch


def _convert_tuple(value: Any, items: tuple[Any, ...], said: str) -> tuple[Any, ...]:
    if isinstance(value, (str, os.PathLike)):
        value = (value,)  # `data: corpus.txt` in a file: a list of one
    if not isinstance(value, (list, tuple)):
        raise Mismatch
    if items[-1] is Ellipsis:
        return tuple(convert_named(item, items[0], f"{said}[{i}]") for i, item in enumerate(value))
    if len(value) != len(items):
        raise Mismatch
    return tuple(convert_named(item, items[i], f"{said}[{i}]") for i, item in enumerate(value))


def _convert_scalar(value: Any, plain: Any) -> Any:
    if plain is bool:
        if isinstance(value, bool):
            return value
    elif plain is int:
        if not isinstance(value, bool):
            try:
                number = operator.index(value)
            except TypeError:
                raise Mismatch from None
            if -(2**63) <= number < 2**64:  # what a checkpoint holds
                return number
    elif plain is float:
        if isinstance(value, numbers.Real) and not isinstance(value, bool):
            try:
                real = float(value)
            except OverflowError:
                raise Mismatch from None
            if math.isfinite(real):
                return real
    elif plain is str:
        if isinstance(value, (str, os.PathLike)):  # a Python caller's Path, where any name will do
            return os.fspath(value)
    elif plain is Path:
        if isinstance(value, (str, os.PathLike)) and os.fspath(value) and "\0" not in str(value):
            return Path(value)
    else:
        raise TypeError(f"options of type {plain} are not supported")
    raise Mismatch


def from_text(text: str, annotation: Any) -> Any:
    """What a flag's text stands for, before convert() checks it: "1e-3" -> 0.001 for a number; raises Mismatch."""
    plain, _ = without_annotation(annotation)
    if members := union_members(plain):
        if takes_none(plain) and text.lower() in ("none", "null") and not {str, Path} & set(members):
            return None
        read = []
        for member in members:
            with contextlib.suppress(Mismatch):
                read.append(from_text(text, member))
                return convert(read[-1], member)
        return read[0] if read else text  # refused later, and quoted as what it is
    if get_origin(plain) is Literal:
        return next((choice for choice in get_args(plain) if str(choice) == text), text)
    if plain is bool:
        if text.lower() not in ("true", "false"):
            raise Mismatch
        return text.lower() == "true"
    if plain in (int, float):
        try:
            return plain(text)
        except ValueError:
            raise Mismatch from None
    return text
