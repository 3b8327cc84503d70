"""Runs what the documentation shows: every ```sh and ```python block of README.md and docs/*.md, page by page.

    python tools/run_docs.py [PAGE ...]

A page's blocks run in order, in one empty folder: shell blocks with `bash -e`, Python blocks each after the page's
earlier Python blocks, which run again. A block below a comment `<!-- not run: REASON -->` is only counted, and so is
one below `<!-- needs: MODULE, MODULE -->` where one of these is not installed. `pip install` lines are left to the
caller, who has installed gollm already; `$DATA` stands for a folder with tinyshakespeare.txt where there is one, and a
block that needs it is skipped elsewhere.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(
    r"(?:<!-- (?:not run: (?P<reason>[^>]*)|needs: (?P<modules>[\w, ]+)) -->\n+)?"
    r"^```(?P<language>sh|python)\n(?P<code>.*?)^```$",
    re.M | re.S,
)
DATA = ROOT.parent / "shared" / "data"
TIMEOUT = 600  # seconds a block

RUNNER = """
import sys
scope = {"__name__": "__page__"}
for number, code in enumerate(sys.argv[1:], 1):
    exec(compile(code, f"snippet {number}", "exec"), scope)
"""


def _installed(modules: str | None) -> bool:
    return all(importlib.util.find_spec(module) for module in (modules or "").replace(",", " ").split())


def run_page(page: Path) -> tuple[int, int]:
    """Runs a page's blocks; returns how many ran and how many did not."""
    python: list[str] = []
    run = skipped = 0
    environment = {**os.environ, "DATA": str(DATA)}
    with tempfile.TemporaryDirectory() as folder:
        for match in BLOCK.finditer(page.read_text(encoding="utf-8")):
            code = match["code"]
            needs_data = "$DATA" in code or 'environ["DATA"]' in code
            if match["reason"] or (needs_data and not DATA.exists()) or not _installed(match["modules"]):
                skipped += 1
                continue
            if match["language"] == "sh":
                lines = [
                    line for line in code.splitlines() if not line.startswith(("pip install", "git clone", "cd gollm"))
                ]
                command = ["bash", "-e", "-o", "pipefail", "-c", "\n".join(lines)]
            else:
                python.append(code)
                command = [sys.executable, "-c", RUNNER, *python]
            started = time.monotonic()
            result = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False
            )
            if result.returncode:
                sys.exit(
                    f"{page.name}: this block failed ({result.returncode}):\n{code}\n"
                    f"{result.stdout[-3000:]}{result.stderr[-3000:]}"
                )
            print(f"{page.name}: {time.monotonic() - started:5.1f} s  {code.strip().splitlines()[0][:90]}", flush=True)
            run += 1
    return run, skipped


def main() -> None:
    pages = [Path(p) for p in sys.argv[1:]] or [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    results = [run_page(page) for page in pages]
    print(f"{sum(r for r, _ in results)} blocks ran, {sum(s for _, s in results)} did not")


if __name__ == "__main__":
    main()
