"""A corpus and a model so small that a step takes a few milliseconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gollm
from gollm import TrainOptions
from gollm.training import TrainResult

SMALL = {
    "preset": "tiny",
    "n_layers": 1,
    "d_model": 16,
    "context": 16,
    "batch_size": 4,
    "tokenizer": "character",
    "steps": 6,
    "lr": 1e-3,
    "sample_tokens": 0,
    "eval_batches": 2,
}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOLLM_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Words of a few syllables: something to learn in a few steps."""
    rng = np.random.default_rng(0)
    syllables = ["ba", "ko", "ri", "nu", "se", "la"]
    words = ["".join(rng.choice(syllables, rng.integers(1, 4))) for _ in range(4000)]
    path = tmp_path_factory.mktemp("corpus") / "words.txt"
    path.write_text(" ".join(words))
    return path


@pytest.fixture
def options(corpus: Path, tmp_path: Path) -> Callable[..., TrainOptions]:
    """options(lr=0.1): a small run into tmp_path/run, with changes."""

    def make(**changes: Any) -> TrainOptions:
        return TrainOptions(**{**SMALL, "data": (str(corpus),), "out": str(tmp_path / "run"), **changes})

    return make


@pytest.fixture
def train(options: Callable[..., TrainOptions]) -> Callable[..., TrainResult]:
    """train(lr=0.1): runs it."""
    return lambda **changes: gollm.train(options(**changes))


def metrics(folder: Path | str) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def command(options):
    """The command line of some options."""
    changed = {name: value for name, value in options.to_dict().items() if value != TrainOptions().to_dict()[name]}
    return [*changed.pop("data", []), *(f"--{name.replace('_', '-')}={value}" for name, value in changed.items())]
