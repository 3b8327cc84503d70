"""Figures of 02-attention.md: the shares of three tokens by hand, and the heads of a model that was trained to repeat.

The model learns to continue periodic sequences of random tokens. Periods differ, so that a fixed distance is no help.
"""

from __future__ import annotations

import altair as alt
import numpy as np
from drawing import ONE_HUE, save

import gollm
from gollm.model import Batch
from gollm.nn import AdamW

V, T, STEPS = 64, 40, 1500
Q = np.array([[1, 0], [1, 1], [0, 2]], float)
K = np.array([[1, 0], [0, 1], [1, 1]], float)


def softmax(scores: np.ndarray) -> np.ndarray:
    """Causal: (T, T) -> shares (T, T)"""
    scores = np.where(np.tri(len(scores), dtype=bool), scores, -np.inf)
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def cells(p: np.ndarray, **more: object) -> list[dict[str, object]]:
    return [{"query": i, "key": j, "share": float(p[i, j]), **more} for i, j in np.ndindex(p.shape) if j <= i]


def by_hand() -> alt.LayerChart:
    base = alt.Chart(alt.Data(values=cells(softmax(Q @ K.T / np.sqrt(2))))).encode(
        x=alt.X("key:O", axis=alt.Axis(labelAngle=0)), y="query:O"
    )
    color = alt.Color("share:Q", scale=ONE_HUE, legend=None)
    ink = alt.condition("datum.share > 0.6", alt.value("white"), alt.value("black"))
    numbers = base.mark_text().encode(text=alt.Text("share:Q", format=".3f"), color=ink)
    return (base.mark_rect().encode(color=color) + numbers).properties(width=180, height=180)


def periodic(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """n sequences with periods of 8 to 20 different tokens, and how long each period is."""
    periods = rng.integers(8, 21, n)
    rows = [np.resize(rng.permutation(V)[:period], T + 1) for period in periods]
    return np.stack(rows).astype(np.int32), periods


def trained() -> gollm.Decoder:
    config = gollm.ModelConfig(
        n_layers=2, n_heads=2, d_model=64, context=T, vocab_size=V, position="rope", norm="rmsnorm", bias=False, d_ff=64
    )
    model = gollm.Decoder(config).initialise(seed=1)
    optimizer = AdamW(model.parameters, weight_decay=0.01)

    def compute_gradients(inputs: np.ndarray, targets: np.ndarray) -> gollm.Tensor:
        model.parameters.zero_grad()
        loss = model.loss(inputs, targets)
        loss.backward()
        return loss

    plan, rng = gollm.Plan(compute_gradients), np.random.default_rng(0)
    for step in range(1, STEPS + 1):
        tokens, periods = periodic(rng, 32)
        targets = np.where(np.arange(1, T + 1) < periods[:, None], -1, tokens[:, 1:]).astype(np.int32)
        loss = plan(np.ascontiguousarray(tokens[:, :-1]), targets)
        optimizer.step(lr=3e-3 * min(1, step / 100))
    print(f"loss of the tokens that can be known: {loss.item():.4f} (guessing: {np.log(V):.2f})")
    return model


def shares(model: gollm.Decoder, tokens: np.ndarray) -> list[dict[str, object]]:
    """What each head of each layer attends to, for one sequence (T,)."""
    H, D = model.config.n_heads, model.config.head_dim
    batch, rotations = Batch.of_sequences(tokens[None]), model.rotations(len(tokens))[: len(tokens)]
    cos, sin = rotations[:, 0::2], rotations[:, 1::2]

    def turned(x: np.ndarray) -> np.ndarray:
        y = np.empty_like(x)
        y[:, 0::2] = x[:, 0::2] * cos - x[:, 1::2] * sin
        y[:, 1::2] = x[:, 1::2] * cos + x[:, 0::2] * sin
        return y

    rows = []
    with gollm.no_grad():
        x = gollm.tensor(model.token_embedding.data[tokens][None])
        for layer, block in enumerate(model.blocks, 1):
            qkv = block.attention.qkv(block.attention_norm(x)).data[0].reshape(len(tokens), 3 * H, D)
            for h in range(H):
                p = softmax(turned(qkv[:, h]) @ turned(qkv[:, H + h]).T / np.sqrt(D))
                rows += cells(p, layer=f"layer {layer}", head=f"head {h + 1}")
            x = block(x, batch, rotations, model.dropout)
    return rows


def heads() -> alt.FacetChart:
    period = 12
    tokens = np.resize(np.random.default_rng(5).permutation(V)[:period], 3 * period).astype(np.int32)
    every = alt.Axis(values=list(range(0, T, period)), labelAngle=0)
    return (
        alt.Chart(alt.Data(values=shares(trained(), tokens)))
        .mark_rect()
        .encode(
            x=alt.X("key:O", axis=every),
            y=alt.Y("query:O", axis=every),
            color=alt.Color("share:Q", scale=alt.Scale(scheme="blues", domain=[0, 1])),
        )
        .properties(width=230, height=230)
        .facet(row=alt.Row("layer:N", title=None), column=alt.Column("head:N", title=None))
    )


save(by_hand(), "attention_by_hand")
save(heads(), "attention_trained")
