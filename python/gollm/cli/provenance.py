"""Where a checkpoint comes from: what the run folder around it says."""

from __future__ import annotations

import contextlib
import shlex
from pathlib import Path
from typing import Any

from gollm.errors import ConfigError
from gollm.options import load_file
from gollm.training.run import Run


def provenance(checkpoint: Path, step: int | None) -> dict[str, Any] | None:
    """The command that trains the same again, the data, the steps of the checkpoint and of the run's end, and the
    losses at the first; None for a checkpoint, or an adapter, that lies in no run folder. Without a `step` it has the
    best weights."""
    run = Run(checkpoint.parent)
    try:
        options = load_file(run.config_path)
    except ConfigError:
        return None
    data = options.get("data")
    lines: list[dict[str, Any]] = []
    with contextlib.suppress(OSError):
        lines = [line for line in run.metrics() if isinstance(line.get("step"), int)]
    if step is None:
        judged = [line for line in lines if isinstance(line.get("validation_loss"), float)]
        at = min(judged, key=lambda line: line["validation_loss"], default={})
    else:
        at = next((line for line in lines if line["step"] == step), {"step": step})
    command = "finetune" if "task" in options else "train"
    return {
        "command": f"gollm {command} --config {shlex.quote(str(run.config_path))} --out NEW_FOLDER",
        "model": options.get("model"),
        "data": data if isinstance(data, list) and data else ["the Python standard library's source"],
        "step": at.get("step"),
        "last_step": lines[-1]["step"] if lines else None,
        "loss": at.get("loss"),
        "validation_loss": at.get("validation_loss"),
    }


def in_rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    """For `gollm info`."""
    data = found["data"]
    words = ", ".join(map(str, data[:5])) + (f" and {len(data) - 5} more" if data[5:] else "")
    rows = [("trained on", words), ("command", found["command"])]
    if found["model"]:
        rows.insert(0, ("base model", str(found["model"])))
    if found["step"] is not None:
        last = found["last_step"]
        said = f"step {found['step']:,}" + (f" of {last:,}" if last else "")
        for name in ("loss", "validation_loss"):
            said += f", {name.replace('_', ' ')} {found[name]:.4f}" if isinstance(found[name], float) else ""
        rows.append(("weights of", said))
    return rows
