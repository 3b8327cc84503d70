"""A run and a model so small that pictures of them take no time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gollm
from gollm import TrainOptions
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder
from gollm.tokenizers import CharacterTokenizer
from gollm.training.machine_record import MachineRecord

LETTERS = " abcdefghijklmnopqrstuvwxyz.\n"
TRAINING = {"preset": "tiny", "n_layers": 2, "d_model": 16, "n_heads": 2, "context": 32, "tokenizer": "character"}


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 6 steps with everything that a report can show."""
    folder = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    (folder / "words.txt").write_text(" ".join(rng.choice(["bako", "rinu\n", "sela", "<b>&"], 3000)))
    options = TrainOptions(
        data=(str(folder / "words.txt"),),
        out=str(folder / "first"),
        cache_dir=str(folder / "cache"),
        steps=6,
        batch_size=2,
        eval_every=3,
        sample_tokens=8,
        statistics_every=2,
        **TRAINING,
    )
    return gollm.train(options, [MachineRecord(1e11)]).folder


@pytest.fixture
def made_run(tmp_path: Path) -> Callable[..., Path]:
    """made_run("name", lines, **options): a run folder with these metrics."""

    def make(name: str, lines: list[dict[str, Any]], **options: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (folder / "config.yaml").write_text("".join(f"{key}: {value}\n" for key, value in options.items()))
        return folder

    return make


@pytest.fixture(scope="session")
def model() -> gollm.LanguageModel:
    """Random weights and an alphabet."""
    config = ModelConfig(n_layers=3, n_heads=4, n_kv_heads=2, d_model=32, vocab_size=len(LETTERS), context=64)
    return gollm.LanguageModel(Decoder(config).initialise(5), CharacterTokenizer.train([LETTERS], None))
