"""Maps of embeddings: PCA and neighbours against scikit-learn and float64, kinds, frequencies."""

from __future__ import annotations

import numpy as np
import pytest

import gollm
from gollm.errors import PictureError
from gollm.pictures.map import map_rows
from gollm.pictures.token_map import KINDS, kind_of, nearest, pca, token_map
from gollm.tokenizers import BPETokenizer

from .conftest import LETTERS


@pytest.mark.parametrize("shape", [(4, 2), (5, 9), (40, 17), (300, 64)])
def test_pca_is_that_of_the_covariance(shape: tuple[int, int]) -> None:
    x = np.random.default_rng(shape[0]).standard_normal(shape) * np.linspace(1, 3, shape[1])
    places, shares = pca(x)
    values, axes = np.linalg.eigh(np.cov(x.T))
    for i in (0, 1):
        projected = (x - x.mean(axis=0)) @ axes[:, -1 - i]
        np.testing.assert_allclose(np.abs(places[:, i]), np.abs(projected), atol=1e-9)
        assert shares[i] == pytest.approx(values[-1 - i] / values.sum())


def test_pca_of_numbers() -> None:
    """A model one wide has one axis."""
    x = np.array([[1.0], [2.0], [3.0], [6.0]])
    places, shares = pca(x)
    np.testing.assert_allclose(places, np.hstack([x - 3, np.zeros((4, 1))]), atol=1e-12)
    assert shares == (1.0, 0.0)


def test_pca_is_scikit_learns() -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    x = np.random.default_rng(1).standard_normal((50, 20))
    expected = decomposition.PCA(2).fit_transform(x)
    np.testing.assert_allclose(np.abs(pca(x)[0]), np.abs(expected), atol=1e-9)


@pytest.mark.parametrize("V, n, k", [(5, 5, 3), (5, 2, 9), (700, 300, 8)])
def test_neighbours_are_the_largest_cosines(V: int, n: int, k: int) -> None:
    x = np.random.default_rng(V).standard_normal((V, 11))
    x[1] = 0
    found = nearest(x, n, k)
    lengths = np.linalg.norm(x, axis=1)
    for i in range(n):
        others = [j for j in range(V) if j != i]
        cosines = {j: 0.0 if 1 in (i, j) else x[i] @ x[j] / (lengths[i] * lengths[j]) for j in others}
        expected = sorted(cosines.values(), reverse=True)[:k]
        np.testing.assert_allclose([cosine for _, cosine in found[i]], expected, atol=1e-12)
        for j, cosine in found[i]:
            assert cosines[j] == pytest.approx(cosine, abs=1e-12)


def test_a_map_of_a_model(model: gollm.LanguageModel) -> None:
    found = token_map(model, n_neighbours=3, text="a lazy dog. a fox")
    expected, _ = pca(model.decoder.token_embedding.data.astype(np.float64))
    np.testing.assert_allclose(found.places, expected, atol=1e-12)
    assert len(found.tokens) == len(LETTERS) and set(found.kinds) == {"letters", "punctuation", "space"}
    assert found.counts is not None and found.counts[found.tokens.index("a")] == 3
    assert all(len(near) == 3 for near in found.neighbours)
    assert map_rows(found)[found.tokens.index("a")]["count"] == 3
    assert len(token_map(model, max_tokens=7).tokens) == 7


def test_tsne_keeps_groups_together(model: gollm.LanguageModel) -> None:
    pytest.importorskip("sklearn")
    config = model.config.replace(vocab_size=60)
    grouped = gollm.LanguageModel(gollm.Decoder(config))
    with grouped.decoder.parameters.filling("token_embedding") as values:
        values[:] = np.random.default_rng(0).standard_normal(values.shape) * 0.1
        values[:30, 0] += 5
    found = token_map(grouped, method="tsne", n_neighbours=1)
    again = token_map(grouped, method="tsne", n_neighbours=1)
    np.testing.assert_array_equal(found.places, again.places)
    centres = found.places[:30].mean(axis=0), found.places[30:].mean(axis=0)
    nearer = np.linalg.norm(found.places - centres[0], axis=1) < np.linalg.norm(found.places - centres[1], axis=1)
    assert nearer[:30].all() and not nearer[30:].any()
    assert found.tokens[:2] == ["#0", "#1"] and set(found.kinds) == {"mixed"} and found.explained is None


def test_kinds_of_bpe() -> None:
    text = "while the 42 dogs!! return 7, for x1 in range(10):\n" * 30
    tokenizer = BPETokenizer.train([text], 330, special_tokens=["<|endoftext|>"])
    kinds = {tokenizer.vocabulary[i]: kind_of(tokenizer, i) for i in range(tokenizer.vocab_size)}
    assert set(kinds.values()) <= set(KINDS)
    assert kinds[b"\xff"] == "bytes" and kinds[b"<|endoftext|>"] == "special" and kinds[b"7"] == "digits"
    assert kinds[b" return"] == "code keyword" and kinds[b" the"] == "letters" and kinds[b"!"] == "punctuation"


@pytest.mark.parametrize(
    "change, words",
    [
        ({"method": "mds"}, r"method is 'mds'; it must be one of pca, tsne, umap"),
        ({"method": None}, "method is None"),
        ({"max_tokens": 3}, "max_tokens is 3; it must be at least 4"),
        ({"max_tokens": 9.0}, "max_tokens is 9.0"),
        ({"n_neighbours": 0}, "n_neighbours is 0; it must be at least 1"),
        ({"seed": -1}, "seed is -1; it must be from 0"),
        ({"seed": True}, "seed is True"),
    ],
)
def test_odd_arguments(model: gollm.LanguageModel, change: dict, words: str) -> None:
    with pytest.raises(PictureError, match=words):
        token_map(model, **change)


def test_umap_is_optional(model: gollm.LanguageModel) -> None:
    try:
        import umap  # noqa: F401
    except ImportError:
        with pytest.raises(PictureError, match="UMAP needs umap-learn, which is not installed: pip install umap-learn"):
            token_map(model, method="umap")
    else:
        assert np.isfinite(token_map(model, method="umap").places).all()
