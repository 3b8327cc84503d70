"""The options of generation: ranges, types, defaults."""

from __future__ import annotations

import dataclasses
import math
import pickle
from typing import Any

import numpy as np
import pytest

from gollm.errors import GenerationError
from gollm.inference.sampling import Sampling
from gollm.model.generation_defaults import GenerationDefaults


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("seed", value) for value in (-1, 2**64, 2**70, 1.5, True, None, "1")],
        *[("max_new_tokens", value) for value in (-1, 1.5, True, "3")],
        *[("temperature", value) for value in (-1, "x", math.nan, math.inf, True, 10**400, 1j, np.array([1, 2]))],
        *[("top_k", value) for value in (-1, 2.0, True, 10**5000 * -1)],
        *[("top_p", value) for value in (0, -1, 1.5, math.nan, True, [0.5])],
        *[("min_p", value) for value in (-0.1, 1.5, math.nan, "0")],
        *[("repetition_penalty", value) for value in (0, -1, math.inf, math.nan)],
        *[("presence_penalty", value) for value in (math.inf, math.nan, None)],
        *[("frequency_penalty", value) for value in (math.inf, math.nan, "1")],
        *[("logit_bias", value) for value in (None, [1], {-1: 1}, {"1": 1}, {1: math.inf}, {1: math.nan}, {1: "x"})],
        *[("stop", value) for value in (None, 1.5, [None], [1.5], [True], -1, [[1]])],
        *[("n", value) for value in (0, -1, 1.5, 1025, None)],
        *[("logprobs", value) for value in (-1, True, 1.5)],
        *[("prompt_logprobs", value) for value in (-1, "1")],
        *[("processors", value) for value in (None, 3, [3], "ab")],
        *[("json_schema", value) for value in (3, ["x"])],
        *[("regex", value) for value in (3, b"a")],
        *[("grammar", value) for value in (3, {})],
        *[("beams", value) for value in (0, None, 2.0, 1025)],
        *[("length_penalty", value) for value in (math.nan, None)],
        *[("context_full", value) for value in ("no", None)],
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_an_option_of_another_type_or_range_is_refused_in_one_sentence(name: str, value: Any) -> None:
    with pytest.raises(GenerationError, match=f"^{name} is .*; it must be ") as caught:
        Sampling(**{name: value})
    assert len(str(caught.value)) < 200 and "\n" not in str(caught.value)


def test_options_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(GenerationError, match="json_schema and regex are both given"):
        Sampling(json_schema="{}", regex="a")
    with pytest.raises(GenerationError, match="n is 3; beam search with 2 beams has at most as many results"):
        Sampling(beams=2, n=3)
    with pytest.raises(GenerationError, match="stop has an empty string"):
        Sampling(stop=["a", ""])


def test_values_become_plain_ones() -> None:
    sampling = Sampling(
        temperature=np.float32(0.5),
        top_k=np.uint8(4),
        seed=np.uint64(2**64 - 1),
        stop="end",
        logit_bias={np.int32(3): 1},
    )
    assert (type(sampling.temperature), type(sampling.top_k), type(sampling.seed)) == (float, int, int)
    assert (sampling.stop, sampling.logit_bias) == (("end",), {3: 1.0})
    assert Sampling(stop=7).stop == (7,) and Sampling(stop=["a", np.int64(3)]).stop == ("a", 3)
    assert Sampling(processors=len).processors == (len,)  # type: ignore[arg-type]
    assert pickle.loads(pickle.dumps(sampling)) == sampling


def test_it_does_not_change() -> None:
    bias = {1: 1.0}
    sampling = Sampling(logit_bias=bias)
    bias[2] = 1.0
    assert sampling.logit_bias == {1: 1.0}
    with pytest.raises(dataclasses.FrozenInstanceError):
        sampling.seed = 1  # type: ignore[misc]


def test_what_the_user_does_not_say_the_model_does() -> None:
    defaults = GenerationDefaults(temperature=0.6, top_p=0.9, top_k=0, max_new_tokens=50)
    resolved = Sampling(top_p=0.5).resolved(defaults)
    assert (resolved.temperature, resolved.top_p, resolved.top_k, resolved.max_new_tokens) == (0.6, 0.5, 0, 50)
    assert (resolved.min_p, resolved.repetition_penalty) == (0, 1)
    nothing = Sampling().resolved(GenerationDefaults())
    assert (nothing.temperature, nothing.top_p, nothing.top_k, nothing.max_new_tokens) == (0.8, 1, 0, 200)
    assert resolved.resolved(GenerationDefaults(temperature=2.0)) == resolved


def test_options_replace_those_of_a_sampling() -> None:
    base = Sampling(temperature=0.5, seed=3)
    assert Sampling.of(base, {"seed": 4}) == Sampling(temperature=0.5, seed=4)
    assert Sampling.of(None, {"top_k": 1}) == Sampling(top_k=1)
    with pytest.raises(TypeError, match="unknown option 'max_tokens'; the options of generation are max_new_tokens, "):
        Sampling.of(None, {"max_tokens": 1})
    with pytest.raises(GenerationError, match=r"sampling is 0\.5; it must be"):
        Sampling.of(0.5, {})  # type: ignore[arg-type]
