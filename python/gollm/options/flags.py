"""Command-line flags into options. tyro reads the flags and draws the help; the checks are those of mappings.py."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar, get_args

from gollm.errors import ConfigError
from gollm.options.describe import (
    Option,
    Range,
    describe,
    is_optional_switch,
    is_sequence,
    is_switch,
    shown,
    takes_none,
    union_members,
    without_annotation,
)
from gollm.options.files import load_file
from gollm.options.mappings import Mismatch, build, convert_named, converted, from_text, nearest, refusal

T = TypeVar("T")

# What every command takes.
COMMON = (
    Option("config", Path, None, "a YAML or JSON file with options of this command; flags override it", (), False),
    Option("debug", bool, False, "show Python's traceback of an error", (), False),
)


def parse(cls: type[T], argv: Sequence[str] | None = None, *, prog: str, description: str) -> T:
    """The options that the command line gives: flags over the --config file over the defaults of the dataclass.

    --batch-size 12, --batch-size=12, --batch_size=12 and aliases are one and the same. `--help` prints and exits.
    Raises ConfigError for anything that is not allowed.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    options = {option.name: option for option in (*describe(cls).values(), *COMMON) if option.has_flag}
    words, loose = _canonical(words, options)
    values: dict[str, Any] = {}
    if "-h" not in words and "--help" not in words and (file := _config_file(words)):
        values = converted(cls, load_file(file), f"{file}: ")
    switches = {name: values.get(name, o.default) for name, o in options.items() if is_switch(o.type)}
    given, unknown = _read(options, switches, words, prog, description)
    for word in unknown:
        if word.startswith("-") and word != "-":
            _refuse_flag(word, options)
    loose = unknown + loose
    for name, option in options.items():
        found = given[name]
        if is_switch(option.type):
            if found is not switches[name]:
                values[name] = found
        elif found is not None:
            for other in _alternatives(cls, name):
                if given[other] is None:
                    values.pop(other, None)  # the file's
            texts = list(found)
            if not is_sequence(option.type):
                loose += texts[1:]
                texts = texts[:1]
            values[name] = _converted_flag(option, texts)
    _use_loose_words(options, loose, values, given)
    for option in COMMON:
        values.pop(option.name, None)
    for name, option in options.items():
        if option.default is dataclasses.MISSING and name not in values:
            raise ConfigError(f"{option.flag} is needed: {option.help}")
    return build(cls, values)


def _alternatives(cls: type, name: str) -> list[str]:
    """The options that this one takes the place of."""
    groups: Sequence[Sequence[str]] = getattr(cls, "EITHER", ())
    return [other for group in groups if name in group for other in group if other != name]


def _canonical(words: list[str], options: Mapping[str, Option]) -> tuple[list[str], list[str]]:
    """Aliases become the names they stand for, and `--switch=true` the switch; what follows a bare -- is set apart."""
    end = words.index("--") if "--" in words else len(words)
    names = {alias: option.name for option in options.values() for alias in (option.name, *option.aliases)}
    switches = [option for option in options.values() if is_switch(option.type) or is_optional_switch(option.type)]
    negated = {"--no-" + option.flag[2:]: option for option in switches}
    result: list[str] = []
    seen: set[str] = set()
    for word in words[:end]:
        flag, equals, value = word.partition("=")
        no_flag = negated.get(flag.replace("_", "-"))
        if equals and no_flag:
            raise ConfigError(f"{flag} takes no value; write {flag} alone, or {no_flag.flag}={value}")
        if no_flag and is_optional_switch(no_flag.type):
            result.append(f"{no_flag.flag}=false")
            continue
        name = names.get(flag[2:].replace("-", "_")) if flag.startswith("--") else None
        if name is None:
            result.append(word)
            continue
        option = options[name]
        if is_sequence(option.type) and name in seen:
            raise ConfigError(f"{flag} is given twice; list everything behind one: {option.flag} {option.metavar}")
        seen.add(name)
        if is_switch(option.type) and equals:
            on = _converted_flag(option, [value])
            result.append(option.flag if on else "--no-" + option.flag[2:])
        else:
            result.append(option.flag + equals + value)
    return result, words[end + 1 :]


def _config_file(words: Sequence[str]) -> str | None:
    found = None
    for i, word in enumerate(words):
        if word == "--config":
            found = words[i + 1] if i + 1 < len(words) else ""
        elif word.startswith("--config="):
            found = word.removeprefix("--config=")
    return found


