"""The examples in docstrings show what happens."""

from __future__ import annotations

import doctest
import importlib

import pytest

from test_layers import module_files

EXAMPLES = [
    name
    for name, path in module_files().items()
    if any(">>> " in line and "+SKIP" not in line for line in path.read_text(encoding="utf-8").splitlines())
]


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted and not result.failed
