"""The help of a command, drawn from the dataclass of its options.

HEADINGS   class attribute: the heading that begins at an option, for classes with many
RARE       class attribute: options that only --help-all shows
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


def help_text(
    cls: type, options: Mapping[str, Option], common: Sequence[Option], *, prog: str, description: str, everything: bool
) -> str:
    width = min(shutil.get_terminal_size().columns, 110)
    headings: Mapping[str, str] = getattr(cls, "HEADINGS", {})
    rare = set() if everything else set(getattr(cls, "RARE", ()))
    positional = "".join(f" [{option.name.upper()}]" for option in options.values() if option.type.positional)
    lines = [f"usage: {prog}{positional} [OPTIONS]", "", *textwrap.wrap(description, width)]
    if not headings:
        lines += ["", "options:"]
    for option in options.values():
        if option.name in headings:
            lines += ["", f"{headings[option.name]}:"]
        if option.name not in rare:
            lines += _entry(option, hint(option), width)
    lines += ["", "general:"] if headings else []
    lines += _wrapped("-h, --help", "show this help and exit", width)
    if rare:
        lines += _wrapped("--help-all", f"show the other {len(rare)} options, too", width)
    for option in common:
        lines += _entry(option, "", width)
    return "\n".join(lines)


def _entry(option: Option, behind: str, width: int) -> list[str]:
    kind = option.type
    flag = f"{option.flag}, --no-{option.flag[2:]}" if kind.is_switch else f"{option.flag} {kind.metavar}"
    return _wrapped(option.flag if option.name == "debug" else flag, f"{option.help} {behind}".strip(), width)


def _wrapped(flag: str, words: str, width: int) -> list[str]:
    first = f"  {flag}"
    lines = textwrap.wrap(words, max(20, width - INDENT), break_on_hyphens=False) or [""]
    if len(first) + 2 > INDENT:
        return [first, *(" " * INDENT + line for line in lines)]
    return [f"{first:{INDENT}}{lines[0]}".rstrip(), *(" " * INDENT + line for line in lines[1:])]


def hint(option: Option) -> str:
    """What the help says behind an option: "(default: 12; at least 1)"."""
    parts = ["required" if option.default is MISSING else f"default: {option.default_text}"]
    limits = option.type.limits
    if isinstance(limits, Range):
        parts.append(str(dataclasses.replace(limits, at_most=math.inf) if limits.at_most == NO_LIMIT else limits))
    if option.aliases:
        parts.append("also " + _listed("--" + alias.replace("_", "-") for alias in option.aliases))
    if option.type.positional:
        parts.append(f"{option.flag} may be left out")
    return f"({'; '.join(parts)})"


def _listed(flags: Iterable[str]) -> str:
    first, *others = flags
    return first + (f", {others[0]}" if others else "") + (" and others" if others[1:] else "")
