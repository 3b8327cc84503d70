"""A model that recites: told by what greedy decoding writes."""

from __future__ import annotations

import numpy as np
import pytest

from finetuning.conftest import small_model
from gollm.data import Texts
from gollm.errors import EvaluationError
from gollm.evaluation import memorization

MODEL = small_model(context=64)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GOLLM_CACHE", str(tmp_path / "cache"))


def test_what_the_model_writes_itself_is_recited():
    ids = MODEL.tokenizer.encode("The text begins").tolist()
    while len(ids) < 40:
        ids.append(int(MODEL.logits(ids)[0, -1].argmax()))
    own = Texts(MODEL.tokenizer.decode(ids))
    if MODEL.tokenizer.encode(own.documents[0]).tolist() == ids:
        found = memorization(MODEL, own, places=1, prefix=15, length=25)
        assert (found.n_places, found.recited.value, found.matched) == (1, 1.0, 25.0)
    other = Texts("".join(np.random.default_rng(0).permutation(list("abcdefghijklmnopqrstuvwxyz" * 8))))
    found = memorization(MODEL, other, places=7, prefix=9, length=5)
    assert found.n_places == 7 and found.recited.value == 0.0 and found.matched < 2


def test_mistakes():
    with pytest.raises(EvaluationError, match="a prefix of 50 tokens and 50 behind it are more than"):
        memorization(MODEL, Texts("a" * 200))
    with pytest.raises(EvaluationError, match="fewer than one place of 14"):
        memorization(MODEL, Texts("a" * 9), prefix=9, length=5)
