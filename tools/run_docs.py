"""Runs what the documentation shows: every ```sh and ```python block of README.md, docs/*.md, docs/learn/*.md and
docs/learn/notes/*.md, page by page, and the scripts that draw the figures of docs/learn.

    python tools/run_docs.py [PAGE or SCRIPT ...]

A page's blocks run in order, in one folder with links to the checkout's docs, csrc, cuda and tests, so that files have
the names that they have there: shell blocks with `bash -e`, Python blocks each after the page's earlier Python blocks,
which run again. A block below a comment `<!-- not run: REASON -->` is only counted, and so is one below
`<!-- needs: MODULE, MODULE -->` where one of these is not installed. `pip install` lines are left to the caller, who
has installed gollm already; `$DATA` stands for a folder with tinyshakespeare.txt where there is one, and a block that
needs it is skipped elsewhere.

A ```text block right below a comment `<!-- prints -->` is compared with what the ```python block before it printed.

A script of docs/learn/figures gets an empty folder as its argument. Each SVG that it writes there must lie beside the
script, and be shown on a page.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(
    r"(?:<!-- (?:not run: (?P<reason>[^>]*)|needs: (?P<modules>[\w, ]+)) -->\n+)?"
    r"^```(?P<language>sh|python)\n(?P<code>.*?)^```$"
    r"(?:\n+<!-- prints -->\n+```text\n(?P<prints>.*?)^```$)?",
    re.M | re.S,
)
FIGURES = ROOT / "docs" / "learn" / "figures"
DATA = ROOT.parent / "shared" / "data"
TIMEOUT = 600  # seconds a block
AT_ONCE = 2  # pages: most blocks are a command that uses one core

RUNNER = """
import contextlib, io, sys
scope = {"__name__": "__page__"}
for number, code in enumerate(sys.argv[1:], 1):
    is_last = number == len(sys.argv) - 1
    with contextlib.nullcontext() if is_last else contextlib.redirect_stdout(io.StringIO()):
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
        for name in ("docs", "csrc", "cuda", "tests"):
            (Path(folder) / name).symlink_to(ROOT / name)
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
            if match["prints"] is not None and match["prints"].split() != result.stdout.split():
                sys.exit(f"{page.name}: this block does not print what the page shows:\n{code}\n{result.stdout}")
            print(f"{page.name}: {time.monotonic() - started:5.1f} s  {code.strip().splitlines()[0][:90]}", flush=True)
            run += 1
    return run, skipped


def run_script(script: Path) -> tuple[int, int]:
    """Runs a script that draws figures; returns how many ran and how many did not."""
    if not _installed("altair, vl_convert"):
        return 0, 1
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(script.resolve()), folder]
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT, check=False)
        if result.returncode:
            sys.exit(f"{script.name} failed ({result.returncode}):\n{result.stdout[-3000:]}{result.stderr[-3000:]}")
        drawn = sorted(path.name for path in Path(folder).glob("*.svg"))
    shown = "".join(page.read_text(encoding="utf-8") for page in script.parent.parent.glob("*.md"))
    for name in drawn:
        if not (script.parent / name).exists():
            sys.exit(f"{script.name} draws {name}, which is not in {script.parent}. Run it without an argument")
        if f"figures/{name}" not in shown:
            sys.exit(f"{script.name} draws {name}, which no page of {script.parent.parent} shows")
    print(f"{script.name}: {time.monotonic() - started:5.1f} s  {', '.join(drawn)}", flush=True)
    return 1, 0


def everything() -> list[Path]:
    docs = ROOT / "docs"
    folders = [docs, docs / "learn", docs / "learn" / "notes"]
    pages = [page for folder in folders for page in sorted(folder.glob("*.md"))]
    return [ROOT / "README.md", *pages, *sorted(FIGURES.glob("*.py"))]


def main() -> None:
    paths = [Path(p) for p in sys.argv[1:]] or everything()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            results = list(pool.map(lambda path: run_script(path) if path.suffix == ".py" else run_page(path), paths))
        except SystemExit:
            pool.shutdown(cancel_futures=True)
            raise
    print(f"{sum(r for r, _ in results)} blocks and scripts ran, {sum(s for _, s in results)} did not")


if __name__ == "__main__":
    main()
