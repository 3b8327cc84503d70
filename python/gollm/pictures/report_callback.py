"""The report that training writes when it ends."""

from __future__ import annotations

from pathlib import Path

from gollm.pictures import output
from gollm.pictures.report import write_report
from gollm.training.callbacks import Callback, Training, TrainResult

__all__ = ["WriteReport"]


class WriteReport(Callback):
    """Writes the run's report to a file when training ends or is interrupted: to report.html in the run's folder unless
    a path is given. Raises PictureError at once for a path that no picture can have, or where a library is missing."""

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = path
        output.ready_for("report.html" if path is None else path)

    def on_end(self, trainer: Training, result: TrainResult) -> None:
        if result.steps:
            write_report([result.folder], trainer.folder.report_path if self.path is None else self.path)
