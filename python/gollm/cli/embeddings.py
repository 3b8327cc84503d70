"""gollm embeddings"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from gollm.options import NonNegativeInt, PathText, Positional
from gollm.options.types import Range


@dataclass(frozen=True)
class Options:
    """Draw a map of a model's token embeddings, to search and to colour, with each token's nearest neighbours. Needs
    pip install 'gollm[report]'."""

    model: Annotated[Path, Positional]  # a model in any format; of a training run's folder the best checkpoint
    method: Literal["pca", "tsne", "umap"] = "pca"  # PCA, t-SNE, or UMAP, which needs pip install umap-learn
    output: PathText = "embeddings.html"  # the file to write: a page (.html), or an image (.png, .svg)
    max_tokens: Annotated[int, Range(at_least=4)] = 2000  # tokens in the map, the first of the vocabulary
    data: PathText | None = None  # a text in which the tokens are counted, to colour them by frequency
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
