"""The picture of a token map: points that are searched and coloured in the page, with each token's neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gollm.language_model import LanguageModel
from gollm.pictures import output, theme
from gollm.pictures.output import Spec
from gollm.pictures.token_map import KINDS, Method, TokenMap, token_map

__all__ = ["map_page", "write_embeddings"]

FEW_TOKENS = 150  # all of which have their labels in the picture
NAMES = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}


def write_embeddings(
    model: LanguageModel,
    to: str | Path,
    *,
    method: Method = "pca",
    max_tokens: int = 2000,
    text: str | None = None,
    seed: int = 0,
) -> None:
    """Draws the map of a model's token embeddings to an .html, .png or .svg file.

    Raises PictureError for a file that cannot be written, and what token_map raises."""
    ending = output.ready_for(to)
    found = token_map(model, method=method, max_tokens=max_tokens, text=text, seed=seed)
    output.save(to, map_page(found) if ending == ".html" else output.image(map_image(found), ending))


def map_page(found: TokenMap) -> str:
    """The page."""
    return output.html(
        "map.html",
        title=f"Token embeddings: {NAMES[found.method]}",
        figures={"map": map_chart(found).to_dict()},
        data={"tokens": map_rows(found), "neighbours": found.neighbours},
        n_tokens=len(found.tokens),
        explained=found.explained,
        counted=found.counts is not None,
        kinds=KINDS,
        few=len(found.tokens) <= FEW_TOKENS,
    )


def map_image(found: TokenMap) -> Spec:
    """Points coloured by kind."""
    chart = map_chart(found, hover=False).properties(width=640, height=520)
    return output.with_data(chart, tokens=map_rows(found))


def map_rows(found: TokenMap) -> list[dict[str, Any]]:
    """A row for each token."""
    counts: Sequence[int | None] = found.counts or [None] * len(found.tokens)
    return [
        {
            "id": i,
            "token": token,
            "kind": kind,
            "x": round(float(x), 5),
            "y": round(float(y), 5),
            **({} if n is None else {"count": n}),
        }
        for i, (token, kind, (x, y), n) in enumerate(zip(found.tokens, found.kinds, found.places, counts, strict=True))
    ]


def map_chart(found: TokenMap, *, hover: bool = True) -> Any:
    """A point for each token; in the page those that are found are large and have their labels."""
    alt = output.library("altair")
    shares = found.explained
    titles = [None if shares is None else f"axis {i + 1} ({shares[i]:.1%} of the variance)" for i in range(2)]
    quiet = shares is None  # the axes of t-SNE and UMAP mean nothing
    axis = alt.Axis(labels=not quiet, ticks=not quiet, grid=not quiet, tickCount=6)
    x = alt.X("x:Q", title=titles[0], axis=axis, scale=alt.Scale(zero=False, padding=18))
    y = alt.Y("y:Q", title=titles[1], axis=axis, scale=alt.Scale(zero=False, padding=18))
    present = [kind for kind in KINDS if kind in found.kinds]
    colors = alt.Scale(domain=present, range=[theme.CATEGORIES["light"][KINDS.index(kind)] for kind in present])
    color = alt.Color("kind:N", scale=colors, legend=alt.Legend(title=None, orient="top", columns=4, symbolOpacity=1))
    tooltip = [alt.Tooltip("token:N"), alt.Tooltip("id:Q"), alt.Tooltip("kind:N")]
    tooltip += [] if found.counts is None else [alt.Tooltip("count:Q", format=",")]
    base = alt.Chart(alt.NamedData("tokens")).encode(x=x, y=y)
    if not hover:
        points = base.mark_circle(size=24, opacity=0.7).encode(color=color)
        few = len(found.tokens) <= FEW_TOKENS
        return alt.layer(points, base.mark_text(dy=-8, fontSize=9).encode(text="token:N")) if few else points
    shift = "event.shiftKey"
    zoom = alt.selection_interval(
        bind="scales",
        zoom=f"wheel![{shift}]",
        translate=f"[pointerdown[{shift}], window:pointerup] > window:pointermove!",
    )
    chosen = "datum.chosen || datum.found"
    points = base.mark_circle().encode(
        color=color,
        tooltip=tooltip,
        opacity=alt.condition("datum.faint", alt.value(0.12), alt.value(0.75)),
        size=alt.condition(chosen, alt.value(110), alt.value(28)),
    )
    label = "datum.named ? datum.token : ''"
    words = base.transform_calculate(label=label).mark_text(dy=-10, fontSize=12, fontWeight="bold")
    return alt.layer(points.add_params(zoom), words.encode(text="label:N"))
