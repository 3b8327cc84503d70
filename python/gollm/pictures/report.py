"""The training report: curves of one run or several, drawn into a page or an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gollm.pictures import output, theme
from gollm.pictures.output import Spec
from gollm.pictures.run_curves import RunCurves, all_curves, config_in_text, different_options

__all__ = ["report_page", "write_report"]

# A small chart each: a point's field, its title, its number format. A run without the values has no chart of them.
MEASURES = {
    "lr": ("learning rate", ".2e"),
    "grad_norm": ("gradient norm (before clipping)", ".3~g"),
    "tokens_per_second": ("tokens per second", ",.0f"),
    "percent_of_peak": ("% of peak FLOP/s", ".1f"),
    "memory_mb": ("memory (MB)", ",.0f"),
}
AXES = {"step": "step", "tokens": "tokens", "minutes": "minutes of training"}


def write_report(paths: Sequence[str | Path], to: str | Path) -> None:
    """Writes the report of runs to an .html, .png or .svg file.

    Raises TrainingError for a folder without a run or a step, PictureError for a file that cannot be written."""
    ending = output.ready_for(to)
    runs = all_curves(paths)
    output.save(to, report_page(runs) if ending == ".html" else output.image(report_image(runs), ending))


def report_page(runs: Sequence[RunCurves], *, live: bool = False, scripts: bool = True) -> str:
    """The page. A live one asks for its news, a page without `scripts`, while it is open."""
    data = _data(runs)
    figures = {"loss": loss_chart(), **{name: measure_chart(name) for name in _measures(data["points"])}}
    return output.html(
        "report.html",
        title=runs[0].name if len(runs) == 1 else f"{len(runs)} runs",
        figures={name: chart.to_dict() for name, chart in figures.items()},
        data=data,
        scripts=scripts,
        live=live,
        runs=runs,
        axes=AXES,
        summary_names=dict.fromkeys(name for run in runs for name in run.summary),
        measures={name: MEASURES[name][0] for name in figures if name != "loss"},
        differences=different_options(runs),
        config_in_text=config_in_text,
    )


def report_image(runs: Sequence[RunCurves]) -> Spec:
    """All charts in one, by steps."""
    alt = output.library("altair")
    data = {name: [{**row, "x": row["step"]} for row in rows] for name, rows in _data(runs).items()}
    small = [
        measure_chart(name, hover=False).properties(width=270, height=130, title=MEASURES[name][0])
        for name in _measures(data["points"])
    ]
    chart = alt.vconcat(loss_chart(hover=False).properties(width=610, height=260), alt.concat(*small, columns=2))
    return output.with_data(chart, **data)


def loss_chart(*, hover: bool = True) -> Any:
    """Training losses are faint, with the smoothed ones on top; validation losses are dots."""
    alt = output.library("altair")
    legend = alt.Legend(title=None, orient="top", columns=1, symbolOpacity=1, symbolType="stroke", symbolStrokeWidth=3)
    color = alt.Color("run:N", legend=legend, sort=None)
    x = alt.X("x:Q", title="step", axis=alt.Axis(labelExpr=theme.SHORT_NUMBER))
    y = alt.Y("loss:Q", title="loss (nats per token)", scale=alt.Scale(zero=False))
    points, validation = alt.NamedData("points"), alt.NamedData("validation")
    tooltip = [
        alt.Tooltip("run:N"),
        alt.Tooltip("step:Q", format=","),
        alt.Tooltip("tokens:Q", format=","),
        alt.Tooltip("loss:Q", format=".4f"),
    ]
    raw = alt.Chart(points).mark_line(opacity=0.3, strokeWidth=1).encode(x=x, y=y, color=color)
    smooth = alt.Chart(points).mark_line(strokeWidth=2).encode(x=x, y=alt.Y("smoothed:Q"), color=color)
    line = alt.Chart(validation).mark_line(strokeDash=[4, 3], strokeWidth=1.5).encode(x=x, y=y, color=color)
    marks = alt.Chart(validation).mark_point(filled=True, size=45).encode(x=x, y=y, color=color, tooltip=tooltip)
    near = [_nearest(points, x, y, [*tooltip, alt.Tooltip("smoothed:Q", format=".4f")])] if hover else []
    return alt.layer(raw, smooth, *near, line, marks).properties(width="container", height=320)


def measure_chart(name: str, *, hover: bool = True) -> Any:
    """One measure over the steps."""
    alt = output.library("altair")
    title, form = MEASURES[name]
    points = alt.NamedData("points")
    x = alt.X("x:Q", title="step", axis=alt.Axis(labelExpr=theme.SHORT_NUMBER, tickCount=5))
    exponent = "~e" if name == "lr" else "~s"
    y = alt.Y(f"{name}:Q", title=None, axis=alt.Axis(format=exponent, tickCount=5))
    color = alt.Color("run:N", legend=None, sort=None)
    line = alt.Chart(points).mark_line(strokeWidth=1.5).encode(x=x, y=y, color=color)
    measured = alt.Tooltip(f"{name}:Q", title=title, format=form)
    near = _nearest(points, x, y, [alt.Tooltip("run:N"), alt.Tooltip("step:Q", format=","), measured])
    return alt.layer(line, *([near] if hover else [])).properties(width="container", height=160)


def _nearest(points: Any, x: Any, y: Any, tooltip: list[Any]) -> Any:
    """Dots that show where the pointer is nearest."""
    alt = output.library("altair")
    hover = alt.selection_point(nearest=True, on="pointerover", fields=["step"], empty=False)
    shown = alt.condition(hover, alt.value(1), alt.value(0))
    return (
        alt.Chart(points)
        .mark_point(filled=True, size=40)
        .encode(x=x, y=y, color=alt.Color("run:N", sort=None), opacity=shown, tooltip=tooltip)
        .add_params(hover)
    )


def _data(runs: Sequence[RunCurves]) -> dict[str, list[dict[str, Any]]]:
    """The rows of the charts: finite numbers, six digits of each."""
    return {
        kind: [
            {"run": run.name, **{k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in point.items()}}
            for run in runs
            for point in getattr(run, kind)
        ]
        for kind in ("points", "validation")
    }


def _measures(points: list[dict[str, Any]]) -> list[str]:
    """Those that some run has."""
    return [name for name in MEASURES if any(point[name] is not None for point in points)]
