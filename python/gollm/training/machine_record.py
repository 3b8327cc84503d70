"""What a run computes on, for whoever looks at its speed later: machine.json in the run folder."""

from __future__ import annotations

import json

from gollm.errors import TrainingError
from gollm.system.files import replacing
from gollm.system.machine import isa, num_threads
from gollm.training.callbacks import Callback, Training
from gollm.training.estimate import flops_per_token


class MachineRecord(Callback):
    """Writes machine.json before the first step: {"threads", "isa", "peak_flops", "flops_per_token"}.

    `peak` is in FLOP/s, measured at the start; None where it was not, on a GPU. A resumed run's machine counts."""

    def __init__(self, peak: float | None) -> None:
        self.peak = peak

    def on_start(self, trainer: Training) -> None:
        found = {
            "threads": num_threads(),
            "isa": isa(),
            "peak_flops": self.peak,
            "flops_per_token": flops_per_token(trainer.model, trainer.batches.context),
        }
        with replacing(trainer.folder.machine_path, TrainingError) as file:
            file.write(json.dumps(found).encode() + b"\n")
