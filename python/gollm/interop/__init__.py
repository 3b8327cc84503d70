"""Models in and out of the formats of others: one module a format.

`open_model` reads any of them, `convert` turns one into another. A file's format is told by its content.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from gollm.errors import FormatError
from gollm.interop.source import Format, Source, StorageType

# Each module has a FORMAT; looked at in this order. A package that a format needs is imported when it is used.
_MODULES = {
    "golm": "golm",
    "huggingface": "huggingface",
    "gguf": "gguf",
    "llm.c": "llmc",
    "json": "json_weights",
    "llama2.c": "llama2c",  # after those that begin with a magic number: its oldest version has none
}
NAMES = tuple(_MODULES)


def format_named(name: str) -> Format:
    """The format of this name. Raises FormatError for an unknown one."""
    if name not in _MODULES:
        raise FormatError(f"the format is {name!r}; it must be one of {', '.join(_MODULES)}")
    found: Format = importlib.import_module(f"gollm.interop.{_MODULES[name]}").FORMAT
    return found


def recognise(path: str | Path) -> Format:
    """The format of what is at `path`. Raises FormatError where there is nothing, or nothing that is known."""
    path = Path(path)
    if not path.exists():
        raise FormatError(f"there is no file or folder {path}")
    for name in _MODULES:
        found = format_named(name)
        if found.recognises(path):
            return found
    raise FormatError(f"{path} is no model in a format that gollm reads: {', '.join(_MODULES)}")


def open_model(path: str | Path) -> Source:
    """The model at `path`, whatever its format. Raises FormatError for one that is damaged or not supported."""
    return recognise(path).read(Path(path))


def convert(source: str | Path, target: str | Path, to: str, dtype: StorageType | None = None) -> None:
    """Writes the model at `source` to `target` in the format named `to`, one weight after the other.

    `dtype` is what matrices are stored as, the format's usual one unless given. Raises FormatError."""
    goal = format_named(to)
    if dtype is not None and dtype not in goal.dtypes:
        raise FormatError(f"dtype is {dtype!r}; {to} is written as {', '.join(goal.dtypes)}")
    with open_model(source) as model:
        goal.write(model, Path(target), dtype or goal.dtypes[0])
