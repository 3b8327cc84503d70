"""Colours of all pictures: the same meaning in light and dark, and told apart by colour-blind readers.

Categories are those of Okabe and Ito (2008), lightened for the dark page; scales are viridis and cividis."""

from __future__ import annotations

from typing import Any

# (background, text, faint text, lines) as pictures.css has them
_LIGHT = ("#ffffff", "#1b1f24", "#57606a", "#d8dee4")
_DARK = ("#14171c", "#e6e9ee", "#9aa4b2", "#333a45")
CATEGORIES = {
    "light": ["#0072B2", "#D55E00", "#009E73", "#B6548F", "#B07D00", "#3A9BDC", "#7A5C3A", "#4A4A4A"],
    "dark": ["#56B4E9", "#FF9E4A", "#2DC89A", "#E79AC6", "#E9C46A", "#9CC9FF", "#C9A27A", "#C8C8C8"],
}
SEQUENTIAL = "viridis"
SHORT_NUMBER = "format(datum.value, '~s')"  # each label for itself: 500, 1k; an axis' own format makes that 0.5k


def config(scheme: str) -> dict[str, Any]:
    """Vega-Lite's configuration for "light" or "dark"."""
    background, text, faint, line = _DARK if scheme == "dark" else _LIGHT
    guide = {"labelColor": faint, "titleColor": text, "labelFontSize": 11, "titleFontSize": 12, "titleFontWeight": 500}
    return {
        "background": background,
        "font": "system-ui, -apple-system, Segoe UI, Roboto, sans-serif",
        "view": {"stroke": line},
        "axis": {**guide, "gridColor": line, "domainColor": line, "tickColor": line, "labelOverlap": True},
        "legend": {**guide, "labelLimit": 240},
        "title": {"color": text, "fontSize": 13, "fontWeight": 600, "anchor": "start"},
        "header": {"labelColor": faint, "titleColor": text, "labelFontSize": 11},
        "range": {"category": CATEGORIES[scheme], "ramp": {"scheme": SEQUENTIAL}, "heatmap": {"scheme": SEQUENTIAL}},
        "text": {"color": text},
        "rule": {"color": faint},
        "mark": {"tooltip": None, "color": CATEGORIES[scheme][0]},
    }
