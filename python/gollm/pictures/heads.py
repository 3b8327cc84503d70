"""Pictures of attention: one head in full, all heads of a layer beside each other, and rollout."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gollm.errors import ConfigError
from gollm.kernels import Array
from gollm.language_model import LanguageModel
from gollm.pictures import output, theme
from gollm.pictures.attention import AttentionWeights, attention_weights
from gollm.pictures.output import Spec

__all__ = ["attention_page", "write_attention"]


def write_attention(
    model: LanguageModel,
    prompt: str,
    to: str | Path,
    *,
    layer: int = 0,
    head: int = 0,
    max_tokens: int = 64,
) -> None:
    """Draws a model's attention weights for a prompt to an .html, .png or .svg file; an image has one layer and head.

    Raises ConfigError for a layer or head that the model does not have, PictureError for a file that cannot be written,
    and what attention_weights raises."""
    ending = output.ready_for(to)
    for name, chosen, n in (("layer", layer, model.config.n_layers), ("head", head, model.config.n_heads)):
        if chosen not in range(n):
            raise ConfigError(f"{name} is {chosen}; this model has {name}s 0 to {n - 1}")
    found = attention_weights(model, prompt, max_tokens=max_tokens)
    if ending == ".html":
        output.save(to, attention_page(found, layer=layer, head=head))
    else:
        output.save(to, output.image(attention_image(found, layer, head), ending))


def attention_page(found: AttentionWeights, *, layer: int = 0, head: int = 0) -> str:
    """The page, which shows this layer and head first."""
    L, H = found.weights.shape[:2]
    figures = {"head": head_chart(), "heads": heads_chart(), "rollout": head_chart()}
    return output.html(
        "attention.html",
        title="Attention",
        figures={name: chart.to_dict() for name, chart in figures.items()},
        data={
            "tokens": found.tokens,
            "shape": [L, H, len(found.tokens)],
            "weights": packed(found.weights),
            "rollout": packed(found.rollout()),
        },
        tokens=found.tokens,
        n_layers=L,
        n_heads=H,
        layer=layer,
        head=head,
    )


def packed(weights: Array) -> str:
    """The lower triangles of (..., T, T), float32 in base64: weight (i, j) of each at i (i + 1) / 2 + j."""
    i, j = np.tril_indices(weights.shape[-1])
    return base64.b64encode(np.ascontiguousarray(weights[..., i, j], "<f4").tobytes()).decode()


def attention_image(found: AttentionWeights, layer: int, head: int) -> Spec:
    """A head, and beside it the rollout up to its layer; below them all heads of the layer."""
    alt = output.library("altair")
    size = whole_cells(max(220, min(420, 14 * len(found.tokens))), found)
    sized = {"width": size, "height": size}
    one, rollout = head_chart("head"), head_chart("rollout")
    n_heads = found.weights.shape[1]
    columns = min(n_heads, 6)
    small = heads_chart(columns=columns, size=whole_cells(max(60, min(160, int(2.2 * size / columns) - 14)), found))
    chart = alt.vconcat(
        alt.hconcat(
            one.properties(title=f"layer {layer}, head {head}", **sized),
            rollout.properties(title=f"rollout to layer {layer}", **sized),
        ),
        small.properties(title=f"all heads of layer {layer}"),
    ).resolve_scale(color="independent")
    everything = [row for h in range(n_heads) for row in rows(found.tokens, found.weights[layer, h], head=f"head {h}")]
    return output.with_data(
        chart,
        head=rows(found.tokens, found.weights[layer, head]),
        rollout=rows(found.tokens, found.rollout()[layer]),
        heads=everything,
    )


def whole_cells(size: int, found: AttentionWeights) -> int:
    """About `size` pixels, a whole number for each token: cells without seams."""
    return len(found.tokens) * max(1, round(size / len(found.tokens)))


def rows(tokens: Sequence[str], weights: Array, **more: Any) -> list[dict[str, Any]]:
    """The cells of a (T, T) picture on and below the diagonal. Tokens may repeat, so axes go by position: "3 the"."""
    names = [f"{i} {token}" for i, token in enumerate(tokens)]
    pairs = zip(*np.tril_indices(len(tokens)), strict=True)
    return [{"query": names[i], "key": names[j], "weight": round(float(weights[i, j]), 6), **more} for i, j in pairs]


def head_chart(data: str = "cells") -> Any:
    """A cell for each pair of tokens: the one that attends in rows, the one that is attended to in columns."""
    alt = output.library("altair")
    label = alt.Axis(labelExpr="slice(datum.label, indexof(datum.label, ' ') + 1)", labelOverlap=False, labelLimit=90)
    x = alt.X("key:N", sort=None, title="attended token (key)", axis=label)
    y = alt.Y("query:N", sort=None, title="attending token (query)", axis=label)
    scale = alt.Scale(type="sqrt", scheme=theme.SEQUENTIAL, domain=[0, 1])
    color = alt.Color("weight:Q", scale=scale, legend=alt.Legend(title=None, orient="top", gradientLength=160))
    tooltip = [alt.Tooltip("query:N"), alt.Tooltip("key:N"), alt.Tooltip("weight:Q", format=".5f")]
    return alt.Chart(alt.NamedData(data)).mark_rect().encode(x=x, y=y, color=color, tooltip=tooltip)


def heads_chart(columns: int = 4, size: int = 120) -> Any:
    """All heads of a layer, without labels; each has the colours of the whole picture."""
    alt = output.library("altair")
    x = alt.X("key:N", sort=None, axis=None)
    y = alt.Y("query:N", sort=None, axis=None)
    color = alt.Color("weight:Q", scale=alt.Scale(type="sqrt", scheme=theme.SEQUENTIAL, domain=[0, 1]), legend=None)
    tooltip = [alt.Tooltip(f"{name}:N") for name in ("head", "query", "key")]
    tooltip.append(alt.Tooltip("weight:Q", format=".5f"))
    facet = alt.Facet("head:N", title=None, columns=columns, sort=None)
    return (
        alt.Chart(alt.NamedData("heads"))
        .mark_rect()
        .encode(x=x, y=y, color=color, tooltip=tooltip, facet=facet)
        .properties(width=size, height=size)
    )
