"""Drawing tokens: draw() against definitions, and what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gollm.errors import GenerationError
from gollm.inference.drawing import Drawn, Row, draw, top_logprobs
from gollm.inference.sampling import Sampling
from gollm.model.generation_defaults import GenerationDefaults


def row(tokens=(1, 2, 3), n_prompt=2, choice=0, **options):
    sampling = Sampling(**{"temperature": 1.0, **options}).resolved(GenerationDefaults())
    return Row(sampling, list(tokens), n_prompt, choice)


def test_greedy_takes_the_first_of_the_largest():
    logits = np.array([[1, 5, 5, 2], [3, 3, 3, 3]], np.float32)
    assert [one.token for one in draw(logits, [row(temperature=0)] * 2)] == [1, 0]


def test_logprobs_are_of_the_model_itself():
    logits = np.array([[1, 3, 3, -math.inf]], np.float32)
    (one,) = draw(logits, [row(temperature=0, logit_bias={1: -100}, logprobs=2)])
    want = logits[0].astype(np.float64) - np.log(np.exp(logits[0].astype(np.float64)).sum())
    assert one == Drawn(2, pytest.approx(want[2]), [(1, pytest.approx(want[1])), (2, pytest.approx(want[2]))])
    assert top_logprobs(logits, [3], 0) == [(-math.inf, [])]


@pytest.mark.parametrize(
    ("values", "word"), [([1, math.nan], "nan"), ([math.nan] * 3, "nan"), ([1, math.inf], "inf"), ([-math.inf], "-inf")]
)
@pytest.mark.parametrize("temperature", [0, 1e-320, 1.0, 1e300])
def test_logits_that_say_nothing_draw_nothing(values, word, temperature):
    with pytest.raises(GenerationError, match=f"the largest logit of the next token is {word}, .*damaged"):
        draw(np.array([values], np.float32), [row(temperature=temperature)])
