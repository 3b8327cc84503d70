"""gollm inspect"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from gollm.options import PathText, Positional, PositiveInt


@dataclass(frozen=True)
class Options:
    """Plot how a model processes a prompt: tokens and their surprisal, the predictions of each layer (logit lens),
    activation norms, and weight histograms. For a run trained with --statistics-every, also plot gradients and updates.
    Requires pip install 'gollm[report]'."""

    model: Annotated[Path, Positional]  # model in any format, or a run folder (best checkpoint)
    prompt: Annotated[str, Positional]  # prompt, or - for standard input
    output: PathText = "inspect.html"  # output file: a page (.html) or an image (.png, .svg)
    max_tokens: PositiveInt = 32  # maximum number of prompt tokens to plot


def run(options: Options) -> None:
    import gollm
    from gollm.cli.inputs import text_or_stdin
    from gollm.cli.process import of_the_words
    from gollm.pictures.inspection import write_inspection
    from gollm.pictures.output import ending_of

    with of_the_words():
        ending_of(options.output)
    folder = options.model if options.model.is_dir() else options.model.parent
    write_inspection(
        gollm.load(options.model),
        text_or_stdin(options.prompt),
        options.output,
        run=folder,
        max_tokens=options.max_tokens,
    )
    print(options.output)
