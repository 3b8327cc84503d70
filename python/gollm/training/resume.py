"""Going on with a run: its own options hold, but for those that do not change what its steps so far have computed."""

from __future__ import annotations

from pathlib import Path

from gollm.errors import ConfigError, TrainingError
from gollm.options import from_mapping, load_file
from gollm.training.options import TrainOptions

# What a resumed run may change: when it ends, what it reports and keeps, where its data lies (the data itself is
# compared by its content), and what it computes twice.
CHANGEABLE = (
    "data",
    "recompute",
    "steps",
    "epochs",
    "log_every",
    "eval_every",
    "sample_every",
    "sample_tokens",
    "sample_prompt",
    "checkpoint_every",
    "keep_checkpoints",
    "cache_dir",
)


def resumed_options(given: TrainOptions) -> TrainOptions:
    """The options of the run in given.resume, with those of CHANGEABLE that are given now.

    Raises TrainingError where there is no run, ConfigError for an option that would change what the run computes."""
    assert given.resume is not None
    path = Path(given.resume) / "config.yaml"
    if not path.is_file():
        raise TrainingError(
            f"there is no run to go on with in {given.resume} (no config.yaml); name a run's folder, "
            "or start a new run with --out"
        )
    saved = from_mapping(TrainOptions, load_file(path), where=str(path))
    defaults = TrainOptions()
    changes = {}
    for name in given.to_dict():
        value, before = getattr(given, name), getattr(saved, name)
        if name in ("resume", "out") or value in (getattr(defaults, name), before):
            continue
        if name not in CHANGEABLE:
            raise ConfigError(
                f"--{name.replace('_', '-')} is {value}, but the run in {given.resume} has {before}; "
                "a resumed run keeps its options: leave it out, or start a new run"
            )
        if name == "recompute" and saved.activation_dtype == "bfloat16":
            raise ConfigError(
                f"--recompute is {value}, but the run in {given.resume} has {before} and keeps activations as "
                "bfloat16, where it changes what is computed; leave it out, or start a new run"
            )
        changes[name] = value
    if {"steps", "epochs"} & changes.keys():
        saved = saved.replace(steps=None, epochs=None)
    return saved.replace(**changes, resume=given.resume, out=given.resume)
