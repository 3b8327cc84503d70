"""Which options an object was given, whatever their values: one that equals its default counts too."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

T = TypeVar("T", bound="Given")


class Given:
    """A base of option classes whose objects know which options they were made with; see given()."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        options = super().__new__(cls)
        names = [field.name for field in dataclasses.fields(cls) if field.init]  # type: ignore[arg-type]
        object.__setattr__(options, "_given", {*names[: len(args)], *kwargs})
        return options


def given(options: Given) -> list[str]:
    """The names of the options that were given, on the command line, in a file or by a program, in the order of the
    fields. None leaves an option open: it is not given."""
    names: set[str] = vars(options)["_given"]
    fields = dataclasses.fields(options)  # type: ignore[arg-type]
    return [field.name for field in fields if field.name in names and getattr(options, field.name) is not None]


def replace(options: T, **changes: Any) -> T:
    """A copy with changes, which count as given beside what was."""
    changed = dataclasses.replace(options, **changes)  # type: ignore[type-var]
    object.__setattr__(changed, "_given", {*vars(options)["_given"], *changes})
    return changed
