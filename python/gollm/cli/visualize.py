"""gollm visualize"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from gollm.options import NonNegativeInt, PathText, Positional, PositiveInt


@dataclass(frozen=True)
class Options:
    """Plot the attention weights of a prompt: each layer and head, all heads of a layer, and attention rollout.
    Requires pip install 'gollm[report]'."""

    model: Annotated[Path, Positional]  # model in any format, or a run folder (best checkpoint)
    prompt: Annotated[str, Positional]  # prompt, or - for standard input
    output: PathText = "attention.html"  # output file: a page (.html) or an image (.png, .svg)
    layer: NonNegativeInt = 0  # layer to show first, or to plot in an image
    head: NonNegativeInt = 0  # head to show first, or to plot in an image
    max_tokens: PositiveInt = 64  # maximum number of prompt tokens to plot


def run(options: Options) -> None:
    import gollm
    from gollm.cli.inputs import text_or_stdin
    from gollm.cli.process import of_the_options, of_the_words
    from gollm.pictures.heads import write_attention
    from gollm.pictures.output import ending_of

    with of_the_words():
        ending_of(options.output)
    model, prompt = gollm.load(options.model), text_or_stdin(options.prompt)
    with of_the_options():
        write_attention(
            model,
            prompt,
            options.output,
            layer=options.layer,
            head=options.head,
            max_tokens=options.max_tokens,
        )
    print(options.output)
