"""gollm finetune"""

from __future__ import annotations

from dataclasses import dataclass

from gollm.cli.process import of_the_options
from gollm.cli.train import follow
from gollm.finetuning.options import FinetuneOptions
from gollm.options import given


@dataclass(frozen=True)
class Options(FinetuneOptions):
    """Fine-tune a model, and keep everything in a run folder."""

    json: bool = False  # print JSON lines: the metrics of each step, then the result


def run(options: Options) -> int:
    from gollm.finetuning.job import prepare_job

    own = {name: getattr(options, name) for name in given(options) if name != "json"}
    with of_the_options():
        job = prepare_job(FinetuneOptions(**own))
    return follow(job, options.json)
