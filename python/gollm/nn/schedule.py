"""Learning-rate schedules: a warm-up from zero, then cosine, linear, constant, or warm-up-stable-decay."""

from __future__ import annotations

import math

from gollm.errors import ConfigError
from gollm.system.strict_json import shorten

SCHEDULES = ("cosine", "linear", "constant", "wsd")


def learning_rate(
    step: int,
    *,
    schedule: str,
    peak: float,
    minimum: float,
    warmup_steps: int,
    total_steps: int,
    decay_fraction: float = 0.2,
) -> float:
    """The learning rate of step 1 ... total_steps.

    Rises linearly to `peak` at step `warmup_steps`, then falls to `minimum` at the last step along half a cosine or a
    line, stays (`constant`), or stays and falls linearly over the last `decay_fraction` of all steps (`wsd`). Raises
    ConfigError for any other schedule.

    >>> line = {"schedule": "linear", "peak": 1.0, "minimum": 0.0, "warmup_steps": 2, "total_steps": 6}
    >>> [learning_rate(step, **line) for step in range(1, 7)]
    [0.5, 1.0, 0.75, 0.5, 0.25, 0.0]
    """
    if schedule not in SCHEDULES:
        raise ConfigError(f"the schedule is {shorten(schedule)}; it must be one of {', '.join(SCHEDULES)}")
    if step < warmup_steps:
        return peak * step / warmup_steps
    if schedule == "constant":
        return peak
    start = warmup_steps
    if schedule == "wsd":
        start = max(warmup_steps, total_steps - round(decay_fraction * total_steps))
        if step <= start:
            return peak
    progress = min(1.0, (step - start) / max(1, total_steps - start))
    share = (1 + math.cos(math.pi * progress)) / 2 if schedule == "cosine" else 1 - progress
    return minimum + (peak - minimum) * share
