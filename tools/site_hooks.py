"""mkdocs' hooks: the texts at the repository's root are pages of the site, too, and links lead where they are there."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
AT_ROOT = {"README.md": "index.md", "LEARNING.md": "LEARNING.md", "CONTRIBUTING.md": "CONTRIBUTING.md"}
AT_ROOT |= {"CHANGELOG.md": "CHANGELOG.md"}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    for name, page in AT_ROOT.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links are written for the repository: from a file of it to another. Those to no page become their text."""
    uri = page.file.src_uri
    source = next((name for name, target in AT_ROOT.items() if target == uri), f"docs/{uri}")

    def there(link: re.Match[str]) -> str:
        picture, text, target, anchor = link[1], link[2], link[3], link[4] or ""
        if re.match(r"[a-z]+:", target):
            return link[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        place = AT_ROOT.get(path, path.removeprefix("docs/") if path.startswith("docs/") else "")
        if files.get_file_from_path(place) is None:
            return text
        return f"{picture}[{text}]({posixpath.relpath(place, posixpath.dirname(uri) or '.')}{anchor})"

    return LINK.sub(there, markdown)
