"""gollm embeddings"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from gollm.options import NonNegativeInt, PathText, Positional
from gollm.options.types import Range


@dataclass(frozen=True)
class Options:
    """Plot a map of a model's token embeddings, with search, colours and nearest neighbours. Requires
    pip install 'gollm[report]'."""

    model: Annotated[Path, Positional]  # model in any format, or a run folder (best checkpoint)
    method: Literal["pca", "tsne", "umap"] = "pca"  # projection: PCA, t-SNE, or UMAP (requires pip install umap-learn)
    output: PathText = "embeddings.html"  # output file: a page (.html) or an image (.png, .svg)
    max_tokens: Annotated[int, Range(at_least=4)] = 2000  # number of tokens to plot, from the start of the vocabulary
    data: PathText | None = None  # text for token counts, to colour tokens by frequency
    seed: Annotated[NonNegativeInt, Range(below=2**32)] = 0  # seed of t-SNE and UMAP


def run(options: Options) -> None:
    import gollm
    from gollm.cli.process import of_the_words
    from gollm.data import open_source
    from gollm.pictures.map import write_embeddings
    from gollm.pictures.output import ending_of

    with of_the_words():
        ending_of(options.output)
    text = None if options.data is None else "".join(open_source(options.data).iter_text())
    write_embeddings(
        gollm.load(options.model),
        options.output,
        method=options.method,
        max_tokens=options.max_tokens,
        text=text,
        seed=options.seed,
    )
    print(options.output)
