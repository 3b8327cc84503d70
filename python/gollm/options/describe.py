"""What a dataclass says about its options: names, types, ranges, defaults, and the comments that are their help."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import os
import textwrap
import tokenize
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints


@dataclasses.dataclass(frozen=True)
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
        if self.at_least is not None and self.at_most is not None:
            return f"from {_exact(self.at_least)} to {_exact(self.at_most)}"
        bounds = (("at least", self.at_least), ("above", self.above), ("at most", self.at_most), ("below", self.below))
        return " and ".join(f"{word} {_exact(bound)}" for word, bound in bounds if bound is not None)


def _exact(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"


@dataclasses.dataclass(frozen=True)
class FileName:
    """Text that can name a file, as an annotation."""

    def __contains__(self, value: str) -> bool:
        try:
            return b"\0" not in os.fsencode(value) and value != ""
        except UnicodeEncodeError:  # a lone surrogate
            return False

    def __str__(self) -> str:
        return "that can name a file"


PositiveInt: TypeAlias = Annotated[int, Range(at_least=1)]
PositiveFloat: TypeAlias = Annotated[float, Range(above=0)]
NonNegativeInt: TypeAlias = Annotated[int, Range(at_least=0)]
NonNegativeFloat: TypeAlias = Annotated[float, Range(at_least=0)]
Fraction: TypeAlias = Annotated[float, Range(at_least=0, at_most=1)]
PathText: TypeAlias = Annotated[str, FileName()]


class Positional:
    """Annotation of options whose flag may be left out, `gollm info FILE` for `gollm info --model FILE`; words without
    a flag are theirs in the order of their fields."""


@dataclasses.dataclass(frozen=True)
class Option:
    """One option.

    name      as in Python and in files: "batch_size"
    type      its annotation, with the Range
    default   dataclasses.MISSING where the option must be given
    help      the field's comment in one line
    aliases   other names that are understood
    positional  whether its flag may be left out
    """

    name: str
    type: Any
    default: Any
    help: str
    aliases: tuple[str, ...]
    positional: bool

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def has_flag(self) -> bool:
        """Whether it can be a flag; mappings and nested dataclasses are for files and Python."""
        plain, _ = without_annotation(self.type)
        parts = (plain, *union_members(plain))
        return not any(is_dataclass(part) or get_origin(part) in (dict, Mapping) for part in parts)

    @property
    def allowed(self) -> str:
        """What its values are, in words: "a whole number, at least 1"."""
        return allowed(self.type)

    @property
    def metavar(self) -> str:
        """The placeholder of its value in the help; nothing for a switch."""
        return metavar(self.type)

    @property
    def default_text(self) -> str | None:
        """The default in words, or None where the option must be given."""
        if self.default is dataclasses.MISSING:
            return None
        return str(self.default) if isinstance(self.default, (str, Path)) and str(self.default) else shown(self.default)


def without_annotation(annotation: Any) -> tuple[Any, Range | FileName | None]:
    """Annotated[int, Range(...)] -> int, Range(...)"""
    if get_origin(annotation) is Annotated:
        plain, *extras = get_args(annotation)
        return plain, next((extra for extra in extras if isinstance(extra, Range | FileName)), None)
    return annotation, None


def union_members(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, without None; none for any other type."""
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(member for member in get_args(annotation) if member is not type(None))
    return ()


def takes_none(annotation: Any) -> bool:
    plain, _ = without_annotation(annotation)
    return plain is None or plain is type(None) or any(map(takes_none, get_args(plain) if union_members(plain) else ()))


def is_dataclass(annotation: Any) -> bool:
    return isinstance(annotation, type) and dataclasses.is_dataclass(annotation)


def is_sequence(annotation: Any) -> bool:
    """tuple[X, ...], tuple[X, Y], or a union in which one is."""
    plain, _ = without_annotation(annotation)
    return get_origin(plain) is tuple or any(map(is_sequence, union_members(plain)))


def is_switch(annotation: Any) -> bool:
    return without_annotation(annotation)[0] is bool


def is_optional_switch(annotation: Any) -> bool:
    """bool | None: a switch that can also be left as it is."""
    return union_members(without_annotation(annotation)[0]) == (bool,)


