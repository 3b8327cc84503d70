"""Pictures of a model's inside: the logit lens, surprisal, activation norms, weights, and recorded gradients."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gollm.language_model import LanguageModel
from gollm.pictures import output, theme
from gollm.pictures.output import Spec
from gollm.pictures.parameter_sizes import Histogram, family, recorded_sizes, weight_histograms
from gollm.pictures.prompt_layers import PromptLayers, prompt_layers

__all__ = ["inspection_page", "write_inspection"]


def write_inspection(
    model: LanguageModel, prompt: str, to: str | Path, *, run: str | Path | None = None, max_tokens: int = 32
) -> None:
    """Draws what a model makes of a prompt, and its weights, to an .html, .png or .svg file; an image has the prompt's
    part. `run` is the run's folder whose recorded gradients and updates are shown.

    Raises PictureError for a file that cannot be written, and what prompt_layers raises."""
    ending = output.ready_for(to)
    found = prompt_layers(model, prompt, max_tokens=max_tokens)
    if ending == ".html":
        recorded = [] if run is None else recorded_sizes(run)
        output.save(to, inspection_page(found, weight_histograms(model), recorded))
    else:
        output.save(to, output.image(inspection_image(found), ending))


def inspection_page(
    found: PromptLayers, histograms: Mapping[str, Histogram], recorded: list[dict[str, Any]] | None = None
) -> str:
    """The page; without recorded gradients it has no charts of them."""
    charts = {
        "lens": lens_chart(),
        "surprisal": surprisal_chart(),
        "norms": norms_chart(found),
        "weights": weights_chart(),
    }
    if recorded:
        charts |= {"ratios": recorded_chart("ratio", "update / weight"), "gradients": recorded_chart("gradient", "")}
    rows = [{**row, **dict(zip(("family", "block"), family(row["parameter"]), strict=True))} for row in recorded or []]
    return output.html(
        "inspection.html",
        title="Inside the model",
        figures={name: chart.to_dict() for name, chart in charts.items()},
        data={
            "lens": lens_rows(found),
            "surprisal": surprisal_rows(found),
            "norms": norm_rows(found),
            "histograms": {name: dataclasses.asdict(one) for name, one in histograms.items()},
            "recorded": rows,
        },
        tokens=[
            {"id": token, "text": text, "bits": bits}
            for token, text, bits in zip(found.ids, found.tokens, found.surprisal, strict=True)
        ],
        parameters=[(name, name) for name in histograms],
        families=[(name, name) for name in dict.fromkeys(row["family"] for row in rows)],
    )


def inspection_image(found: PromptLayers) -> Spec:
    """The logit lens, surprisal and norms, one below the other."""
    alt = output.library("altair")
    width = 46 * len(found.tokens)
    chart = alt.vconcat(
        lens_chart().properties(width=width, height=22 * len(found.guesses), title="logit lens"),
        surprisal_chart().properties(width=width, height=120, title="surprisal"),
        norms_chart(found).properties(width=width, height=140, title="length of the residual stream"),
    ).resolve_scale(color="independent")
    rows = {"lens": lens_rows(found), "surprisal": surprisal_rows(found), "norms": norm_rows(found)}
    return output.with_data(chart, **rows)


def places(found: PromptLayers) -> list[str]:
    """Tokens may repeat, so axes go by position: "3 the"."""
    return [f"{i} {token}" for i, token in enumerate(found.tokens)]


def lens_rows(found: PromptLayers) -> list[dict[str, Any]]:
    """A row for each layer and token: the best guess, its probability, and the next best in words."""
    return [
        {
            "layer": "embedding" if layer == 0 else f"block {layer - 1}",
            "place": place,
            "guess": guesses[0].token,
            "probability": round(guesses[0].probability, 5),
            "others": "  ".join(f"{one.token} {one.probability:.1%}" for one in guesses),
        }
        for layer, row in enumerate(found.guesses)
        for place, guesses in zip(places(found), row, strict=True)
    ]


def surprisal_rows(found: PromptLayers) -> list[dict[str, Any]]:
    """A row for each token but the first."""
    return [
        {"place": place, "bits": round(bits, 4), "probability": round(2**-bits, 6)}
        for place, bits in zip(places(found), found.surprisal, strict=True)
        if bits is not None
    ]


def norm_rows(found: PromptLayers) -> list[dict[str, Any]]:
    """Mean, least and largest over the tokens, for each layer."""
    return [
        {
            "layer": layer,
            "after": "embedding" if layer == 0 else f"block {layer - 1}",
            "mean": float(f"{row.mean():.5g}"),
            "least": float(f"{row.min():.5g}"),
            "largest": float(f"{row.max():.5g}"),
        }
        for layer, row in enumerate(found.norms)
    ]


def _token_axis() -> Any:
    alt = output.library("altair")
    return alt.Axis(
        labelExpr="slice(datum.label, indexof(datum.label, ' ') + 1)", labelOverlap=False, labelLimit=80, labelAngle=-40
    )


def lens_chart() -> Any:
    """A cell for each layer and token: the best guess of the next token, coloured by its probability."""
    alt = output.library("altair")
    x = alt.X("place:N", sort=None, title="token", axis=_token_axis())
    y = alt.Y("layer:N", sort=None, title=None)
    tooltip = [
        alt.Tooltip("layer:N", title="after"),
        alt.Tooltip("place:N", title="token"),
        alt.Tooltip("others:N", title="next"),
    ]
    base = alt.Chart(alt.NamedData("lens")).encode(x=x, y=y, tooltip=tooltip)
    legend = alt.Legend(title="probability of the best guess", orient="top", gradientLength=160)
    color = alt.Color("probability:Q", scale=alt.Scale(scheme=theme.SEQUENTIAL, domain=[0, 1]), legend=legend)
    dark_text = alt.condition("datum.probability > 0.6", alt.value("#000000"), alt.value("#ffffff"))
    text = base.mark_text(fontSize=11, limit=44).encode(text="guess:N", color=dark_text)
    return alt.layer(base.mark_rect().encode(color=color), text)


def surprisal_chart() -> Any:
    """A bar for each token."""
    alt = output.library("altair")
    x = alt.X("place:N", sort=None, title=None, axis=_token_axis())
    tooltip = [
        alt.Tooltip("place:N", title="token"),
        alt.Tooltip("bits:Q", format=".2f"),
        alt.Tooltip("probability:Q", format=".3~g"),
    ]
    y = alt.Y("bits:Q", title="bits")
    return alt.Chart(alt.NamedData("surprisal")).mark_bar().encode(x=x, y=y, tooltip=tooltip)


def norms_chart(found: PromptLayers) -> Any:
    """The mean over the tokens as a line, from the least to the largest as a band; a few tokens may be far longer
    than the others, so the scale is logarithmic."""
    alt = output.library("altair")
    axis = alt.Axis(labelAngle=0, labelOverlap="greedy", labelSeparation=6)
    x = alt.X("layer:O", title="blocks", axis=axis, scale=alt.Scale(padding=0.1))
    scale = alt.Scale(type="log" if found.norms.min() > 0 else "symlog")
    base = alt.Chart(alt.NamedData("norms")).encode(x=x)
    tooltip = [alt.Tooltip("after:N"), *(alt.Tooltip(f"{one}:Q", format=".3f") for one in ("least", "mean", "largest"))]
    y = alt.Y("mean:Q", title="length", scale=scale, axis=alt.Axis(format=",.3~r", tickCount=5))
    return alt.layer(
        base.mark_area(opacity=0.25).encode(y=alt.Y("least:Q", title="length", scale=scale), y2="largest:Q"),
        base.mark_line(point=True).encode(y=y, tooltip=tooltip),
    )


def weights_chart() -> Any:
    """The histogram of a parameter."""
    alt = output.library("altair")
    return (
        alt.Chart(alt.NamedData("histogram"))
        .mark_bar(binSpacing=0)
        .encode(
            x=alt.X("low:Q", bin="binned", title="value", axis=alt.Axis(format=".2~g", tickCount=6)),
            x2="high:Q",
            y=alt.Y("count:Q", title="weights", axis=alt.Axis(labelExpr=theme.SHORT_NUMBER)),
            tooltip=[
                alt.Tooltip("low:Q", format=".4f"),
                alt.Tooltip("high:Q", format=".4f"),
                alt.Tooltip("count:Q", format=","),
            ],
        )
    )


def recorded_chart(field: str, title: str) -> Any:
    """A recorded size of a kind of parameter over the steps, a line for each block."""
    alt = output.library("altair")
    tooltip = [alt.Tooltip("parameter:N"), alt.Tooltip("step:Q", format=","), alt.Tooltip(f"{field}:Q", format=".3~e")]
    color = alt.Color("block:O", scale=alt.Scale(scheme=theme.SEQUENTIAL), legend=alt.Legend(orient="top"))
    y = alt.Y(f"{field}:Q", scale=alt.Scale(type="log"), title=title or None, axis=alt.Axis(format=".0~e", tickCount=5))
    x = alt.X("step:Q", axis=alt.Axis(labelExpr=theme.SHORT_NUMBER, tickCount=5))
    return alt.Chart(alt.NamedData("recorded")).mark_line(point=True).encode(x=x, y=y, color=color, tooltip=tooltip)
