"""The help of a command, drawn from the dataclass of its options.

HEADINGS   class attribute: the heading that begins at an option, for classes with many
RARE       class attribute: options that only --help-all shows
SHORT      class attribute: letters that stand for options

--help is for the common case: options with their defaults. --help-all has every option, with the values that are
allowed, and other names.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING

from gollm.options import Option, Range

INDENT = 26
NO_LIMIT = 2**31 - 1  # of numbers: nothing to tell of
PRINTED = "json"


def help_text(
    cls: type, options: Mapping[str, Option], common: Sequence[Option], *, prog: str, description: str, everything: bool
) -> str:
    width = min(shutil.get_terminal_size().columns, 110)
    letters = {name: letter for letter, name in getattr(cls, "SHORT", {}).items()}
    rare = set(getattr(cls, "RARE", ()))

    def entries(those: Iterable[Option]) -> list[str]:
        lines = []
        for option in those:
            words = f"{option.help} {hint(option, everything=everything)}".strip()
            lines += _wrapped(_flag(option, letters), words, width)
        return lines

    lines = [usage(prog, options), "", *textwrap.wrap(description, width)]
    found = sections(getattr(cls, "HEADINGS", {}), options)
    for heading, members in found.items():
        if shown := [option for option in members if everything or option.name not in rare]:
            lines += ["", f"{heading}:", *entries(shown)]
    lines += ["", "general:"] if "general" not in found else []
    lines += _wrapped("-h, --help", "show this help and exit", width)
    more = f"show the other {len(rare)} options too, and" if rare else "show"
    lines += _wrapped("--help-all", f"{more} which values are allowed", width)
    return "\n".join(lines + entries(common))


def sections(headings: Mapping[str, str], options: Mapping[str, Option]) -> dict[str, list[Option]]:
    """Heading -> its options: first those whose flag may be left out; what is printed last."""
    found: dict[str, list[Option]] = {"arguments": []}
    heading = "options"
    for option in options.values():
        heading = headings.get(option.name, heading)
        where = "arguments" if option.type.positional else "general" if option.name == PRINTED else heading
        found.setdefault(where, []).append(option)
    general = found.pop("general", None)
    return {**found, "general": general} if general else found


def usage(prog: str, options: Mapping[str, Option]) -> str:
    """ "usage: gollm generate MODEL [PROMPT] [OPTIONS]" """
    words = []
    for option in (option for option in options.values() if option.type.positional):
        word = option.name.upper() + (" ..." if option.type.many else "")
        words.append(f"[{word}]" if option.default is not MISSING else word)
    return " ".join(["usage:", prog, *words, "[OPTIONS]"])


def _flag(option: Option, letters: Mapping[str, str]) -> str:
    """ "-n, --max-new-tokens INT"; in brackets where the flag may be left out."""
    kind = option.type
    flag = f"[{option.flag}]" if kind.positional else option.flag
    if option.name in letters:
        flag = f"-{letters[option.name]}, {flag}"
    if option.name == "debug":
        return flag
    return f"{flag}, --no-{option.flag[2:]}" if kind.is_switch else f"{flag} {kind.metavar}"


def _wrapped(flag: str, words: str, width: int) -> list[str]:
    first = f"  {flag}"
    lines = textwrap.wrap(words, max(20, width - INDENT), break_on_hyphens=False) or [""]
    if len(first) + 2 > INDENT:
        return [first, *(" " * INDENT + line for line in lines)]
    return [f"{first:{INDENT}}{lines[0]}".rstrip(), *(" " * INDENT + line for line in lines[1:])]


def hint(option: Option, *, everything: bool) -> str:
    """What the help says behind an option: "(default: 12; at least 1)"."""
    parts = ["required"] if option.default is MISSING else []
    if option.default is not MISSING and option.default_text not in ("none", "''", "false", None):
        parts.append(f"default: {option.default_text}")
    limits = option.type.limits
    if everything and isinstance(limits, Range):
        parts.append(str(dataclasses.replace(limits, at_most=math.inf) if limits.at_most == NO_LIMIT else limits))
    if everything and option.aliases:
        parts.append("also " + _listed("--" + alias.replace("_", "-") for alias in option.aliases))
    return f"({'; '.join(parts)})" if parts else ""


def _listed(flags: Iterable[str]) -> str:
    first, *others = flags
    return first + (f", {others[0]}" if others else "") + (" and others" if others[1:] else "")
