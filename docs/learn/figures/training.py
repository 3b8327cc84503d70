"""Figures of 04-training.md: loss curves of small models on prose, Python's built-in help texts.

Learning rates, schedules, divergence, overfitting. The losses that it prints are those of the page.
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import altair as alt
import numpy as np
from drawing import BLUE, GREEN, GREY, ORANGE, save

import gollm
from gollm.nn import learning_rate
from gollm.training import Run

PROSE = "\n".join(topics[name] for name in sorted(topics))
STEPS = 300
COLORS = [GREY, GREEN, BLUE, ORANGE]


def trained(folder: Path, name: str, text: str = PROSE, **options: Any) -> list[dict[str, Any]]:
    """The metrics of all steps; of a run that fails, of those before."""
    data, out = folder / f"{name}.txt", folder / name
    data.write_text(text, encoding="utf-8")
    settings = {"steps": STEPS, "batch_size": 16, "context": 32, "n_layers": 2, "n_heads": 2, "d_model": 32} | options
    with contextlib.suppress(gollm.GollmError):  # the loss is no longer a number
        gollm.train(
            gollm.TrainOptions(
                data=[data],
                tokenizer="character",
                eval_batches=10,
                eval_every=100,
                sample_tokens=0,
                checkpoint_every=0,
                out=out,
                cache_dir=folder / "cache",
                **settings,
            )
        )
    metrics = list(Run(out).metrics())
    validation = [m["validation_loss"] for m in metrics if "validation_loss" in m]
    print(f"{name:30} {len(metrics):5} steps, loss {metrics[-1]['loss']:.3f}, validation", np.round(validation, 3))
    return metrics


def smoothed(values: list[float], keep: float = 0.9) -> list[float]:
    """The exponential moving average, without its bias towards the first value."""
    out, average, weight = [], 0.0, 0.0
    for value in values:
        average, weight = keep * average + (1 - keep) * value, keep * weight + (1 - keep)
        out.append(average / weight)
    return out


def curve(metrics: list[dict[str, Any]], key: str, run: str, raw: bool = False) -> list[dict[str, Any]]:
    values = [m[key] for m in metrics]
    values = values if raw else smoothed(values)
    return [{"step": m["step"], "value": float(v), "run": run} for m, v in zip(metrics, values, strict=True)]


def lines(rows: list[dict[str, Any]], title: str, runs: list[str], **y: Any) -> alt.Chart:
    color = alt.Color("run:N", title=None, sort=runs, scale=alt.Scale(domain=runs, range=COLORS[-len(runs) :]))
    return (
        alt.Chart(alt.Data(values=rows))
        .mark_line()
        .encode(
            x=alt.X("step:Q", axis=alt.Axis(tickCount=6)),
            y=alt.Y("value:Q", title=title, scale=alt.Scale(zero=False, **y), axis=alt.Axis(tickCount=5)),
            color=color,
        )
        .properties(width=400, height=220)
    )


def rates(folder: Path) -> alt.Chart:
    runs = {f"lr {lr:g}": trained(folder, f"lr {lr:g}", lr=lr) for lr in (1e-4, 1e-3, 1e-2, 1e-1)}
    rows = [row for name, metrics in runs.items() for row in curve(metrics, "loss", name)]
    return lines(rows, "training loss (smoothed)", list(runs))


def schedules(folder: Path) -> alt.HConcatChart:
    names = ["constant", "linear", "cosine", "wsd"]
    line = {"peak": 0.01, "minimum": 0.001, "warmup_steps": STEPS // 10, "total_steps": STEPS}
    rate = [
        {"step": step, "value": learning_rate(step, schedule=name, **line), "run": name}
        for name in names
        for step in range(1, STEPS + 1)
    ]
    runs = {name: trained(folder, name, lr=0.01, schedule=name) for name in names}
    rows = [row for name, metrics in runs.items() for row in curve(metrics, "loss", name) if row["step"] > STEPS // 3]
    left = lines(rate, "learning rate", names).properties(width=280)
    return left | lines(rows, "training loss (smoothed)", names).properties(width=280)


def divergence(folder: Path) -> alt.VConcatChart:
    bare = {"max_grad_norm": 0.0, "warmup_steps": 0, "schedule": "constant", "optimizer": "sgd", "beta1": 0.9}
    runs = {
        "lr 0.1": trained(folder, "sgd 0.1", lr=0.1, **bare),
        "lr 3": trained(folder, "sgd 3", lr=3.0, **bare),
        "lr 3, clipped, warm-up": trained(
            folder, "sgd 3 clipped", lr=3.0, **{**bare, "max_grad_norm": 1.0, "warmup_steps": 100}
        ),
    }
    loss = [row for name, metrics in runs.items() for row in curve(metrics, "loss", name, raw=True)]
    norm = [row for name, metrics in runs.items() for row in curve(metrics, "grad_norm", name, raw=True)]
    upper = lines(loss, "training loss", list(runs), type="log").properties(height=160)
    return upper & lines(norm, "gradient norm", list(runs), type="log").properties(height=160)


def overfitting(folder: Path) -> alt.LayerChart:
    metrics = trained(folder, "small", PROSE[:15000], steps=1500, lr=0.005, d_model=64, schedule="constant")
    rows = curve(metrics, "loss", "training (smoothed)")
    points = [m for m in metrics if "validation_loss" in m]
    rows += curve(points, "validation_loss", "validation", raw=True)
    return lines(rows, "loss", ["training (smoothed)", "validation"])


with tempfile.TemporaryDirectory() as name:
    save(rates(Path(name)), "training_rates")
    save(schedules(Path(name)), "training_schedules")
    save(divergence(Path(name)), "training_divergence")
    save(overfitting(Path(name)), "training_overfitting")
