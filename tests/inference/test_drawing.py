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


def test_rows_do_not_see_each_other_and_the_logits_stay():
    rng = np.random.default_rng(2)
    logits = rng.standard_normal((6, 500)).astype(np.float32)
    before = logits.copy()
    rows = [
        row(seed=1),
        row(seed=1, repetition_penalty=1.5, top_k=5),
        row(seed=2, processors=lambda tokens, z: z * 2, top_p=0.5),
        row(seed=1, choice=3, logprobs=3),
        row(seed=1, tokens=range(50), presence_penalty=1.0, frequency_penalty=0.5),
        row(temperature=0, logit_bias={7: 100}),
    ]
    together = draw(logits, rows, 400)
    assert (logits == before).all() and together[5].token == 7
    for i, one in enumerate(rows):
        assert draw(logits[i : i + 1], [one], 400) == [together[i]]
    order = [3, 1, 5, 0, 2, 4]
    assert draw(logits[order], [rows[i] for i in order], 400) == [together[i] for i in order]


def test_padding_is_neither_drawn_nor_shown():
    logits = np.array([[0, 1, 9, 9]], np.float32)
    (one,) = draw(logits, [row(temperature=0, logprobs=4)], 2)
    assert one.token == 1 and [token for token, _ in one.top] == [1, 0]
    with pytest.raises(GenerationError, match="logit_bias has the token 2; this model has the tokens from 0 to 1"):
        draw(logits, [row(logit_bias={2: 1.0})], 2)
    assert draw(logits, [row(tokens=[3], repetition_penalty=2.0, temperature=0)], 2)[0].token == 1


def test_penalties_and_bias():
    z = np.array([[1, -1, 2, 0.5]], np.float32)
    seen = []

    def note(tokens, logits):
        seen.append((tokens.tolist(), logits.tolist()))

    draw(
        z,
        [
            row(
                tokens=[0, 1, 2, 2],
                n_prompt=2,
                logit_bias={3: 0.5, 0: -math.inf},
                repetition_penalty=2.0,
                presence_penalty=0.25,
                frequency_penalty=1.0,
                processors=note,
            )
        ],
    )
    assert seen == [([0, 1, 2, 2], [-math.inf, -2.0, 2 / 2 - 0.25 - 2, 1.0])]


def test_processors_run_in_order_and_may_return_logits_or_change_them():
    def set_last(tokens, logits):
        logits[:] = 0
        logits[tokens[-1]] = 5

    chain = [set_last, lambda tokens, logits: -logits, lambda tokens, logits: logits + np.eye(4)[0] * 9]
    assert draw(np.zeros((1, 4), np.float32), [row(processors=chain, temperature=0)])[0].token == 0


@pytest.mark.parametrize("result", [np.zeros(3), "x", [[1, 2], [3, 4]], object()])
def test_a_processor_that_returns_something_else_is_refused(result):
    with pytest.raises(GenerationError, match=r"a processor has returned .*; it must return None or 5 logits"):
        draw(np.zeros((1, 5), np.float32), [row(processors=lambda tokens, logits: result)])


def test_an_error_of_a_processor_is_raised_as_it_is():
    def broken(tokens, logits):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        draw(np.zeros((1, 5), np.float32), [row(processors=broken)])


def test_processors_that_leave_nothing_are_told_so():
    ban = dict.fromkeys(range(3), -math.inf)
    with pytest.raises(GenerationError, match="-inf once it was changed by logit_bias, processors or"):
        draw(np.zeros((1, 3), np.float32), [row(logit_bias=ban)])


def test_top_logprobs_are_the_log_softmax_and_equal_ones_come_by_id():
    rng = np.random.default_rng(4)
    logits = np.round(3 * rng.standard_normal((5, 300))).astype(np.float32)  # many are equal
    exact = logits.astype(np.float64)
    want = exact - np.log(np.exp(exact).sum(1, keepdims=True))
    tokens = rng.integers(0, 300, 5).tolist()
    for i, (logprob, top) in enumerate(top_logprobs(logits, tokens, 20)):
        assert logprob == pytest.approx(want[i, tokens[i]], abs=1e-5)
        assert [token for token, _ in top] == np.argsort(-want[i], kind="stable")[:20].tolist()
        np.testing.assert_allclose([value for _, value in top], -np.sort(-want[i])[:20], atol=1e-5)
    assert len(top_logprobs(logits, tokens, 10**30)[0][1]) == 300
