"""Figures of 09-fine-tuning.md: full fine-tuning beside adapters of several ranks, and the singular values of what
full fine-tuning changes. Needs the model of stories.py."""

from __future__ import annotations

import itertools
import json
import random
import tempfile
from pathlib import Path

import altair as alt
import numpy as np
from drawing import BLUE, GREEN, GREY, ORANGE, save
from stories import STORIES

import gollm

RANKS = {"rank 1": 1, "rank 4": 4, "rank 16": 16, "all weights": None}
COLOURS = alt.Scale(domain=list(RANKS), range=[ORANGE, GREEN, GREY, BLUE])


def write_data(folder: Path) -> None:
    """The page's records."""
    names = ["Lily", "Tom", "Ben", "Sue", "Max", "Mia", "Tim", "Anna", "Sam", "Lucy"]
    animals = ["cat", "dog", "bird", "fish", "frog", "duck", "bear", "cow", "pig", "fox"]
    moods = {"happy": "smiled", "sad": "cried", "tired": "went to sleep"}
    tasks = list(itertools.product(names, animals, moods))
    random.Random(1).shuffle(tasks)
    for file, part in (("train.jsonl", tasks[:250]), ("test.jsonl", tasks[250:])):
        with (folder / file).open("w") as out:
            for name, animal, mood in part:
                answer = f"{name} had a {animal}. The {animal} was {mood}. So {name} {moods[mood]}."
                print(json.dumps({"prompt": f"{name}, {animal}, {mood}", "completion": answer}), file=out)


def fine_tune(folder: Path, name: str) -> Path:
    run = folder / name
    options = gollm.FinetuneOptions(
        model=STORIES,
        data=(str(folder / "train.jsonl"),),
        validation_data=(str(folder / "test.jsonl"),),
        lora_rank=RANKS[name],
        lr=1e-3 if RANKS[name] is None else 4e-3,
        steps=60,
        eval_every=5,
        batch_size=16,
        sample_tokens=0,
        out=run,
    )
    gollm.finetune(options)
    return run


def losses(runs: dict[str, Path]) -> alt.Chart:
    rows = []
    for name, run in runs.items():
        for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
            if "validation_loss" in line:
                rows.append({"step": line["step"], "loss": line["validation_loss"], "trained": name})
    return (
        alt.Chart(alt.Data(values=rows))
        .mark_line(point=True)
        .encode(
            x=alt.X("step:Q"),
            y=alt.Y("loss:Q", scale=alt.Scale(type="log"), title="validation loss"),
            color=alt.Color("trained:N", scale=COLOURS, title=None),
        )
        .properties(width=400, height=260)
    )


def spectrum(run: Path) -> alt.Chart:
    """Singular values of tuned - base, and of the base itself, each relative to its largest."""
    tuned, base = gollm.load(run).decoder.parameters, gollm.load(STORIES).decoder.parameters
    name = "blocks.2.mlp.down.weight"
    rows = []
    for what, w in (
        ("what was added", tuned[name].data - base[name].data),
        ("the weights themselves", base[name].data),
    ):
        values = np.linalg.svd(w.astype(np.float64), compute_uv=False)
        rows += [
            {"number": i + 1, "value": float(value / values[0]), "of": what} for i, value in enumerate(values.tolist())
        ]
    colours = alt.Scale(domain=["what was added", "the weights themselves"], range=[BLUE, GREY])
    return (
        alt.Chart(alt.Data(values=rows))
        .mark_line(point=True)
        .encode(
            x=alt.X("number:Q", title="singular value"),
            y=alt.Y("value:Q", title="relative to the largest"),
            color=alt.Color("of:N", scale=colours, title=None),
        )
        .properties(width=400, height=240)
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        if not STORIES.exists():
            raise SystemExit
        write_data(Path(name))
        runs = {trained: fine_tune(Path(name), trained) for trained in RANKS}
        save(losses(runs), "fine_tuning_losses")
        save(spectrum(runs["all weights"]), "fine_tuning_spectrum")
