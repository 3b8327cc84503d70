"""Drawing tokens against a reference, and arguments of every type."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from generating import tokens_after
from gollm.errors import DTypeError, GenerationError, GollmError, ShapeError, TokenizerError
from gollm.inference.drawing import Row, draw
from gollm.inference.sampling import Sampling
from gollm.language_model import LanguageModel
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder
from gollm.model.generation_defaults import GenerationDefaults
from gollm.tokenizers import CharacterTokenizer
from kernels.references.sample import uniform

TOKENIZER = CharacterTokenizer.train("abcdefgh")
MODEL = LanguageModel(
    Decoder(ModelConfig(n_layers=1, n_heads=2, d_model=8, vocab_size=TOKENIZER.vocab_size, context=16)).initialise(1),
    TOKENIZER,
)
V = TOKENIZER.vocab_size

logits_of = st.lists(
    st.one_of(st.floats(-100, 100, width=32), st.sampled_from([0.0, -math.inf, 3e38, -3e38, 1e-45, 1.0])),
    min_size=1, max_size=12,
).filter(lambda values: max(values) > -math.inf)  # fmt: skip
temperatures = st.one_of(st.floats(0.01, 100), st.sampled_from([1e-320, 1e-308, 1e-300, 1e-45, 1e-10, 1e10, 1e300]))


def drawn_from(logits: np.ndarray[Any, Any], position: int = 3, **options: Any) -> int:
    sampling = Sampling(**options).resolved(GenerationDefaults())
    (one,) = draw(logits[None], [Row(sampling, [0] * position, position)])
    return one.token


def reference(logits: np.ndarray[Any, Any], temperature: float, top_k: int) -> tuple[list[int], np.ndarray[Any, Any]]:
    """The tokens that top_k keeps, the likeliest first, and their probabilities with 64 bits of mantissa."""
    exact = logits.astype(np.longdouble)
    ranked = sorted(range(len(logits)), key=lambda i: (-exact[i], i))[: top_k or None]
    with np.errstate(all="ignore"):
        weights = np.exp((exact[ranked] - exact[ranked[0]]) / np.longdouble(temperature))
    return ranked, weights / weights.sum()


@settings(max_examples=400, deadline=None)
@given(
    logits_of, temperatures, st.sampled_from([0, 1, 2, 5, 12, 10**30]),
    st.one_of(st.floats(1e-3, 1), st.sampled_from([1e-320, 1.0])), st.integers(0, 2**64 - 1),
)  # fmt: skip
def test_draws_are_those_of_the_reference(
    values: list[float], temperature: float, top_k: int, top_p: float, seed: int
) -> None:
    logits = np.array(values, np.float32)
    tokens, p = reference(logits, temperature, top_k)
    if top_p < 1:
        sums = np.cumsum(p)
        assume(np.abs(sums - top_p).min() > 1e-9)  # else rounding decides
        p = p[: int((sums < top_p).sum()) + 1]
    drawn, u = drawn_from(logits, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed), uniform(seed, 0, 3)
    rank = tokens.index(drawn)
    assert rank < len(p) and p[rank] > 0 and logits[drawn] > -math.inf
    before = sum(p[i] for i in range(len(p)) if tokens[i] < drawn) / p.sum()  # the kept ones lie in order of their ids
    assert before - 1e-6 <= u <= before + p[rank] / p.sum() + 1e-6


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=12, unique=True), st.integers(0, 1000))
def test_a_temperature_near_zero_is_greedy(values: list[float], seed: int) -> None:
    logits = np.array(values, np.float32)
    for temperature in (5e-324, 1e-320, 1e-308, 1e-300, 1e-60):
        drawn = drawn_from(logits, temperature=temperature, seed=seed)
        assert drawn == drawn_from(logits, temperature=0, seed=seed) == logits.argmax()


def test_a_huge_temperature_draws_all_tokens_alike_but_those_of_minus_infinity() -> None:
    logits = np.array([3e38, -math.inf, -3e38, 5, 5], np.float32)
    drawn = [drawn_from(logits, position, temperature=1e300) for position in range(2000)]
    counts = np.bincount(drawn, minlength=5)
    assert counts[1] == 0 and counts[[0, 2, 3, 4]].min() > 400


@pytest.mark.parametrize("temperature", [0, 1e-320, 1.0, 1e300])
@pytest.mark.parametrize(
    ("values", "word"), [([1, math.nan], "nan"), ([math.nan] * 3, "nan"), ([1, math.inf], "inf"), ([-math.inf], "-inf")]
)
def test_logits_that_say_nothing_draw_nothing(values: list[float], word: str, temperature: float) -> None:
    with pytest.raises(GenerationError, match=f"the largest logit of the next token is {word}"):
        drawn_from(np.array(values, np.float32), temperature=temperature)


def test_a_model_with_nan_in_its_weights_draws_nothing() -> None:
    broken = Decoder(MODEL.config).initialise(1)
    broken.parameters["norm.weight"].data[:] = math.nan
    with pytest.raises(GenerationError, match="damaged, or its training diverged"):
        LanguageModel(broken, TOKENIZER).generate("abc")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("seed", value) for value in (-1, 2**64, 2**70, 1.5, True, None, "1")],
        *[("max_new_tokens", value) for value in (-1, 1.5, True, "3")],
        *[("temperature", value) for value in (-1, "x", math.nan, math.inf, True, 10**400, 1j, np.array([1, 2]))],
        *[("top_k", value) for value in (-1, 2.0, True, 10**5000 * -1)],
        *[("top_p", value) for value in (0, -1, 1.5, math.nan, True, [0.5])],
        *[("prompt", value) for value in (None, b"abc", 3, ["a"])],
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_an_option_of_another_type_or_range_is_refused_in_one_sentence(name: str, value: Any) -> None:
    with pytest.raises(GenerationError, match=f"{name} is .*; it must be ") as caught:
        MODEL.generate(**{"prompt": "abc", "max_new_tokens": 2, name: value})
    assert len(str(caught.value)) < 200 and "\n" not in str(caught.value)


def test_what_nobody_says_is_the_models_recommendation_or_the_default() -> None:
    said = {"max_new_tokens": 9, "temperature": 3.0, "top_k": 5, "top_p": 0.9}
    model = LanguageModel(MODEL.decoder, TOKENIZER, GenerationDefaults(**said))
    nothing = dict.fromkeys(said)
    assert model.generate("abc") == model.generate("abc", **nothing) == MODEL.generate("abc", **said)
    default = MODEL.generate("abc", max_new_tokens=200, temperature=0.8, top_k=0, top_p=1)
    assert MODEL.generate("abc", **nothing) == default != model.generate("abc")


def test_numbers_of_numpy_and_extremes() -> None:
    expected = MODEL.generate("abc", max_new_tokens=3, temperature=0.5, top_k=4, seed=7)
    found = MODEL.generate(
        "abc", max_new_tokens=np.int32(3), temperature=np.float32(0.5), top_k=np.uint8(4), top_p=1, seed=np.uint64(7)
    )
    assert found == expected
    MODEL.generate("abc", max_new_tokens=3, top_k=10**30, seed=2**64 - 1)
    assert next(MODEL.stream("abc", max_new_tokens=10**30))


def test_a_prompt_with_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(GollmError, match=r"surrogate U\+D800"):
        MODEL.generate("a\ud800")


@pytest.mark.parametrize(
    ("ids", "error", "words"),
    [
        ([1.0], DTypeError, r"are \[1.0\]; they must be whole numbers"),
        (["1"], DTypeError, "whole numbers"),
        ("abc", DTypeError, "whole numbers"),
        (None, DTypeError, "are None"),
        ([True], DTypeError, "whole numbers"),
        ({1: 2}, DTypeError, "whole numbers"),
        ([[1, 2], [3]], ShapeError, "different lengths"),
        ([[[1]]], ShapeError, r"shape \(1, 1, 1\)"),
        ([-1], TokenizerError, f"a token id is -1; it must be from 0 to {V - 1}"),
        ([0, V], TokenizerError, f"a token id is {V};"),
        ([2**31], TokenizerError, "a token id is 2147483648;"),
        ([2**70], TokenizerError, "a token id is 1180591620717411303424;"),
        ([10**5000], TokenizerError, "a token id is a huge int;"),
        (np.array([-1], np.int8), TokenizerError, "a token id is -1;"),
    ],
)
def test_odd_ids_are_refused_in_one_sentence(ids: Any, error: type[GollmError], words: str) -> None:
    with pytest.raises(error, match=words):
        MODEL.logits(ids)
    if not isinstance(ids, str):  # which is a prompt
        with pytest.raises(error, match=words):
            tokens_after(MODEL.decoder, ids, max_new_tokens=1)


def test_ids_of_every_integer_type() -> None:
    expected = MODEL.logits([[1, 2]])
    for ids in ([1, 2], (1, 2), range(1, 3), *(np.array([1, 2], kind) for kind in (np.int8, np.uint8, np.uint64))):
        np.testing.assert_array_equal(MODEL.logits(ids), expected)
    assert MODEL.logits([]).shape == (1, 0, V)
    assert MODEL.logits(1).shape == (1, 1, V)
