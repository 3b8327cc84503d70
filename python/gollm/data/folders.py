"""The files below a folder that serve as training text."""

from __future__ import annotations

import contextlib
import fnmatch
import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from gollm.data.parquet import is_parquet
from gollm.errors import DataError, warn
from gollm.system.files import open_regular, reason
from gollm.system.plain_text import text_chunks

CHECKED_CHUNKS = 4  # of about a megabyte: what is looked at of each file
SHOWN = 5  # files that a message names


def files_below(folder: Path, patterns: Sequence[str] = ()) -> list[Path]:
    """The regular files below `folder` in sorted order, those that match one of `patterns` or all.

    A pattern is matched with the name, or with the path below the folder if it has a slash; one that begins with "!"
    leaves files out. Hidden files and folders (.git, .venv) and __pycache__ are never entered, links to folders
    neither. Raises DataError when nothing is found.
    """
    wanted = [p for p in patterns if not p.startswith("!")]
    unwanted = [p[1:] for p in patterns if p.startswith("!")]

    def matches(path: Path, choice: Sequence[str]) -> bool:
        below = path.relative_to(folder).as_posix()
        return any(fnmatch.fnmatchcase(below if "/" in p else path.name, p) for p in choice)

    found: list[Path] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [f for f in folders if not f.startswith(".") and f != "__pycache__"]
        found += [Path(parent, name) for name in names if not name.startswith(".")]
    chosen = [p for p in found if (not wanted or matches(p, wanted)) and not matches(p, unwanted) and _is_regular(p)]
    if not chosen:
        if not patterns:
            raise DataError(f"the folder {folder} holds no files (hidden ones are left out); name one that does")
        raise DataError(
            f"no file below {folder} matches {' '.join(patterns)}; there are {len(found)} files. A pattern looks like "
            f"'*.txt', or 'src/*.py' for paths below the folder"
        )
    return sorted(chosen, key=lambda p: p.relative_to(folder).as_posix())


def _is_regular(path: Path) -> bool:
    with readable(str(path)):
        return path.is_file()


def text_files(folder: Path, paths: Sequence[Path], encoding: str, errors: str) -> list[Path]:
    """Those files of a folder that are text or Parquet, as far as their first megabytes say; a GollmWarning counts and
    names the others. Raises DataError where none is text."""
    refused: dict[Path, str] = {}
    for path in paths:
        with readable(str(path)), open_regular(path, buffering=-1) as file:
            if is_parquet(file):
                continue
            try:
                for _ in itertools.islice(text_chunks(file, "it", DataError, encoding, errors), CHECKED_CHUNKS):
                    pass
            except DataError as failure:
                refused[path] = re.split(r", not text|[:;.] ", str(failure))[0].removeprefix("it is ")
    shown = [f"{path.relative_to(folder)} ({what})" for path, what in itertools.islice(refused.items(), SHOWN)]
    words = ", ".join(shown) + (f" and {len(refused) - SHOWN} more" if len(refused) > SHOWN else "")
    if len(refused) == len(paths):
        raise DataError(f"none of the {len(paths)} files below {folder} is text: {words}")
    if refused:
        warn(
            f"{len(refused)} of {len(paths)} files below {folder} are not text and are left out: {words}. "
            "Name a file itself to see why"
        )
    return [path for path in paths if path not in refused]


@contextlib.contextmanager
def readable(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as failure:
        raise DataError(f"cannot read {name}: {reason(failure)}") from failure
