"""Going on with a run: its own options hold, but for those that do not change what its steps so far have computed."""

from __future__ import annotations

import os

from gollm.errors import ConfigError
from gollm.options import given
from gollm.options.types import shown
from gollm.training.options import L
from gollm.training.run import Run

# What a resumed run may change: when it ends, what it reports and keeps, where its data lies (the data itself is
# compared by its content), what it computes twice, and the device, whose results differ in their last bits.
CHANGEABLE = (
    "data",
    "device",
    "dtype",
    "rounding",
    "recompute",
    "steps",
    "epochs",
    "patience",
    "force",
    "log_every",
    "eval_every",
    "sample_every",
    "sample_tokens",
    "sample_prompt",
    "checkpoint_every",
    "keep_checkpoints",
    "statistics_every",
    "cache_dir",
)


def resumed_options(wanted: L) -> L:
    """The options of the run in wanted.resume, with those of CHANGEABLE that are given now.

    Raises TrainingError where there is no run, ConfigError for an option that would change what the run computes."""
    assert wanted.resume is not None
    run = Run(wanted.resume)
    saved, folder = run.options(type(wanted)), run.name
    changes = {}
    for name in given(wanted):
        value, before = getattr(wanted, name), getattr(saved, name)
        if name == "resume" or value == before or (name == "out" and _same_path(value, wanted.resume)):
            continue
        flag = f"--{name.replace('_', '-')} is {_words(value)}"
        if name == "out":
            raise ConfigError(f"{flag}, but the run in {folder} goes on in its own folder; leave it out")
        if name not in CHANGEABLE:
            raise ConfigError(
                f"{flag}, but the run in {folder} has {_words(before)}; "
                "a resumed run keeps its options: leave it out, or start a new run"
            )
        if name == "recompute" and saved.activation_dtype == "bfloat16":
            raise ConfigError(
                f"{flag}, but the run in {folder} has {_words(before)} and keeps activations as "
                "bfloat16, where it changes what is computed; leave it out, or start a new run"
            )
        changes[name] = value
    if {"steps", "epochs"} & changes.keys():
        saved = saved.replace(steps=None, epochs=None)
    return saved.replace(**changes, resume=wanted.resume, out=wanted.resume)


def _same_path(a: str, b: str) -> bool:
    return os.path.realpath(a) == os.path.realpath(b)


def _words(value: object) -> str:
    return value if isinstance(value, str) and len(value) < 80 else shown(value)
