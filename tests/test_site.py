"""The documentation's site (mkdocs.yml) leads to every page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
AT_ROOT = {"index.md", "LEARNING.md", "CONTRIBUTING.md", "CHANGELOG.md"}  # pages that tools/site_hooks.py adds


def pages(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    else:
        for part in nav.values() if isinstance(nav, dict) else nav:
            yield from pages(part)


def test_the_navigation_has_every_page_once() -> None:
    docs = ROOT / "docs"
    listed = list(pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    written = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}
    assert sorted(listed) == sorted(written | AT_ROOT)
