"""gollm inspect"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from gollm.options import PathText, Positional, PositiveInt


@dataclass(frozen=True)
class Options:
    """Draw what a model makes of a prompt: its tokens, the surprise at each, each layer's best guesses (the logit
    lens), activation norms, and histograms of the weights; of a run that has recorded them (gollm train
    --statistics-every) gradients and updates, too. Needs pip install 'gollm[report]'."""

    model: Annotated[Path, Positional]  # a model in any format; of a training run's folder the best checkpoint
    prompt: str  # the text that the model reads; - for standard input
    output: PathText = "inspect.html"  # the file to write: a page (.html), or an image (.png, .svg)
    max_tokens: PositiveInt = 32  # tokens of the prompt that are drawn; the rest is left out


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
