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
    """Plot one or more training runs: losses, learning rate, gradient norm, speed, memory, samples, and the options
    that differ. Requires pip install 'gollm[report]'."""

    runs: Annotated[tuple[PathText, ...], Positional]  # run folders
    output: PathText = "report.html"  # output file: a page (.html) or an image (.png, .svg)
    live: bool = False  # serve a live page that follows the runs during training, instead of writing a file
    port: Port = 8321  # port of --live; 0: any free port


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
