"""gollm train, gollm pretrain, python -m gollm.train"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from gollm.cli.process import of_the_options, of_the_words
from gollm.options import PathText, given
from gollm.system.machine import fma_peak
from gollm.training import Callback, Training, TrainResult
from gollm.training.console import Announced, Console, Output
from gollm.training.machine_record import MachineRecord
from gollm.training.options import TrainOptions

SIGNAL_STATUS = 128  # a shell's status of a process that a signal ended, less the signal's number


@dataclass(frozen=True)
class Options(TrainOptions):
    """Train a model from raw text. All results are saved in a run folder."""

    json: bool = False  # print JSON lines: the metrics of each step, then the result
    report: bool = False  # write report.html in the run folder when training ends
    metrics: PathText | None = None  # write the report to this file when training ends: .html, .png or .svg


class Runnable(Announced, AbstractContextManager[Any], Protocol):
    def run(self, callbacks: Sequence[Callback]) -> TrainResult: ...


class JsonLines(Callback):
    """Prints what metrics.jsonl gets, and how the run ended."""

    def __init__(self) -> None:
        self.output = Output()

    def on_step(self, trainer: Training, metrics: dict[str, Any]) -> None:
        self.output.put(json.dumps(metrics))

    def on_end(self, trainer: Training, result: TrainResult) -> None:
        self.output.put(json.dumps({"result": dataclasses.asdict(result)}, default=str))


class Followed(Protocol):
    """The options of a command that trains, beyond those of training itself."""

    @property
    def json(self) -> bool: ...
    @property
    def report(self) -> bool: ...
    @property
    def metrics(self) -> str | None: ...


OWN = ("json", "report", "metrics")


def reports(options: Followed) -> list[Callback]:
    """What writes the reports that are asked for. Raises PictureError before anything long begins."""
    wanted = ([None] if options.report else []) + ([options.metrics] if options.metrics else [])
    if not wanted:
        return []
    from gollm.pictures.output import ending_of
    from gollm.pictures.report_callback import WriteReport

    with of_the_words():
        ending_of(options.metrics or "report.html")
    return [WriteReport(path) for path in wanted]


def follow(job: Runnable, as_json: bool, callbacks: Sequence[Callback]) -> int:
    """Runs a job, prints what happens, and returns the exit status."""
    with job:
        peak = None if job.estimate.on_device else fma_peak(0.2)
        if as_json:
            reporter: JsonLines | Console = JsonLines()
        else:
            reporter = console = Console(peak)
            console.announce(job)
        result = job.run([reporter, MachineRecord(peak), *callbacks])
    if reporter.output.failure is not None:
        raise reporter.output.failure
    return 0 if result.interrupted is None else SIGNAL_STATUS + result.interrupted


def run(options: Options) -> int:
    from gollm.training import prepare_job

    own = {name: getattr(options, name) for name in given(options) if name not in OWN}
    callbacks = reports(options)
    with of_the_options():
        job = prepare_job(TrainOptions(**own))
    return follow(job, options.json, callbacks)
