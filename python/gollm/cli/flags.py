"""Command-line flags into options: flags over the --config file over the defaults of the dataclass.

SHORT      class attribute: letters that stand for options, {"n": "max_new_tokens"} for -n
"""

from __future__ import annotations

import re
import shlex
import sys
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import MISSING, replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from gollm import set_num_threads
from gollm.cli.help import help_text
from gollm.cli.known_words import instead_of_flag
from gollm.errors import ConfigError
from gollm.options import Option, Range, build, converted, describe, load_file, nearest
from gollm.options.types import Type, shown

T = TypeVar("T")

# What every command takes.
THREADS = Option(
    "threads",
    Type(int, limits=Range(at_least=1, at_most=1024)),
    None,
    "threads of the kernels",
    default_text="$GOLLM_NUM_THREADS, $OMP_NUM_THREADS, or one for each physical core",
)
COMMON = (
    THREADS,
    Option("config", Type(Path), None, "a YAML or JSON file with options of this command; flags override it"),
    Option("debug", Type(bool), False, "show Python's traceback of an error"),
)
_NEGATIVE = re.compile(r"-\.?\d")  # a number, where a flag waits for a value


def parse(cls: type[T], argv: Sequence[str] | None = None, *, prog: str, description: str) -> T:
    """The options that the command line gives.

    --batch-size 12, --batch-size=12, --batch_size=12 and aliases are one and the same. `--help` prints and exits,
    `--threads` sets the number of threads. Raises ConfigError for anything that is not allowed."""
    words = list(sys.argv[1:] if argv is None else argv)
    own = describe(cls)
    flags = words[: words.index("--")] if "--" in words else words
    common = [option for option in COMMON if option.name not in own]  # bench inference has several --threads
    options = {option.name: option for option in (*own.values(), *common)}
    if asked := {"-h", "--help", "--help-all"} & set(flags):
        own = _with_presets_defaults(cls, own, flags)
        print(help_text(cls, own, common, prog=prog, description=description, everything="--help-all" in asked))
        raise SystemExit(0)
    given, loose = _split(words, options, getattr(cls, "SHORT", {}))
    if "threads" in given and "threads" not in own:
        set_num_threads(_converted(THREADS, given["threads"]))
    values: dict[str, Any] = {}
    if "config" in given:
        file = _converted(options["config"], given["config"])
        values = converted(cls, load_file(file), f"{file}: ")
    _place(loose, given, own)
    for group in getattr(cls, "EITHER", ()):
        if given.keys() & group:  # it takes the place of the file's
            values = {name: value for name, value in values.items() if name not in group}
    values |= {name: _converted(own[name], given[name]) for name in given if name in own}
    for option in own.values():
        if option.default is MISSING and option.name not in values:
            raise ConfigError(f"{option.flag} is needed: {option.help}")
    return build(cls, {name: values[name] for name in own if name in values})


def _with_presets_defaults(cls: type, options: Mapping[str, Option], flags: Sequence[str]) -> Mapping[str, Option]:
    """The options with the defaults of the preset that is named beside --help."""
    words = [word for flag in flags for word in flag.split("=", 1)]
    if "preset" not in options or "--preset" not in words[:-1]:
        return options
    name = options["preset"].type.convert_text(words[words.index("--preset") + 1], "--preset")
    found: Mapping[str, str] = cls.presets_defaults(name)  # type: ignore[attr-defined]
    return {
        name: replace(option, default_text=found.get(name, option.default_text)) for name, option in options.items()
    }


def _split(
    words: Sequence[str], options: Mapping[str, Option], short: Mapping[str, str]
) -> tuple[dict[str, list[str]], list[str]]:
    """The words of each flag that was given, and those that belong to none."""
    names = {alias: option for option in options.values() for alias in (option.name, *option.aliases)}
    off = {f"no_{name}": option for name, option in names.items() if option.type.is_switch}
    given: dict[str, list[str]] = {}
    loose: list[str] = []
    left = deque(words)
    while left:
        word = left.popleft()
        flag, equals, value = word.partition("=")
        name = flag[2:].replace("-", "_") if flag.startswith("--") else short.get(flag[1:], "")
        if word == "--":
            return given, [*loose, *left]
        if _is_text(word):
            loose.append(word)
        elif name in names:
            option, kind = names[name], names[name].type
            if kind.many and option.name in given:
                raise ConfigError(f"{flag} is given twice; list everything behind one: {option.flag} {kind.metavar}")
            texts = [value] if equals else []
            if not kind.is_switch or (kind.optional and left and left[0].lower() in ("true", "false", "none")):
                while left and (kind.many or not texts) and (_is_text(left[0]) or _NEGATIVE.match(left[0])):
                    texts.append(left.popleft())
            given[option.name] = texts or (["true"] if kind.is_switch else [])
        elif name in off:
            if equals:
                raise ConfigError(f"{flag} takes no value; write {flag} alone, or {off[name].flag}={value}")
            given[off[name].name] = ["false"]
        else:
            _refuse_flag(word, names, options)
    return given, loose


def _is_text(word: str) -> bool:
    return not word.startswith("-") or word == "-"


def _refuse_flag(word: str, names: Iterable[str], options: Collection[str]) -> NoReturn:
    flag = word.partition("=")[0]
    if instead := instead_of_flag(flag.lstrip("-").replace("-", "_"), options):
        raise ConfigError(f"unknown option {flag}; {instead}")
    near = nearest(flag.lstrip("-").replace("-", "_"), names)
    what_to_do = f"did you mean --{near.replace('_', '-')}?" if near else "--help lists the options of this command"
    if not near and not word.startswith("--"):
        what_to_do += f" (a value that begins with a hyphen goes behind an equals sign: --option={shown(word)})"
    raise ConfigError(f"unknown option {shown(flag)[1:-1]}; {what_to_do}")


def _place(loose: list[str], given: dict[str, list[str]], options: Mapping[str, Option]) -> None:
    """Gives words without a flag to the options that take such, in their order."""
    positional = [option for option in options.values() if option.type.positional]
    flagged = [option.name for option in positional if option.name in given]
    for option in positional:
        if loose and option.name not in given:
            n = len(loose) if option.type.many else 1
            given[option.name], loose = loose[:n], loose[n:]
    if loose:
        instead = _meant(loose[0], given, options, positional, flagged)
        raise ConfigError(f"unexpected argument {shown(loose[0])}; {instead}")


def _meant(
    word: str, given: dict[str, list[str]], options: Mapping[str, Option], positional: list[Option], flagged: list[str]
) -> str:
    """What to do with a word that no option takes; `flagged` are the positional ones that came behind their flags."""
    for option in options.values():
        if word in map(str, option.type.choices) and option.name not in given:
            return f"did you mean {option.flag} {word}?"
    if not positional:
        return "each value of this command goes behind its flag; --help lists them"
    missing = [option for option in options.values() if option.default is MISSING and option.name not in given]
    if len(missing) == 1:
        return f"did you mean {missing[0].flag} {shlex.quote(word)}?"
    last = positional[-1]
    if last.name in flagged:
        return f"{last.flag} has its value; quote a value with spaces, or give one of the two"
    whole = shlex.quote(" ".join([*given[last.name], word]))
    return f"{last.flag} has its value; quote a value with spaces: {whole}"


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
    return tuple(kind.each.convert_text(text, option.flag) for text in texts)
