"""Figures of 08-quantisation.md: the levels that a group of weights is rounded to, the error by the group's size, and
what each matrix of a model costs in 4 bits. Needs the model of stories.py."""

from __future__ import annotations

import altair as alt
import numpy as np
from drawing import BLUE, GREEN, GREY, ORANGE, save
from stories import STORIES

import gollm
from gollm.data import Texts
from gollm.evaluation import evaluate_model
from gollm.quantisation import DTYPES, dequantise, quantise

NAME = "blocks.0.mlp.up.weight"


def levels() -> alt.Chart:
    """One group of 32 weights of a trained model: as it is, in 8 bits and in 4."""
    w = gollm.load(STORIES).decoder.parameters[NAME].data[:1, :32]
    rows = []
    for name, values in (
        ("float32", w),
        ("int8", dequantise(quantise(w.copy(), DTYPES["int8"]))),
        ("int4", dequantise(quantise(w.copy(), DTYPES["int4"]))),
    ):
        rows += [{"weight": float(value), "stored as": name} for value in values[0]]
    return (
        alt.Chart(alt.Data(values=rows))
        .mark_tick(thickness=1.5, color=BLUE, height=26)
        .encode(
            x=alt.X("weight:Q", title="32 neighbouring weights of a row"),
            y=alt.Y("stored as:N", sort=["float32", "int8", "int4"], title=None),
        )
        .properties(width=480, height=110)
    )


def rounded(w: np.ndarray, group: int, largest: int) -> np.ndarray:
    """w (n,) with one scale for each group, the largest number of which becomes the code `largest`."""
    x = w.reshape(-1, group)
    scale = np.abs(x).max(1, keepdims=True) / largest
    return (np.rint(x / scale) * scale).reshape(-1)


def error_by_group() -> alt.Chart:
    rng = np.random.default_rng(0)
    normal = rng.normal(size=1 << 16)
    outliers = np.where(rng.random(normal.shape) < 1 / 500, 8 * normal, normal)
    rows = []
    for bits, largest in ((8, 127), (4, 7)):
        for name, w in (("normal", normal), ("one in 500 is 8 times as large", outliers)):
            for group in (8, 16, 32, 64, 128, 256, 512, 1024, 4096):
                error = np.sqrt(np.mean((rounded(w, group, largest) - w) ** 2) / np.mean(w**2))
                rows.append({"group": group, "error": float(error), "weights": name, "bits": f"{bits} bits"})
    colours = alt.Scale(domain=["normal", "one in 500 is 8 times as large"], range=[BLUE, ORANGE])
    return (
        alt.Chart(alt.Data(values=rows))
        .mark_line(point=True)
        .encode(
            x=alt.X("group:Q", scale=alt.Scale(type="log", base=2), title="weights that share a scale"),
            y=alt.Y("error:Q", scale=alt.Scale(type="log"), title="error / size of the weights, RMS"),
            color=alt.Color("weights:N", scale=colours, title=None),
            strokeDash=alt.StrokeDash("bits:N", title=None, legend=alt.Legend(symbolType="stroke")),
        )
        .properties(width=380, height=260)
    )


def cost_by_matrix() -> alt.Chart:
    """The divergence from the model in float32 with one matrix in 4 bits."""
    full = gollm.load(STORIES)
    stories = Texts([full.generate("Once upon a time", seed=seed, max_new_tokens=200) for seed in range(20)])
    rows = []
    for name, parameter in full.decoder.parameters.items():
        if len(parameter.shape) != 2:
            continue
        small = gollm.load(STORIES)
        weight = small.decoder.parameters[name].data
        weight[:] = dequantise(quantise(weight, DTYPES["int4"]))
        against = evaluate_model(small, stories, against=full, context=128).against
        assert against is not None
        kind = "embedding and head" if name == "token_embedding" else "attention" if "attention" in name else "MLP"
        label = name.removeprefix("blocks.").removesuffix(".weight").replace("_", " ")
        rows.append({"matrix": label, "kl": float(against.mean_kl.value), "kind": kind})
    colours = alt.Scale(domain=["embedding and head", "attention", "MLP"], range=[GREY, BLUE, GREEN])
    return (
        alt.Chart(alt.Data(values=rows))
        .mark_bar()
        .encode(
            x=alt.X("kl:Q", title="mean KL, nats, with this matrix in 4 bits"),
            y=alt.Y("matrix:N", sort=None, title=None),
            color=alt.Color("kind:N", scale=colours, title=None),
        )
        .properties(width=380, height=380)
    )


if __name__ == "__main__":
    save(error_by_group(), "quantisation_groups")
    if STORIES.exists():
        save(levels(), "quantisation_levels")
        save(cost_by_matrix(), "quantisation_matrices")