def allowed(annotation: Any) -> str:
    """A type in words, for `it must be ...`."""
    plain, limits = without_annotation(annotation)
    suffix = "" if limits is None else f" {limits}" if isinstance(limits, FileName) else f", {limits}"
    members = union_members(plain)
    if members:
        words = " or ".join(map(allowed, members))
        return (f"{words}, or none" if takes_none(plain) else words) + suffix
    if get_origin(plain) is Literal:
        values = [shown(value) for value in get_args(plain)]
        return values[0] if len(values) == 1 else f"one of {', '.join(values)}"
    if get_origin(plain) is tuple:
        items = get_args(plain)
        if items[-1] is Ellipsis:
            return f"a list, each {allowed(items[0])}"
        return f"a list of {len(items)}: {'; '.join(map(allowed, items))}"
    if get_origin(plain) in (dict, Mapping) or is_dataclass(plain):
        return "a mapping of names to values"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
    return names.get(plain, "a value") + suffix


def metavar(annotation: Any) -> str:
    plain, _ = without_annotation(annotation)
    members = union_members(plain)
    if members:
        return "|".join(dict.fromkeys(map(metavar, members)))
    if get_origin(plain) is Literal:
        return "{" + ",".join(map(str, get_args(plain))) + "}"
    if get_origin(plain) is tuple:
        items = get_args(plain)
        return f"{metavar(items[0])} ..." if items[-1] is Ellipsis else " ".join(map(metavar, items))
    names = {int: "INT", float: "FLOAT", bool: "{true,false}", str: "TEXT", Path: "PATH"}
    return names.get(plain, "VALUE")


def shown(value: Any) -> str:
    """A value as a message or the help quotes it: short, on one line, in the words of a configuration file."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, (tuple, list)) and not value:
        return "none"
    text = " ".join(map(str, value)) if isinstance(value, tuple) else repr(value)
    text = " ".join(text.split())
    return text if len(text) <= 80 else text[:76] + " ..."


def describe(cls: type) -> Mapping[str, Option]:
    """The options of a dataclass by name, in order."""
    hints = get_type_hints(cls, include_extras=True)
    comments = field_comments(cls)
    aliases: Mapping[str, str] = getattr(cls, "ALIASES", {})
    names = {field.name for field in dataclasses.fields(cls) if field.init}
    if wrong := [alias for alias, name in aliases.items() if name not in names or alias in names]:
        raise TypeError(f"{cls.__name__}.ALIASES: {wrong} are no other names for fields")
    found: dict[str, Option] = {}
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        annotation = hints[field.name]
        extras = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        found[field.name] = Option(
            name=field.name,
            type=annotation,
            default=default,
            help=field.metadata.get("help", comments.get(field.name, "")),
            aliases=tuple(alias for alias, name in aliases.items() if name == field.name),
            positional=Positional in extras,
        )
    return found


def field_comments(cls: type) -> dict[str, str]:
    """Each field's comment: behind it, else right above it, else the string below it; empty without a source."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if "__annotations__" in vars(base) or dataclasses.is_dataclass(base):
            try:
                found.update(_comments_of(textwrap.dedent(inspect.getsource(base))))
            except (OSError, TypeError, SyntaxError, tokenize.TokenError):
                continue
    return found


def _comments_of(source: str) -> dict[str, str]:
    comments: dict[int, tuple[int, str, bool]] = {}  # line -> column, text, whether it has the line to itself
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            alone = not token.line[: token.start[1]].strip()
            comments[token.start[0]] = (token.start[1], token.string.lstrip("#").strip(), alone)
    body = next(node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)).body
    found: dict[str, str] = {}
    for i, node in enumerate(body):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        last = node.end_lineno or node.lineno
        lines = []
        if last in comments and not comments[last][2]:
            lines = [comments[last][1]]
        else:
            above = node.lineno - 1
            while above in comments and comments[above][2] and comments[above][0] == node.col_offset:
                lines.insert(0, comments[above][1])
                above -= 1
        if not lines and i + 1 < len(body):
            following = body[i + 1]
            if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                lines = str(following.value.value).split()
        if lines:
            found[node.target.id] = " ".join(lines)
    return found
