"""Evaluations of a run's model, kept beside the run for `gollm compare`."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from gollm.training.run import Run


def note(model: Path, kind: str, values: Mapping[str, float]) -> None:
    """Adds a line to the run's evaluations.jsonl, where the model is a run's folder that can be written."""
    run = Run(model)
    if not os.path.isfile(run.config_path):
        return
    with contextlib.suppress(OSError), open(run.evaluations_path, "ab") as file:
        file.write((json.dumps({"kind": kind, **values}) + "\n").encode())
