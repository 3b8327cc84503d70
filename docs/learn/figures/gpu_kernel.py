"""Figures of 10-reading-a-gpu-kernel.md: the rounds of a sum over a warp, the sectors that a load touches, and the
banks of shared memory that eight rows of a tile lie in, with and without the order of cuda/chunks.h."""

from __future__ import annotations

import altair as alt
import numpy as np
from drawing import BLUE, ORANGE, save

LANES = 32


def butterfly() -> alt.LayerChart:
    """Which lane gives its value to which, round by round, for the first 16 lanes."""
    lanes, lines, values = 16, [], []
    holds = np.arange(1, lanes + 1)  # lane i begins with the number i + 1
    for round_, mask in enumerate((0, 8, 4, 2, 1)):
        if mask:
            for lane in range(lanes):
                lines.append({"from": lane ^ mask, "to": lane, "y": round_ - 1, "y2": round_})
            holds = holds + holds[np.arange(lanes) ^ mask]
        values += [{"lane": lane, "round": round_, "value": int(holds[lane])} for lane in range(lanes)]
    rounds = alt.Axis(values=list(range(5)), labelExpr="['start', '^ 8', '^ 4', '^ 2', '^ 1'][datum.value]", grid=False)
    y = alt.Scale(reverse=True, domain=[-0.3, 4.3])
    x = alt.Scale(domain=[-0.6, lanes - 0.4])
    rules = (
        alt.Chart(alt.Data(values=lines))
        .mark_rule(color="#c8c8c8")
        .encode(
            x=alt.X("from:Q", scale=x, title="lane", axis=alt.Axis(values=list(range(lanes)), grid=False)),
            x2="to:Q",
            y=alt.Y("y:Q", scale=y, axis=rounds, title="round"),
            y2="y2:Q",
        )
    )
    base = alt.Chart(alt.Data(values=values)).encode(x=alt.X("lane:Q", scale=x), y=alt.Y("round:Q", scale=y))
    circles = base.mark_circle(size=520, color=BLUE, opacity=1)
    return (rules + circles + base.mark_text(color="white", fontSize=11).encode(text="value:Q")).properties(
        width=560, height=250
    )


def banks() -> alt.HConcatChart:
    """Where 16-byte chunk 2 of eight rows lies: the 32 banks of shared memory, four to a chunk."""
    charts = []
    for title, swizzled in (("chunk c at place c", False), ("chunk c at place c ^ (row % 8)", True)):
        rows = [
            {"row": row, "place": place, "read": (place ^ row if swizzled else place) == 2}
            for row in range(8)
            for place in range(8)
        ]
        charts.append(
            alt.Chart(alt.Data(values=rows), title=title)
            .mark_rect(stroke="white")
            .encode(
                x=alt.X("place:O", title="place in the row (4 banks each)", axis=alt.Axis(labelAngle=0)),
                y=alt.Y("row:O"),
                color=alt.Color(
                    "read:N", scale=alt.Scale(domain=[False, True], range=["#e8e8e8", ORANGE]), legend=None
                ),
            )
            .properties(width=200, height=200)
        )
    return alt.hconcat(*charts)


def sectors() -> alt.Chart:
    """Sectors of 32 bytes that a warp's load of 32 floats touches, by the distance between neighbouring lanes."""
    rows = []
    for stride in (1, 2, 3, 4, 6, 8, 16, 32):
        touched = len(np.unique(4 * stride * np.arange(LANES) // 32))
        rows.append({"stride": stride, "bytes": 32 * touched})
    return (
        alt.Chart(alt.Data(values=rows))
        .mark_bar(color=BLUE)
        .encode(
            x=alt.X("stride:O", title="floats from one lane to the next", axis=alt.Axis(labelAngle=0)),
            y=alt.Y("bytes:Q", title="bytes moved for 128 wanted"),
        )
        .properties(width=320, height=180)
    )


if __name__ == "__main__":
    save(butterfly(), "gpu_kernel_sum")
    save(banks(), "gpu_kernel_banks")
    save(sectors(), "gpu_kernel_sectors")
