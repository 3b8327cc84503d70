"""gollm finetune"""

from __future__ import annotations

from dataclasses import dataclass

from gollm.cli.process import of_the_options
from gollm.cli.train import OWN, follow, reports
from gollm.finetuning.options import FinetuneOptions
from gollm.options import PathText, given


@dataclass(frozen=True)
class Options(FinetuneOptions):
    """Fine-tune a model. All results are saved in a run folder."""

    json: bool = False  # print JSON lines: the metrics of each step, then the result
    report: bool = False  # write report.html in the run folder when training ends
    metrics: PathText | None = None  # write the report to this file when training ends: .html, .png or .svg


def run(options: Options) -> int:
    from gollm.finetuning.job import prepare_job

    own = {name: getattr(options, name) for name in given(options) if name not in OWN}
    callbacks = reports(options)
    with of_the_options():
        job = prepare_job(FinetuneOptions(**own))
    return follow(job, options.json, callbacks)
