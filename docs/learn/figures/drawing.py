"""How the figures of docs/learn look, and where they go: a script draws, `save` writes the SVG beside it.

python docs/learn/figures/NAME.py [FOLDER]        writes its figures to FOLDER, or to this folder
"""

from __future__ import annotations

import sys
from pathlib import Path

import altair as alt

BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#b0b0b0"  # Okabe and Ito's: told apart by all readers
ONE_HUE = alt.Scale(scheme="blues")


def save(chart: alt.TopLevelMixin, name: str) -> None:
    """Writes NAME.svg on a white ground, so that it can be read on dark pages too."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    styled = chart.configure(background="#ffffff", padding=8).configure_axis(labelFontSize=11, titleFontSize=12)
    styled.save(folder / f"{name}.svg")
