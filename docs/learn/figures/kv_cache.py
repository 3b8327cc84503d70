"""Figures of 07-generation-and-the-kv-cache.md: rows computed with and without a cache, its size, and what sampling
does to a distribution. The last one needs the model of stories.py."""

from __future__ import annotations

import altair as alt
import numpy as np
from drawing import BLUE, GREEN, ORANGE, save
from stories import STORIES

import gollm
from gollm.model import preset

PROMPT = "Once upon a time there was a boy. He"


def rows_computed() -> alt.Chart:
    """Of a prompt of 64 tokens, continued by up to 448."""
    rows = []
    for n in range(0, 449, 8):
        rows.append({"new tokens": n, "rows": sum(64 + i for i in range(n)), "how": "without a cache"})
        rows.append({"new tokens": n, "rows": 64 + n, "how": "with a cache"})
    colours = alt.Scale(domain=["without a cache", "with a cache"], range=[ORANGE, BLUE])
    return (
        alt.Chart(alt.Data(values=rows))
        .mark_line()
        .encode(
            x=alt.X("new tokens:Q"),
            y=alt.Y("rows:Q", title="rows that went through the model"),
            color=alt.Color("how:N", scale=colours, title=None),
        )
        .properties(width=380, height=240)
    )


def cache_size() -> alt.Chart:
    shapes = {"GPT-2 124M": "d12", "SmolLM 135M": "smollm-135m", "LLaMA 3 8B": "llama-3-8b"}
    rows = []
    for name, known in shapes.items():
        config = preset(known)
        a_token = 2 * config.n_layers * config.n_kv_heads * config.head_dim * 2
        rows += [{"tokens": t, "MB": a_token * t / 2**20, "model": name} for t in (64, 256, 1024, 4096, 16384, 65536)]
    colours = alt.Scale(domain=list(shapes), range=[ORANGE, GREEN, BLUE])
    return (
        alt.Chart(alt.Data(values=rows))
        .mark_line(point=True)
        .encode(
            x=alt.X("tokens:Q", scale=alt.Scale(type="log", base=2), axis=alt.Axis(tickCount=6, labelFlush=False)),
            y=alt.Y(
                "MB:Q",
                scale=alt.Scale(type="log"),
                title="MB in 16 bits",
                axis=alt.Axis(values=[1, 10, 100, 1000, 10000]),
            ),
            color=alt.Color("model:N", scale=colours, title=None),
        )
        .properties(width=380, height=260)
    )


def next_token() -> alt.Chart:
    model = gollm.load(STORIES)
    assert model.tokenizer is not None
    ids = model.tokenizer.encode(PROMPT, add_special_tokens=True)
    logits = model.logits(ids)[0, -1].astype(np.float64)
    likeliest = np.argsort(-logits, kind="stable")[:12]
    rows = []
    for temperature in (0.5, 1.0, 1.5):
        p = np.exp((logits - logits.max()) / temperature)
        p /= p.sum()
        for rank, token in enumerate(likeliest):
            piece = model.tokenizer.decode([token]) or "␣"
            values = {"token": piece, "p": float(p[token]), "rank": rank}
            rows.append({**values, "temperature": f"temperature {temperature}"})
    return (
        alt.Chart(alt.Data(values=rows))
        .mark_bar(color=BLUE)
        .encode(
            x=alt.X("p:Q", title="probability"),
            y=alt.Y("token:N", sort=alt.EncodingSortField("rank", order="ascending"), title=None),
            column=alt.Column("temperature:N", title=None),
        )
        .properties(width=150, height=210)
    )


if __name__ == "__main__":
    save(rows_computed(), "kv_cache_rows")
    save(cache_size(), "kv_cache_size")
    if STORIES.exists():
        save(next_token(), "kv_cache_temperature")
