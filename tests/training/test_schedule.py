"""The learning rate of each schedule, at its corners and between them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gollm import TrainOptions
from gollm.errors import ConfigError
from gollm.nn.schedule import SCHEDULES, learning_rate

SHAPE = {"peak": 1e-3, "minimum": 1e-4, "warmup_steps": 100, "total_steps": 2000}


def rate(step, schedule, **changes):
    return learning_rate(step, schedule=schedule, **{**SHAPE, **changes})


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_warms_up_to_the_peak(schedule):
    assert [rate(s, schedule) for s in (1, 50, 100)] == pytest.approx([1e-5, 5e-4, 1e-3])


def test_cosine():
    assert rate(1050, "cosine") == pytest.approx((1e-3 + 1e-4) / 2)
    assert rate(2000, "cosine") == pytest.approx(1e-4)
    assert rate(575, "cosine") == pytest.approx(1e-4 + 9e-4 * (1 + math.cos(math.pi / 4)) / 2)


def test_linear():
    assert [rate(s, "linear") for s in (1050, 2000)] == pytest.approx([5.5e-4, 1e-4])


def test_constant():
    assert {rate(s, "constant") for s in (100, 101, 1050, 2000)} == {1e-3}


def test_warm_up_stable_decay():
    assert {rate(s, "wsd") for s in (100, 1000, 1600)} == {1e-3}
    assert [rate(s, "wsd") for s in (1800, 2000)] == pytest.approx([5.5e-4, 1e-4])


def test_without_warm_up_the_first_step_has_a_rate():
    assert rate(1, "constant", warmup_steps=0) == 1e-3
    assert 1e-4 < rate(1, "cosine", warmup_steps=0) <= 1e-3


@given(
    st.sampled_from(SCHEDULES), st.integers(1, 300), st.integers(0, 400), st.floats(0, 1e3), st.floats(0, 1), st.data()
)
def test_stays_within_bounds(schedule, total, warmup, peak, share, data):
    step = data.draw(st.integers(1, total))
    lr = learning_rate(step, schedule=schedule, peak=peak, minimum=share * peak, warmup_steps=warmup, total_steps=total)
    assert 0 <= lr <= peak * (1 + 1e-12)
    if step >= warmup:
        assert lr >= share * peak * (1 - 1e-12)


@pytest.mark.parametrize(("options", "steps"), [({}, 100), ({"steps": 300}, 30), ({"warmup_steps": 7}, 7)])
def test_the_warm_up_follows_the_number_of_steps(options, steps):
    chosen = TrainOptions(**options)
    assert chosen.resolved_warmup_steps(chosen.steps or 1000) == steps


@pytest.mark.parametrize("schedule", ["cosin", "", None, "Linear"])
def test_an_unknown_schedule_is_refused(schedule):
    with pytest.raises(ConfigError, match="it must be one of cosine, linear, constant, wsd"):
        learning_rate(5, schedule=schedule, peak=1.0, minimum=0.0, warmup_steps=0, total_steps=10)
    with pytest.raises(ConfigError, match="schedule is"):
        TrainOptions(schedule=schedule)
