"""Runs the notebooks: each notebooks/NAME.py, which is jupytext's "percent" text, cell by cell in an empty folder.

    python tools/run_notebooks.py [NAME.py ...]             fails where a cell does
    python tools/run_notebooks.py --write [NAME.py ...]     and writes NAME.ipynb with what the cells printed and drew

`$DATA` is a folder with tinyshakespeare.txt. Notebooks that need it are left out where there is none.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
DATA = ROOT.parent / "shared" / "data"
TIMEOUT = 600  # seconds a cell
COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # of a terminal


def run(text: Path) -> nbformat.NotebookNode:
    """The notebook with its outputs. Raises CellExecutionError."""
    notebook = jupytext.read(text)
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        NotebookClient(
            notebook, timeout=TIMEOUT, startup_timeout=TIMEOUT, coalesce_streams=True, resources=resources
        ).execute()
    for number, cell in enumerate(notebook.cells, 1):
        cell.id = f"cell-{number}"
        cell.metadata = {}
    notebook.metadata.pop("language_info", None)
    return notebook


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the .ipynb beside the text")
    parser.add_argument("texts", nargs="*", type=Path, metavar="NAME.py")
    options = parser.parse_args()
    os.environ.setdefault("DATA", str(DATA))
    for text in options.texts or sorted(NOTEBOOKS.glob("*.py")):
        if 'environ.get("DATA"' in text.read_text(encoding="utf-8") and not Path(os.environ["DATA"]).is_dir():
            print(f"{text.name}: left out, since there is no folder {os.environ['DATA']}")
            continue
        started = time.monotonic()
        try:
            notebook = run(text)
        except CellExecutionError as error:
            sys.exit(f"{text.name}: {COLOURS.sub('', str(error))}")
        if options.write:
            nbformat.write(notebook, text.with_suffix(".ipynb"))
        print(f"{text.name}: {time.monotonic() - started:5.1f} s, {len(notebook.cells)} cells", flush=True)


if __name__ == "__main__":
    main()
