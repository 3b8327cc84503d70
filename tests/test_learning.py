"""LEARNING.md leads where it says: its links, files and names exist, and no page or notebook is left out."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "LEARNING.md").read_text(encoding="utf-8")


def rows() -> list[tuple[list[Path], list[str], int]]:
    """(files, names to look for, minutes) of each row of the tables of files. A file may leave out the folder of the
    one before it in its row."""
    found = []
    for files, names, minutes in re.findall(r"^\| (`[^|]+) \|[^|]+\| (`[^|]+) \| (\d+) \|$", TEXT, re.M):
        paths: list[Path] = []
        for name in re.findall(r"`([^`]+)`", files):
            folder = ROOT if "/" in name else paths[-1].parent
            paths.append(folder / name)
        found.append((paths, re.findall(r"`([^`]+)`", names), int(minutes)))
    return found


def test_every_row_is_read() -> None:
    assert len(rows()) == len(re.findall(r"^\| `", TEXT, re.M)) > 50


def test_names_are_in_their_files() -> None:
    missing = []
    for paths, names, _ in rows():
        text = "\n".join(path.read_text(encoding="utf-8") for path in paths)
        missing += [f"{paths[0].name}: {name}" for name in names if not re.search(rf"\b{re.escape(name)}\b", text)]
    assert not missing


def test_links_lead_somewhere() -> None:
    missing = [target for target in re.findall(r"\]\(([^)#]+)\)", TEXT) if not (ROOT / target).exists()]
    assert not missing


def test_every_page_and_notebook_is_on_the_tour() -> None:
    pages = [path.relative_to(ROOT).as_posix() for path in (ROOT / "docs" / "learn").rglob("*.md")]
    notebooks = [path.relative_to(ROOT).as_posix() for path in (ROOT / "notebooks").glob("*.ipynb")]
    assert [name for name in [*pages, *notebooks] if f"({name})" not in TEXT] == []


def test_the_times_are_those_of_reading() -> None:
    """Not more than 25 lines a minute, nor fewer than one."""
    for paths, _, minutes in rows():
        lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)
        assert lines / 25 <= minutes <= lines, f"{paths[0].name}: {lines} lines in {minutes} minutes"
