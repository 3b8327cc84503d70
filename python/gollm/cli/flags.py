"""Command-line flags into options: flags over the --config file over the defaults of the dataclass."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from gollm.cli.help import help_text
from gollm.errors import ConfigError
from gollm.options import describe, load_file, nearest
from gollm.options.fields import Option, build, converted
from gollm.options.types import Type, shown

T = TypeVar("T")

# What every command takes.
COMMON = (
    Option("config", Type(Path), None, "a YAML or JSON file with options of this command; flags override it"),
    Option("debug", Type(bool), False, "show Python's traceback of an error"),
)
_NUMBER = re.compile(r"-\.?\d")  # begins with a hyphen and is no flag


def parse(cls: type[T], argv: Sequence[str] | None = None, *, prog: str, description: str) -> T:
    """The options that the command line gives.

    --batch-size 12, --batch-size=12, --batch_size=12 and aliases are one and the same. `--help` prints and exits.
    Raises ConfigError for anything that is not allowed."""
    words = list(sys.argv[1:] if argv is None else argv)
    own = describe(cls)
    options = {option.name: option for option in (*own.values(), *COMMON)}
    flags = words[: words.index("--")] if "--" in words else words
    if asked := {"-h", "--help", "--help-all"} & set(flags):
        print(help_text(cls, own, COMMON, prog=prog, description=description, everything="--help-all" in asked))
        raise SystemExit(0)
    given, loose = _split(words, options)
    values: dict[str, Any] = {}
    if "config" in given:
        file = _converted(options["config"], given["config"])
        values = converted(cls, load_file(file), f"{file}: ")
    for option in (option for option in own.values() if option.type.positional and option.name not in given):
        n = len(loose) if option.type.many else 1
        if loose:
            given[option.name], loose = loose[:n], loose[n:]
    if loose:
        _refuse_word(loose[0], own)
    for name in given.keys() & own.keys():
        for other in _alternatives(cls, name):
            if other not in given:
                values.pop(other, None)  # the file's
        values[name] = _converted(own[name], given[name])
    for option in own.values():
        if option.default is MISSING and option.name not in values:
            raise ConfigError(f"{option.flag} is needed: {option.help}")
    return build(cls, {name: values[name] for name in own if name in values})


def _split(words: Sequence[str], options: Mapping[str, Option]) -> tuple[dict[str, list[str]], list[str]]:
    """The words of each flag that was given, and those that belong to none."""
    names = {alias: option for option in options.values() for alias in (option.name, *option.aliases)}
    given: dict[str, list[str]] = {}
    loose: list[str] = []
    option: Option | None = None  # the one that takes the next word
    for i, word in enumerate(words):
        if word == "--":
            return given, loose + list(words[i + 1 :])
        if not word.startswith("-") or word == "-" or (option is not None and _NUMBER.match(word)):
            (loose if option is None else given[option.name]).append(word)
            option = option if option is not None and option.type.many else None
            continue
        flag, equals, value = word.partition("=")
        name = flag[2:].replace("-", "_") if flag.startswith("--") else ""
        if name.startswith("no_") and name not in names and name[3:] in names and names[name[3:]].type.is_switch:
            switch = names[name[3:]]
            if equals:
                raise ConfigError(f"{flag} takes no value; write {flag} alone, or {switch.flag}={value}")
            given[switch.name], option = ["false"], None
            continue
        if name not in names:
            _refuse_flag(word, options)
        option = names[name]
        if option.type.many and option.name in given:
            raise ConfigError(f"{flag} is given twice; list everything behind one: {option.flag} {option.type.metavar}")
        given[option.name] = [value] if equals else []
        if option.type.is_switch and not equals and not (option.type.optional and _is_state(words[i + 1 : i + 2])):
            given[option.name] = ["true"]
        if given[option.name] and not option.type.many:
            option = None
    return given, loose


def _is_state(following: Sequence[str]) -> bool:
    """Whether the next word is the value of a switch that can also be left as it is: `--bias false`."""
    return bool(following) and following[0].lower() in ("true", "false", "none")


def _alternatives(cls: type, name: str) -> list[str]:
    """The options that this one takes the place of."""
    groups: Sequence[Sequence[str]] = getattr(cls, "EITHER", ())
    return [other for group in groups if name in group for other in group if other != name]


def _converted(option: Option, texts: list[str]) -> Any:
    kind = option.type
    if not texts:
        if kind.many and option.default:
            return ()  # none instead of the default's
        raise ConfigError(f"{option.flag} needs a value: {kind.allowed}")
    if not kind.many:
        return kind.convert_text(texts[0], option.flag)
    if kind.optional and [text.lower() for text in texts] == ["none"]:
        return None
    each = kind.each
    return tuple(each.convert_text(text, option.flag) for text in texts)


def _refuse_word(word: str, options: Mapping[str, Option]) -> NoReturn:
    flags = [option.flag for option in options.values() if option.type.positional]
    if not flags:
        raise ConfigError(
            f"{shown(word)} belongs to no option; name it (--option value), and quote a value with spaces"
        )
    raise ConfigError(f"{shown(word)} is one value too many for {' and '.join(flags)}; quote a value with spaces")


def _refuse_flag(word: str, options: Mapping[str, Option]) -> NoReturn:
    flag = word.partition("=")[0]
    names = [name for option in options.values() for name in (option.name, *option.aliases)]
    near = nearest(flag.lstrip("-").replace("-", "_"), names)
    what_to_do = f"did you mean --{near.replace('_', '-')}?" if near else "--help lists the options of this command"
    if not near and not word.startswith("--"):
        what_to_do += f" (a value that begins with a hyphen goes behind an equals sign: --option={shown(word)})"
    raise ConfigError(f"unknown option {shown(flag)[1:-1]}; {what_to_do}")
