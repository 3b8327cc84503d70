"""docs/learn: links lead somewhere, figures are shown, and the index lists every page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

COURSE = Path(__file__).resolve().parent.parent / "docs" / "learn"
PAGES = sorted(COURSE.glob("[0-9]*.md"))
LINK = re.compile(r"\]\(([^)\s#]*)(?:#([^)\s]+))?\)")


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """`## What it prints` -> what-it-prints"""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [COURSE / "README.md", *PAGES, *sorted((COURSE / "notes").glob("*.md"))], ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    lost = []
    for name, anchor in LINK.findall(prose(page)):
        target = page.parent / name if name else page
        if name.startswith("http"):
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            lost.append(f"{name}#{anchor}")
    assert not lost


def test_every_figure_is_shown() -> None:
    shown = "".join(prose(page) for page in PAGES)
    assert [path.name for path in (COURSE / "figures").glob("*.svg") if f"(figures/{path.name})" not in shown] == []


def test_the_index_lists_every_page_in_order() -> None:
    listed = re.findall(r"\]\(([0-9][^)]*\.md)\)", prose(COURSE / "README.md"))
    assert listed == [page.name for page in PAGES]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_has_its_number_and_a_length_for_one_sitting(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# {int(page.name[:2])}. ")
    assert 1000 <= len(text.split()) <= 3000, len(text.split())
