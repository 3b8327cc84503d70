"""Options as dataclasses: one class says names, types, allowed values, defaults and help; the rest comes from it.

    @dataclass(frozen=True)
    class TrainOptions:
        batch_size: PositiveInt = 12  # sequences in a batch
        schedule: Literal["cosine", "linear"] = "cosine"  # how the learning rate falls
        data: tuple[Path, ...] = ()  # files or folders to train on

        ALIASES: ClassVar[Mapping[str, str]] = {"corpus": "data"}  # other names, understood wherever the option is
        EITHER: ClassVar = (("steps", "epochs"),)  # a flag takes the place of the --config file's other
        DEFAULTS: ClassVar = {"data": "all of them"}  # what help says of a default, where its value says little

        def __post_init__(self) -> None:
            check(self)  # a Python caller gets the same checks

from_mapping()  a dictionary that a file or a program brings becomes an object; gollm.cli.flags does so with flags
check()         the values of an object that a program made
to_mapping()    back to what JSON and YAML can write
load_file()     a YAML or JSON file as a dictionary, checked for repeated keys; to_yaml() writes one
Given           a base of such classes whose objects know which options they were given: given() lists them, replace()
                keeps them
describe()      what there is to say about each option, for help and the reference page

A mistake raises ConfigError with one sentence that names the option, its value and what is allowed. A field's help is
the comment behind it or above it. gollm.options.types says which annotations there are.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import re
import textwrap
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from gollm.errors import ConfigError
from gollm.options.files import load_file, to_yaml
from gollm.options.types import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PathText,
    Positional,
    PositiveFloat,
    PositiveInt,
    Range,
    Type,
    nearest,
    shown,
)

__all__ = [
    "Fraction",
    "Given",
    "NonNegativeFloat",
    "NonNegativeInt",
    "PathText",
    "Positional",
    "PositiveFloat",
    "PositiveInt",
    "Range",
    "check",
    "describe",
    "from_mapping",
    "given",
    "load_file",
    "nearest",
    "replace",
    "to_mapping",
    "to_yaml",
]

T = TypeVar("T")
G = TypeVar("G", bound="Given")


@dataclass(frozen=True)
class Option:
    """One option: its name as in Python and in files; default, dataclasses.MISSING where it must be given; help, the
    field's comment in one line; aliases, other names that are understood; default_text, what the comment says at its
    end as `(default: ...)`, or the class in DEFAULTS, else the default in words. A field's metadata may hold "help"
    instead of a comment."""

    name: str
    type: Type
    default: Any
    help: str
    aliases: tuple[str, ...] = ()
    default_text: str | None = None

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")


def describe(cls: Any) -> Mapping[str, Option]:
    """The options of a dataclass by name, in order."""
    comments, types = _comments(cls), _types(cls)
    aliases: Mapping[str, str] = getattr(cls, "ALIASES", {})
    defaults: Mapping[str, str] = getattr(cls, "DEFAULTS", {})
    if wrong := [alias for alias, name in aliases.items() if name not in types or alias in types]:
        raise TypeError(f"{cls.__name__}.ALIASES: {wrong} are no other names for fields")
    found = {}
    for field in (field for field in dataclasses.fields(cls) if field.init):
        comment, _, words = comments.get(field.name, "").partition(" (default: ")
        words = words.removesuffix(")") or defaults.get(field.name, "")
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if not words and default is not MISSING:
            words = str(default) if isinstance(default, str | Path) and str(default) else shown(default)
        found[field.name] = Option(
            name=field.name,
            type=types[field.name],
            default=default,
            help=field.metadata.get("help", comment),
            aliases=tuple(alias for alias, name in aliases.items() if name == field.name),
            default_text=words or None,
        )
    return found


@functools.cache
def _types(cls: Any) -> dict[str, Type]:
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: Type.of(hints[field.name]) for field in dataclasses.fields(cls) if field.init}


def from_mapping(cls: type[T], mapping: Mapping[str, Any], where: str | None = None) -> T:
    """An object of the dataclass `cls` from names and values; what is left out keeps its default.

    Names may have hyphens for underscores, and the aliases of `cls.ALIASES` are understood. `where` opens each message:
    the file's name. Raises ConfigError for an unknown or repeated name, a missing option, or a value not allowed."""
    where = cls.__name__ if where is None else where
    return build(cls, converted(cls, mapping, f"{where}: "), f"{where}: ")


