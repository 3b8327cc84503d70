"""Figures of 06-flash-attention.md: which blocks of scores are computed, and what memory attention takes."""

from __future__ import annotations

import altair as alt
import numpy as np
from drawing import BLUE, GREY, ORANGE, save

from gollm.kernels import cpu

T, BLOCK = 1024, 128  # of the picture; the kernel's block has 256 keys
LENGTHS = [2**power for power in range(6, 16)]
ALL_LENGTHS = alt.Axis(values=LENGTHS, labelFlush=False, labelOverlap=False)


def blocks() -> alt.LayerChart:
    """The causal mask over blocks of queries and keys, with the order in which a row of blocks is folded."""
    n = T // BLOCK
    rows = [
        {
            "queries": i * BLOCK,
            "keys": j * BLOCK,
            "block": "skipped" if j > i else "masked in part" if j == i else "computed",
            "order": "" if j > i else str(j + 1),
        }
        for i in range(n)
        for j in range(n)
    ]
    kinds = alt.Scale(domain=["computed", "masked in part", "skipped"], range=[BLUE, ORANGE, "#e8e8e8"])
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X("keys:O", title="first key of the block"), y=alt.Y("queries:O", title="first query of the block")
    )
    return base.mark_rect(stroke="white").encode(color=alt.Color("block:N", scale=kinds, title=None)) + base.mark_text(
        color="white"
    ).encode(text="order:N")


def kernel_bytes(T: int, H: int = 12, D: int = 64) -> int:
    """What attention_forward needs beside its input: y, lse and its workspace. Nothing is computed."""
    measure = cpu.Measure()
    qkv = np.zeros((1, 1, 3 * H * D), np.float32)
    measure.begin()
    try:
        qkv = cpu.empty((1, T, 3 * H * D), np.dtype(np.float32))
        y, lse = (cpu.empty(shape, np.dtype(np.float32)) for shape in ((1, T, H * D), (1, H, T)))
        cpu.attention_forward(y=y, lse=lse, qkv=qkv, H=H, G=H, D=D, scale=D**-0.5, window=0)
    finally:
        measure.end()
    return y.nbytes + lse.nbytes + int(measure.workspace_bytes)


def memory() -> alt.Chart:
    rows = []
    for length in LENGTHS:
        rows.append({"T": length, "MB": 4 * 12 * length**2 / 2**20, "what": "the scores of all heads"})
        rows.append({"T": length, "MB": kernel_bytes(length) / 2**20, "what": "gollm's kernel"})
    return (
        alt.Chart(alt.Data(values=rows))
        .mark_line(point=True)
        .encode(
            x=alt.X("T:Q", scale=alt.Scale(type="log", base=2), title="tokens T", axis=ALL_LENGTHS),
            y=alt.Y(
                "MB:Q",
                scale=alt.Scale(type="log"),
                title="MB for one sequence, 12 heads of 64",
                axis=alt.Axis(values=[10**k for k in range(-1, 6)]),
            ),
            color=alt.Color(
                "what:N",
                scale=alt.Scale(domain=["the scores of all heads", "gollm's kernel"], range=[ORANGE, BLUE]),
                title=None,
            ),
        )
        .properties(width=420, height=280)
    )


def softmax_in_blocks() -> alt.LayerChart:
    """The running maximum and the running sum of one row of scores."""
    scores = np.random.default_rng(12).normal(0, 1, 64)
    m, l, rows = -np.inf, 0.0, []
    for j, s in enumerate(scores):
        new = max(m, s)
        l, m = l * np.exp(m - new) + np.exp(s - new), new
        rows.append({"key": j, "score": float(s), "m": float(m), "log-sum-exp so far": float(m + np.log(l))})
    base = alt.Chart(alt.Data(values=rows)).encode(x=alt.X("key:Q", title="keys seen"))
    points = base.mark_point(color=GREY, filled=True, opacity=1).encode(y=alt.Y("score:Q", title="score"))
    largest = base.mark_line(interpolate="step-after", color=ORANGE).encode(y="m:Q")
    lse = base.mark_line(interpolate="step-after", color=BLUE).encode(y="log-sum-exp so far:Q")
    names = alt.Chart(
        alt.Data(
            values=[
                {"key": 64, "y": rows[-1]["m"], "name": "largest so far, m", "c": ORANGE},
                {"key": 64, "y": rows[-1]["log-sum-exp so far"], "name": "m + log l", "c": BLUE},
            ]
        )
    ).mark_text(align="left", dx=4)
    labels = names.encode(x="key:Q", y="y:Q", text="name:N", color=alt.Color("c:N", scale=None))
    return (points + largest + lse + labels).properties(width=420, height=220)


if __name__ == "__main__":
    save(blocks().properties(width=300, height=300), "flash_attention_blocks")
    save(memory(), "flash_attention_memory")
    save(softmax_in_blocks(), "flash_attention_softmax")
