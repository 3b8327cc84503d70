"""What is public has one import path and is in docs/reference.md, and the pages name what exists."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from test_layers import module_files

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FILE = re.compile(r"`([\w./-]+\.(?:py|c|h|md|def|yaml))`")


def public_names() -> dict[str, list[str]]:
    """Module -> its `__all__`, of the modules that have one."""
    modules = map(importlib.import_module, (n for n, path in module_files().items() if "\n__all__" in path.read_text()))
    return {module.__name__: module.__all__ for module in modules}


def test_the_page_is_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "tools" / "reference_page.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_a_public_object_has_one_import_path() -> None:
    paths = defaultdict(list)
    for module, names in public_names().items():
        assert len(set(names)) == len(names), module
        for name in names:
            value = getattr(importlib.import_module(module), name)
            if getattr(value, "__module__", "").startswith("gollm"):  # not numbers, strings, or aliases of other types
                paths[id(value)].append(f"{module}.{name}")
    assert [found for found in paths.values() if len(found) > 1] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_import_what_is_public(page: Path) -> None:
    public = public_names()
    rooms = {module.rpartition(".")[::2] for module in public}  # ("gollm", "data"): from gollm import data
    for module, names in re.findall(r"^from (gollm[\w.]*) import (.+)$", page.read_text(encoding="utf-8"), re.M):
        for name in names.split("  #")[0].split(", "):
            assert name in public.get(module, ()) or (module, name) in rooms, f"from {module} import {name}"


@pytest.mark.parametrize("page", ["LEARNING.md", "CONTRIBUTING.md"])
def test_files_that_a_page_names_exist(page: str) -> None:
    folder, missing = ROOT, []
    for name in FILE.findall((ROOT / page).read_text(encoding="utf-8")):
        # `nn/ops.py`, then `tape.py`: a name may leave out the folders that the name before it had
        path = next((base / name for base in (ROOT, folder, folder.parent) if (base / name).exists()), None)
        if path is None:
            missing.append(name)
        else:
            folder = path.parent
    assert not missing, f"{page} names files that do not exist: {missing}"
