"""A run folder, for whoever only looks: nothing is locked, made or changed.

config.yaml           the resolved options; there from before the first step
tokenizer.json        the tokenizer
files.txt             the files that were trained on, a path in each line
metrics.jsonl         a line for each step
step-00000250.golm    checkpoints with their training state, the newest few
best.golm             the model with the lowest validation loss, without training state
adapter/              instead of it, where adapters are trained: in the files of peft
evaluations.jsonl     what gollm eval has measured of the model
statistics.jsonl      sizes of weights, gradients and updates, with --statistics-every
machine.json          threads and peak FLOP/s of the machine, for gollm report
report.html           the report that gollm train --report writes
.lock                 locked while a process trains here; names the newest checkpoint that was written
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

from gollm import tokenizers
from gollm.errors import TrainingError
from gollm.options import from_mapping, load_file
from gollm.system.files import open_regular
from gollm.tokenizers import Tokenizer
from gollm.training.options import L, TrainOptions

LARGEST = 1e100  # of a number in a run's files: sums and products of two are finite
_CHECKPOINT = re.compile(r"step-(\d{8,})\.golm")


class Run:
    """What a run folder holds."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def name(self) -> str:
        """The path as messages have it."""
        name = str(self.path)
        return name if name.isprintable() and name == name.strip() else ascii(name)

    @property
    def config_path(self) -> Path:
        return self.path / "config.yaml"

    @property
    def tokenizer_path(self) -> Path:
        return self.path / "tokenizer.json"

    @property
    def files_path(self) -> Path:
        return self.path / "files.txt"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def best_path(self) -> Path:
        return self.path / "best.golm"

    @property
    def adapter_path(self) -> Path:
        return self.path / "adapter"

    @property
    def evaluations_path(self) -> Path:
        return self.path / "evaluations.jsonl"

    @property
    def statistics_path(self) -> Path:
        return self.path / "statistics.jsonl"

    @property
    def machine_path(self) -> Path:
        return self.path / "machine.json"

    @property
    def report_path(self) -> Path:
        return self.path / "report.html"

    def checkpoint_path(self, step: int) -> Path:
        return self.path / f"step-{step:08d}.golm"

    def checkpoints(self) -> dict[int, Path]:
        """The checkpoints that are there, by step, oldest first."""
        found = ((_CHECKPOINT.fullmatch(path.name), path) for path in self.path.iterdir())
        return dict(sorted((int(match[1]), path) for match, path in found if match))

    def options(self, kind: type[L] = TrainOptions) -> L:  # type: ignore[assignment]
        """As the command of `kind` has them, gollm train unless given. Raises TrainingError where there is no run of
        it, ConfigError for a damaged file."""
        if not os.path.isfile(self.config_path):
            raise TrainingError(
                f"there is no run to go on with in {self.name} (no config.yaml); name a run's folder, "
                "or start a new run with --out"
            )
        values = load_file(self.config_path)
        command = "finetune" if "task" in values else "train"
        if command != kind.COMMAND:
            raise TrainingError(
                f"the run in {self.name} is one of gollm {command}; go on with: {resume_command(self.path, command)}"
            )
        if command == "train":
            values = {"validation_split": "end", **values}  # of a run from before there was a choice
        return from_mapping(kind, values, where=str(self.config_path))

    def tokenizer(self) -> Tokenizer | None:
        """None where the run was killed before it was written."""
        return tokenizers.load(self.tokenizer_path) if os.path.isfile(self.tokenizer_path) else None

    def metrics(self) -> Iterator[dict[str, Any]]:
        """The metrics of each step, {} for a line that is damaged. Raises OSError."""
        return map(parsed, self.metrics_lines())

    def metrics_lines(self) -> Iterator[bytes]:
        """The lines of metrics.jsonl, without half a one at the end, which a killed process may leave."""
        with open_regular(self.metrics_path, buffering=-1) as file:
            while (line := file.readline()).endswith(b"\n"):
                yield line


def resume_command(path: str | Path, command: str) -> str:
    """What a shell takes to go on with a run."""
    return f"gollm {command} --resume {shlex.quote(str(path))}"


def parsed(line: bytes) -> dict[str, Any]:
    """A line of metrics.jsonl, {} where it is damaged."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def is_measured(value: object) -> TypeGuard[float]:
    """Whether a value of such a line is a number that can be drawn and added up. A file from elsewhere may hold others,
    and Python reads NaN and Infinity."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST
