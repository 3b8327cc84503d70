"""Figure of 05-matmul.md: the seven steps beside the peak, for matrices that fit into the caches and larger ones.

It compiles docs/learn/matmul and measures, so nothing else should run meanwhile. Without a folder as its argument it
also prints the table of the page.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import altair as alt
from drawing import BLUE, ORANGE, save

SOURCES = Path(__file__).resolve().parent.parent / "matmul"
IS_TRIAL = len(sys.argv) > 1  # CI only wants to know whether the script runs
SIZES = (192, 384) if IS_TRIAL else (1152, 2304)


def build(step: int, folder: str) -> str:
    program = f"{folder}/step{step}"
    sources = [str(SOURCES / f"step{step}.c"), str(SOURCES / "bench.c")]
    compiler = os.environ.get("CC", "cc")
    subprocess.run([compiler, "-O3", "-march=native", "-fopenmp", *sources, "-lm", "-o", program], check=True)
    return program


def measured() -> list[dict[str, object]]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        programs = [build(step, folder) for step in range(1, 8)]
        for n in SIZES:
            for step, program in enumerate(programs, 1):
                line = subprocess.run([program, str(n)], check=True, capture_output=True, text=True).stdout
                print(n, step, line, end="", flush=True)
                share = float(line.split()[-2])
                rows.append({"n": f"n = {n}", "step": f"step {step}", "share": share})
    return rows


def main() -> None:
    base = alt.Chart(alt.Data(values=measured())).encode(
        y=alt.Y("n:N", title=None, sort=None, axis=None),
        x=alt.X("share:Q", title="% of the multiply-add peak", scale=alt.Scale(domain=[0, 100], clamp=True)),
    )
    bars = base.mark_bar().encode(color=alt.Color("n:N", title=None, sort=None, scale=alt.Scale(range=[BLUE, ORANGE])))
    labels = base.mark_text(align="left", dx=3, fontSize=10).encode(text=alt.Text("share:Q", format=".0f"))
    chart = alt.layer(bars, labels).properties(width=420, height=34)
    save(
        chart.facet(row=alt.Row("step:N", title=None, header=alt.Header(labelAngle=0, labelAlign="left"))),
        "matmul_steps",
    )


if __name__ == "__main__":
    main()
