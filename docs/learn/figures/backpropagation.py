"""Figure of 03-backpropagation.md: how far a central difference is from the gradient, for steps of all sizes."""

from __future__ import annotations

import altair as alt
import numpy as np
from drawing import BLUE, ORANGE, save

import gollm

NAME = "blocks.0.attention.qkv.weight"


def model_of(dtype: type) -> gollm.Decoder:
    config = gollm.ModelConfig(n_layers=2, n_heads=2, d_model=16, context=16, vocab_size=32)
    model = gollm.Decoder(config, np.dtype(dtype)).initialise(seed=1)
    model.parameters[NAME].data[...] *= 20  # attention that is not flat
    return model


def differences() -> alt.Chart:
    tokens = np.random.default_rng(0).integers(0, 32, (2, 4, 16)).astype(np.int32)
    exact = model_of(np.float64)
    exact.loss(*tokens).backward()
    gradient = exact.parameters[NAME].grad
    index = int(np.abs(gradient).argmax())
    rows = []
    for dtype in (np.float64, np.float32):
        model = model_of(dtype)
        values = model.parameters[NAME].data.reshape(-1)
        before = values[index]
        for h in np.geomspace(1, 1e-11 if dtype is np.float64 else 1e-7, 45):
            losses = []
            for values[index] in (before + dtype(h), before - dtype(h)):
                losses.append(model.loss(*tokens).item())
            values[index] = before
            estimate = (losses[0] - losses[1]) / (2 * h)
            error = abs(estimate / float(gradient.flat[index]) - 1)
            rows.append({"h": float(h), "error": max(error, 1e-12), "dtype": dtype.__name__})
    log = {"type": "log"}
    return (
        alt.Chart(alt.Data(values=rows))
        .mark_line(point=alt.OverlayMarkDef(size=20))
        .encode(
            x=alt.X("h:Q", title="step h", scale=alt.Scale(**log), axis=alt.Axis(format=".0e", tickCount=6)),
            y=alt.Y(
                "error:Q", title="relative error", scale=alt.Scale(**log), axis=alt.Axis(format=".0e", tickCount=6)
            ),
            color=alt.Color("dtype:N", title=None, scale=alt.Scale(range=[ORANGE, BLUE])),
        )
        .properties(width=420, height=260)
    )


save(differences(), "backpropagation_differences")
