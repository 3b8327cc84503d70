"""A run folder: everything that one training run leaves, in a form that survives a crash at any moment.

config.yaml           the resolved options; there from before the first step
tokenizer.json        the tokenizer
metrics.jsonl         a line for each step
step-00000250.golm    checkpoints with their training state, the newest few
best.golm             the model with the lowest validation loss, without training state
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gollm.errors import TrainingError
from gollm.files import open_regular, read_regular, reason, remove_leftovers, replacing
from gollm.options import to_yaml

_CHECKPOINT = re.compile(r"step-(\d{8,})\.golm")


class RunFolder:
    """The folder of one run, locked against a second trainer while it is open; made if it is not there.

    Raises TrainingError where it cannot be written, or is locked."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._metrics: int | None = None
        try:
            self._made = not self.path.exists()
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as failure:
            raise TrainingError(
                f"the run folder {self.path} cannot be written: {reason(failure)}; choose another with --out"
            ) from None
        try:
            self._take_lock()
            remove_leftovers(self.path)
        except BaseException:
            os.close(self._lock)
            raise

    def _take_lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # Windows
            return
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrainingError(
                f"another process is training in {self.path}; wait for it, or choose another folder with --out"
            ) from None

    def close(self) -> None:
        """Lets others in. A folder that this object has made, and that nothing was written to, goes again."""
        with contextlib.suppress(OSError):  # somebody else has removed it
            if self._made and os.listdir(self.path) == [self._lock_path.name]:
                self._lock_path.unlink()
                self.path.rmdir()
        for descriptor in (self._metrics, self._lock):
            if descriptor is not None:
                os.close(descriptor)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _lock_path(self) -> Path:
        return self.path / ".lock"

    @property
    def config_path(self) -> Path:
        return self.path / "config.yaml"

    @property
    def tokenizer_path(self) -> Path:
        return self.path / "tokenizer.json"

    @property
    def metrics_path(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def best_path(self) -> Path:
        return self.path / "best.golm"

    def checkpoint_path(self, step: int) -> Path:
        return self.path / f"step-{step:08d}.golm"

    def checkpoints(self) -> dict[int, Path]:
        """The checkpoints that are there, by step, oldest first."""
        found = ((_CHECKPOINT.fullmatch(path.name), path) for path in self.path.iterdir())
        return dict(sorted((int(match[1]), path) for match, path in found if match))

    def keep_newest(self, n: int) -> None:
        """Removes all checkpoints but the newest n."""
        for _, path in list(self.checkpoints().items())[:-n]:
            path.unlink(missing_ok=True)

    def refuse_used(self) -> None:
        """Raises TrainingError where another run has left something: nothing of it is ever overwritten."""
        files = (self.config_path, self.tokenizer_path, self.metrics_path, self.best_path)
        if any(path.exists() for path in files) or self.checkpoints():
            raise TrainingError(
                f"{self.path} holds a run already; go on with --resume {self.path}, or choose another folder with --out"
            )

    def write_config(self, values: Mapping[str, Any]) -> None:
        """Writes the options, unless they are there. Raises TrainingError."""
        text = to_yaml(values).encode()
        if not self.config_path.is_file() or read_regular(self.config_path, len(text) + 1) != text:
            with replacing(self.config_path, TrainingError) as file:
                file.write(text)

    def start_metrics(self, last_step: int) -> dict[str, Any]:
        """Opens metrics.jsonl for the step after last_step and returns that step's line, {} for step 0. What a killed
        process wrote beyond it, or half a line, is cut off.

        Raises TrainingError where lines are missing."""
        steps, length, values = 0, 0, {}
        try:
            self._metrics = os.open(self.metrics_path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            with open_regular(self.metrics_path, buffering=-1) as file:
                while steps < last_step and (line := file.readline()).endswith(b"\n"):
                    steps, length, values = steps + 1, length + len(line), _parsed(line)
                    if values.get("step") != steps:
                        raise TrainingError(
                            f"line {steps} of {self.metrics_path} is not step {steps}; restore the file, "
                            "or start a new run"
                        )
            if steps < last_step:
                raise TrainingError(
                    f"{self.metrics_path} ends at step {steps}, before the checkpoint's step {last_step}; "
                    "restore the file, or start a new run"
                )
            os.truncate(self.metrics_path, length)
        except OSError as failure:
            raise TrainingError(f"cannot use {self.metrics_path}: {reason(failure)}") from None
        return values

    def write_metrics(self, values: Mapping[str, Any]) -> None:
        """Appends a step's line. Raises TrainingError for a full disk."""
        assert self._metrics is not None
        line = json.dumps(values, ensure_ascii=False).encode() + b"\n"
        try:
            while line:
                line = line[os.write(self._metrics, line) :]
        except OSError as failure:
            raise self._metrics_failure(failure) from None

    def sync_metrics(self) -> None:
        """What was written reaches the disk: before a checkpoint says that these steps are done."""
        assert self._metrics is not None
        try:
            os.fsync(self._metrics)
        except OSError as failure:
            raise self._metrics_failure(failure) from None

    def _metrics_failure(self, failure: OSError) -> TrainingError:
        return TrainingError(
            f"cannot write {self.metrics_path}: {reason(failure)}. The checkpoints are untouched: "
            f"free some space and go on with: gollm train --resume {self.path}"
        )


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def new_run_path(name: str, root: str | Path = "runs") -> Path:
    """runs/NAME-1, or the first number that is free."""
    number = 1
    while (path := Path(root) / f"{name}-{number}").exists():
        number += 1
    return path