def converted(cls: type, mapping: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The checked values of those fields that the mapping names."""
    types, aliases = _types(cls), getattr(cls, "ALIASES", {})
    values: dict[str, Any] = {}
    spelled: dict[str, str] = {}
    for key, value in mapping.items():
        spelling = key.replace("-", "_") if isinstance(key, str) else str(key)
        name = aliases.get(spelling, spelling)
        if name not in types:
            near = nearest(spelling, [*types, *aliases])
            allowed = f"did you mean '{near}'?" if near else f"allowed are {', '.join(sorted(types))}"
            raise ConfigError(f"{prefix}unknown option {shown(key)}; {allowed}")
        if name in values:
            raise ConfigError(f"{prefix}{spelled[name]} and {key} are the same option; keep one of them")
        spelled[name] = key
        values[name] = types[name].convert(value, f"{prefix}{key}")
    return values


def build(cls: type[T], values: Mapping[str, Any], prefix: str = "") -> T:
    """cls(**values), with words for a missing option."""
    for option in describe(cls).values():
        if option.default is MISSING and option.name not in values:
            raise ConfigError(f"{prefix}{option.name} is missing; it has no default")
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{prefix}{error}") from None


def check(options: Any) -> None:
    """Checks the values of a dataclass object, and makes them what the types say ("a" -> Path("a")).

    For __post_init__; frozen dataclasses too. Raises ConfigError."""
    for name, type_ in _types(options.__class__).items():
        object.__setattr__(options, name, type_.convert(getattr(options, name), name))


def refuse_values(options: Any, but: Collection[str] = ()) -> None:
    """check() that changes nothing, of all fields but some."""
    for name, type_ in _types(options.__class__).items():
        if name not in but:
            type_.convert(getattr(options, name), name)


def to_mapping(options: Any) -> dict[str, Any]:
    """The options as a dictionary that JSON and YAML can write, and that from_mapping() takes back."""
    return {name: _plain(getattr(options, name)) for name in _types(options.__class__)}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


class Given:
    """A base of option classes whose objects know which options they were made with; see given()."""

    def __new__(cls: Any, *args: Any, **kwargs: Any) -> Any:
        options = object.__new__(cls)
        object.__setattr__(options, "_given", {*list(_types(cls))[: len(args)], *kwargs})
        return options


def given(options: Given) -> list[str]:
    """The names of the options that were given, on the command line, in a file or by a program, in the order of the
    fields: those that equal their defaults too, but not those that None leaves open."""
    names = vars(options)["_given"]
    return [name for name, value in vars(options).items() if name in names and value is not None]


def replace(options: G, **changes: Any) -> G:
    """A copy with changes, which count as given beside what was."""
    changed = dataclasses.replace(options, **changes)  # type: ignore[type-var]
    object.__setattr__(changed, "_given", {*vars(options)["_given"], *changes})
    return changed


@functools.cache
def _comments(cls: Any) -> dict[str, str]:
    """Each field's comment: behind it after two spaces, else right above it; empty without a source."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        with contextlib.suppress(OSError, TypeError):
            source = textwrap.dedent(inspect.getsource(base))
            for above, name, behind in re.findall(r"(?m)^((?:    #.*\n)*)    (\w+): .*?(?:  # (.*))?$", source):
                found[name] = behind or " ".join(re.findall(r"(?m)^    #\s*(.*)", above))
    return found
