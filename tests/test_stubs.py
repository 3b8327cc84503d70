"""python/gollm/_native.pyi says what the native module has."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_stubs_are_what_the_tool_writes_from_the_module():
    tool = runpy.run_path(str(ROOT / "tools" / "stubs.py"))
    assert tool["STUBS"].read_text() == tool["stubs"](), "run python tools/stubs.py"
