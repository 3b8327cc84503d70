"""gollm report"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Annotated

from gollm.options import PathText, Positional
from gollm.options.types import Range

Port = Annotated[int, Range(at_least=0, at_most=65535)]


@dataclass(frozen=True)
class Options:
    """Draw the training report of one run or several: losses, learning rate, gradient norm, speed, memory, samples, and
    the options that differ. Needs pip install 'gollm[report]'."""

    runs: Annotated[tuple[PathText, ...], Positional]  # folders of training runs
    output: PathText = "report.html"  # the file to write: a page (.html), or an image (.png, .svg)
    live: bool = False  # serve a page that follows the runs while they train, instead of writing a file
    port: Port = 8321  # port of --live on this machine; 0: any that is free


def run(options: Options) -> None:
    if not options.live:
        from gollm.cli.process import of_the_words
        from gollm.pictures.output import ending_of
        from gollm.pictures.report import write_report

        with of_the_words():
            ending_of(options.output)
        write_report(options.runs, options.output)
        print(options.output)
        return
    from gollm.pictures.live import LiveReport

    with LiveReport(options.runs, options.port) as server, contextlib.suppress(KeyboardInterrupt):
        print(f"{server.url} (Ctrl-C ends)", flush=True)
        server.serve_forever()
