"""A model's token embeddings in two dimensions, with each token's nearest neighbours and kind.

pca    the two directions of the largest variance: distances are projections, the picture is the same each time
tsne   t-SNE (van der Maaten and Hinton 2008), by scikit-learn: near tokens stay near, far distances say little
umap   UMAP (McInnes et al. 2018), by umap-learn where it is installed
"""

from __future__ import annotations

import keyword
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from gollm.errors import PictureError
from gollm.kernels import Array
from gollm.language_model import LanguageModel
from gollm.pictures.finite import finite
from gollm.pictures.output import library
from gollm.pictures.tokens import label
from gollm.quantisation import plain_values
from gollm.system.strict_json import shorten
from gollm.tokenizers import Tokenizer

__all__ = ["TokenMap", "token_map"]

Method = Literal["pca", "tsne", "umap"]
KINDS = ("letters", "digits", "punctuation", "code keyword", "space", "mixed", "bytes", "special")


@dataclass(frozen=True)
class TokenMap:
    """The n first tokens of the vocabulary.

    tokens      (n) labels
    kinds       (n) of KINDS
    places      (n, 2) float64
    neighbours  (n) the nearest others of the whole vocabulary, (id, label, cosine), nearest first
    counts      (n) how often each is in a text, or None
    method      how the places were found; `explained`, of pca: the share of the variance that each axis has
    """

    tokens: list[str]
    kinds: list[str]
    places: Array
    neighbours: list[list[tuple[int, str, float]]]
    counts: list[int] | None
    method: str
    explained: tuple[float, float] | None


def token_map(
    model: LanguageModel,
    *,
    method: Method = "pca",
    max_tokens: int = 2000,
    n_neighbours: int = 8,
    text: str | None = None,
    seed: int = 0,
) -> TokenMap:
    """The map of the first max_tokens tokens of the vocabulary: of BPE they are the most frequent ones. `text` is where
    frequencies are counted; `seed` is for tsne and umap.

    Raises PictureError for an unknown method, one whose library is missing, fewer than 4 tokens, and
    embeddings that are not finite."""
    if method not in get_args(Method):
        raise PictureError(f"method is {shorten(method)}; it must be one of {', '.join(get_args(Method))}")
    for name, n, least in (("max_tokens", max_tokens, 4), ("n_neighbours", n_neighbours, 1)):
        if type(n) is not int or n < least:
            raise PictureError(f"{name} is {shorten(n)}; it must be at least {least}")
    if type(seed) is not int or not 0 <= seed < 1 << 32:
        raise PictureError(f"seed is {shorten(seed)}; it must be from 0 to {(1 << 32) - 1}")
    vectors = finite(plain_values(model.decoder.token_embedding), "the token embeddings").astype(np.float64)
    n, tokenizer = min(max_tokens, len(vectors)), model.tokenizer
    if n < 4:
        raise PictureError(f"this model has {n} tokens; a map needs at least 4")
    counts = None
    if text is not None:
        if tokenizer is None:
            raise PictureError("this model has no tokenizer, so tokens of a text cannot be counted; leave the text out")
        counts = np.bincount(tokenizer.encode(text), minlength=n)[:n].tolist()
    places, explained = in_two_dimensions(vectors[:n], method, seed)
    return TokenMap(
        tokens=[label(tokenizer, token) for token in range(n)],
        kinds=[kind_of(tokenizer, token) for token in range(n)],
        places=places,
        neighbours=[
            [(i, label(tokenizer, i), cosine) for i, cosine in near] for near in nearest(vectors, n, n_neighbours)
        ],
        counts=counts,
        method=method,
        explained=explained,
    )


def in_two_dimensions(vectors: Array, method: Method, seed: int = 0) -> tuple[Array, tuple[float, float] | None]:
    """(n, C) -> (n, 2) float64, and what pca explains."""
    if method == "pca":
        return pca(vectors)
    if method == "tsne":
        perplexity = min(30.0, (len(vectors) - 1) / 3)
        manifold = library("sklearn.manifold")
        found = manifold.TSNE(init="pca", perplexity=perplexity, random_state=seed).fit_transform(vectors)
    else:
        try:
            umap = library("umap")
        except PictureError:
            raise PictureError("UMAP needs umap-learn, which is not installed: pip install umap-learn") from None
        found = umap.UMAP(n_neighbors=min(15, len(vectors) - 1), random_state=seed).fit_transform(vectors)
    return np.asarray(found, np.float64), None


def pca(vectors: Array) -> tuple[Array, tuple[float, float]]:
    """The projections on the two principal axes (n, 2), and the share of the variance that each explains. An axis
    points to where its largest entry is positive."""
    centred = vectors - vectors.mean(axis=0)
    if centred.shape[1] < 2:
        centred = np.pad(centred, ((0, 0), (0, 1)))
    left, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign(np.take_along_axis(axes[:2], np.abs(axes[:2]).argmax(axis=1)[:, None], axis=1))[:, 0]
    shares = np.square(sizes) / max(np.square(sizes).sum(), np.finfo(np.float64).tiny)
    return left[:, :2] * sizes[:2] * signs, (float(shares[0]), float(shares[1]))


def nearest(vectors: Array, n: int, k: int) -> list[list[tuple[int, float]]]:
    """The k nearest others of each of the first n of (V, C) vectors by cosine, nearest first; of equal ones the lower
    first. A vector of zeros is at a right angle to all."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    found = []
    for begin in range(0, n, 256):  # (256, V) cosines at a time
        cosines = unit[begin : min(begin + 256, n)] @ unit.T
        for row, of_one in enumerate(cosines, begin):
            of_one[row] = -np.inf
            best = np.argpartition(-of_one, min(k, len(of_one) - 1))[: k + 1]
            best = best[np.lexsort((best, -of_one[best]))][: min(k, len(of_one) - 1)]
            found.append([(int(i), float(of_one[i])) for i in best])
    return found


def kind_of(tokenizer: Tokenizer | None, token: int) -> str:
    """One of KINDS, spaces around a token left out; "mixed" where no tokenizer knows it."""
    if tokenizer is None or token >= tokenizer.vocab_size:
        return "mixed"
    if token in tokenizer.special_tokens.values():
        return "special"
    try:
        text = tokenizer.vocabulary[token].decode()
    except UnicodeDecodeError:
        return "bytes"
    return kind_of_text(text)


def kind_of_text(text: str) -> str:
    """By its characters; keywords are Python's.

    >>> [kind_of_text(text) for text in (" the", "42", "!!", "while", "\\n\\n", "v2")]
    ['letters', 'digits', 'punctuation', 'code keyword', 'space', 'mixed']
    """
    bare = text.strip()
    if not bare:
        return "space"
    if keyword.iskeyword(bare):
        return "code keyword"
    if bare.isdigit():
        return "digits"
    if bare.isalpha():
        return "letters"
    return "mixed" if any(map(str.isalnum, bare)) else "punctuation"
