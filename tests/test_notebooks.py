"""A notebook and its text have the same cells, and the notebook has what they print (tools/run_notebooks.py)."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
TEXTS = sorted(NOTEBOOKS.glob("*.py"))


def cells_of_text(text: str) -> list[tuple[str, str]]:
    """(kind, source) of each cell of a "percent" text."""
    cells = []
    for part in re.split(r"^# %%", text, flags=re.M)[1:]:
        head, _, body = part.partition("\n")
        kind = "markdown" if "[markdown]" in head else "code"
        lines = body.strip("\n").split("\n")
        if kind == "markdown":
            lines = [line.removeprefix("#").removeprefix(" ") for line in lines]
        cells.append((kind, "\n".join(lines)))
    return cells


def notebook_of(text: Path) -> list[dict]:
    return json.loads(text.with_suffix(".ipynb").read_text(encoding="utf-8"))["cells"]


def test_there_is_a_text_for_each_notebook() -> None:
    assert len(TEXTS) == 5
    assert [text.with_suffix(".ipynb") for text in TEXTS] == sorted(NOTEBOOKS.glob("*.ipynb"))


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.stem)
def test_text_and_notebook_agree(text: Path) -> None:
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in notebook_of(text)]
    assert cells == cells_of_text(text.read_text(encoding="utf-8")), "run: make notebooks"


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.stem)
def test_a_notebook_shows_what_its_cells_print(text: Path) -> None:
    for cell in notebook_of(text):
        if cell["cell_type"] == "code":
            assert cell["execution_count"], "run: make notebooks"
            assert not any(output["output_type"] == "error" for output in cell["outputs"])
            if re.search(r"^print\(", "".join(cell["source"]), re.M):
                assert any(output["output_type"] == "stream" for output in cell["outputs"])


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.stem)
def test_links_of_a_notebook_lead_somewhere(text: Path) -> None:
    for target in re.findall(r"\]\((?!https:)([^)#\s]+)", text.read_text(encoding="utf-8")):
        assert (NOTEBOOKS / target).exists(), target