def _read(
    options: Mapping[str, Option], switches: Mapping[str, bool], words: list[str], prog: str, description: str
) -> tuple[dict[str, Any], list[str]]:
    """Each option's words (None where it was not given; a bool for a switch), and the words that belong to none."""
    import tyro

    fields: list[tuple[str, Any, Any]] = []
    for i, option in enumerate(options.values()):
        arg = tyro.conf.arg(name=option.flag[2:], help=option.help or None, help_behavior_hint=_hint(option))
        if is_switch(option.type):
            kind: Any = Annotated[bool, tyro.conf.FlagCreatePairsOff] if option in COMMON else bool
            fields.append((f"f{i}", Annotated[kind, arg], dataclasses.field(default=switches[option.name])))
        else:
            fields.append((f"f{i}", Annotated[Any, arg, _words(option.metavar)], dataclasses.field(default=None)))
    shadow = dataclasses.make_dataclass("Flags", fields)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            result: Any
            result, unknown = tyro.cli(shadow, prog=prog, description=description, args=words, return_unknown_args=True)
    except SystemExit as stop:
        if not stop.code:
            raise
        lines = [line.strip("╭╮╰╯│─ ") for line in said.getvalue().splitlines()]
        raise ConfigError("; ".join(line for line in lines if line)) from None
    return {name: getattr(result, f"f{i}") for i, name in enumerate(options)}, unknown


def _words(metavar: str) -> Any:
    """tyro's description of an option that takes words and leaves what they mean to us."""
    from tyro.constructors import PrimitiveConstructorSpec

    return PrimitiveConstructorSpec(
        nargs="*", metavar=metavar, instance_from_str=list, is_instance=lambda _: True, str_from_instance=lambda _: []
    )


def _hint(option: Option) -> str:
    """What the help says behind an option: "(default: 12; at least 1)"."""
    if option in COMMON:
        return ""
    parts = [f"default: {option.default_text}" if option.default_text is not None else "required"]
    plain, limits = without_annotation(option.type)
    ranges = [limits, *(without_annotation(member)[1] for member in union_members(plain))]
    parts += [str(found) for found in ranges if isinstance(found, Range)]
    if option.aliases:
        flags = ["--" + alias.replace("_", "-") for alias in option.aliases]
        parts.append("also " + ", ".join(flags[:2]) + (" and others" if len(flags) > 2 else ""))
    if option.positional:
        parts.append(f"the word {option.flag} may be left out")
    return f"({'; '.join(parts)})"


def _converted_flag(option: Option, texts: list[str]) -> Any:
    if not texts and is_optional_switch(option.type):
        return True
    if not texts and _may_be_empty(option):
        return ()  # none instead of the default's
    if not texts:
        raise ConfigError(f"{option.flag} needs a value: {option.allowed}")
    plain, _ = without_annotation(option.type)
    if is_sequence(option.type):
        if takes_none(plain) and [text.lower() for text in texts] == ["none"]:
            return None
        sequence = next(part for part in (*union_members(plain), plain) if is_sequence(part))
        sequence, _ = without_annotation(sequence)
        items = get_args(sequence)
        each = items[:1] * len(texts) if items[-1] is Ellipsis else items
        if len(each) != len(texts):
            raise ConfigError(f"{option.flag} has {len(texts)} values; it must be {option.allowed}")
        return tuple(_converted_text(option, text, item) for text, item in zip(texts, each, strict=True))
    return _converted_text(option, texts[0], option.type)


def _converted_text(option: Option, text: str, annotation: Any) -> Any:
    try:
        return convert_named(from_text(text, annotation), annotation, option.flag)
    except Mismatch:
        raise refusal(option.flag, text, annotation) from None


def _use_loose_words(
    options: Mapping[str, Option], loose: list[str], values: dict[str, Any], given: Mapping[str, Any]
) -> None:
    """Words without a flag: the positional options' values, in their order, or a mistake."""
    if not loose:
        return
    positional = [option for option in options.values() if option.positional]
    if not positional:
        raise ConfigError(
            f"{shown(loose[0])} belongs to no option; name it (--option value), and quote a value with spaces"
        )
    for option in positional:
        if given[option.name] is None and loose:
            n = len(loose) if is_sequence(option.type) else 1
            values[option.name] = _converted_flag(option, loose[:n])
            loose = loose[n:]
    if loose:
        flags = " and ".join(option.flag for option in positional)
        raise ConfigError(f"{shown(loose[0])} is one value too many for {flags}; quote a value with spaces")


def _refuse_flag(word: str, options: Mapping[str, Option]) -> NoReturn:
    flag = word.partition("=")[0]
    names = [name for option in options.values() for name in (option.name, *option.aliases)]
    near = nearest(flag.lstrip("-").replace("-", "_"), names)
    what_to_do = f"did you mean --{near.replace('_', '-')}?" if near else "--help lists the options of this command"
    if not near and not word.startswith("--"):
        what_to_do += f" (a value that begins with a hyphen goes behind an equals sign: --option={shown(word)})"
    raise ConfigError(f"unknown option {shown(flag)[1:-1]}; {what_to_do}")


def _may_be_empty(option: Option) -> bool:
    """A list of any length whose default is not empty: its flag alone empties it."""
    plain, _ = without_annotation(option.type)
    return is_sequence(plain) and Ellipsis in get_args(plain) and bool(option.default)
