"""Figures of 01-tokens.md: bytes per token against the size of the vocabulary, and how often each token occurs."""

from __future__ import annotations

import argparse
import ast
import difflib
import inspect
import typing
from pydoc_data.topics import topics

import altair as alt
import numpy as np
from drawing import BLUE, ORANGE, save

from gollm.tokenizers import BPETokenizer

SIZES = [2**power for power in range(8, 13)]


def halves(parts: list[str]) -> tuple[str, str]:
    """Every second part for training, the others for counting."""
    return "\n".join(parts[::2]), "\n".join(parts[1::2])


def corpora() -> dict[str, tuple[str, str]]:
    prose = "\n".join(topics[name] for name in sorted(topics)).split("\n\n")
    code = "\n".join(inspect.getsource(module) for module in (argparse, ast, difflib, inspect, typing)).split("\n\n")
    return {"prose": halves(prose), "source code": halves(code)}


def compression() -> alt.Chart:
    rows = []
    for kind, (train, other) in corpora().items():
        n_bytes = len(other.encode())
        for size in SIZES:
            tokenizer = BPETokenizer.train(train, size)
            rows.append({"text": kind, "size": size, "bytes": n_bytes / len(tokenizer.encode(other))})
    return (
        alt.Chart(alt.Data(values=rows))
        .mark_line(point=True)
        .encode(
            x=alt.X(
                "size:Q", title="vocabulary size", scale=alt.Scale(type="log", base=2), axis=alt.Axis(values=SIZES)
            ),
            y=alt.Y("bytes:Q", title="bytes per token"),
            color=alt.Color("text:N", title=None, scale=alt.Scale(range=[BLUE, ORANGE])),
        )
        .properties(width=420, height=240)
    )


def zipf() -> alt.Chart:
    train, other = corpora()["prose"]
    tokenizer = BPETokenizer.train(train, 4096)
    counts = np.sort(np.bincount(tokenizer.encode(other), minlength=4096))[::-1]
    ranks = np.unique(np.geomspace(1, 4096, 200).astype(int))
    rows = [{"rank": int(rank), "count": int(counts[rank - 1])} for rank in ranks if counts[rank - 1] > 0]
    log = alt.Scale(type="log")
    return (
        alt.Chart(alt.Data(values=rows))
        .mark_circle(color=BLUE)
        .encode(
            x=alt.X("rank:Q", title="rank of the token, by frequency", scale=log, axis=alt.Axis(tickCount=4)),
            y=alt.Y("count:Q", title="times in the text", scale=log, axis=alt.Axis(tickCount=4)),
        )
        .properties(width=420, height=240)
    )


save(compression(), "tokens_compression")
save(zipf(), "tokens_zipf")
