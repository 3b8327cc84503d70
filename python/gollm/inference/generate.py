"""Generation: drawing tokens one after the other from a decoder, with a key/value cache.

Policy for long texts: a prompt longer than the context is refused. When the text grows past the context, the oldest
tokens are forgotten: generation goes on from the last half of the context. Nothing else is ever cut.
"""

from __future__ import annotations

import contextlib
import math
import numbers
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from gollm.errors import DTypeError, GenerationError, ShapeError, TokenizerError
from gollm.inference.decoding import RecordedDecoding
from gollm.inference.pages import CachedSequence, CacheDType, PagePool, cache_dtype_of, pages_for
from gollm.kernels import Array
from gollm.model.decoder import Decoder
from gollm.nn.dtypes import DType
from gollm.system.strict_json import shorten


def choose(
    logits: Array, generator: np.random.Generator, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> int:
    """Draws a token id from the logits (V,) of one position.

    Temperature 0 takes the largest logit (the first of equals) and draws nothing. top_k keeps the k largest (0: all),
    then top_p the fewest of these whose probabilities sum to at least p (Holtzman et al. 2020); ties go to the
    smaller id. A logit of -inf is never drawn. Raises GenerationError unless the largest logit is a finite number."""
    largest = float(logits.max())  # NaN where one of them is
    if not math.isfinite(largest):
        raise GenerationError(
            f"the largest logit of the next token is {largest}, so no token can be drawn; the model's weights are "
            "damaged, or its training diverged"
        )
    if temperature == 0:
        return int(logits.argmax())
    order = np.argsort(-logits, kind="stable")
    if top_k:
        order = order[:top_k]
    with np.errstate(over="ignore"):  # at a temperature near 0, to -inf
        p = np.exp((logits[order].astype(np.float64) - largest) / temperature)
    p /= p.sum()
    if top_p < 1:
        keep = int(np.searchsorted(np.cumsum(p), top_p)) + 1
        order, p = order[:keep], p[:keep] / p[:keep].sum()
    cumulative = np.cumsum(p)
    index = int(np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right"))
    return int(order[min(index, np.count_nonzero(p) - 1)])


def _whole(name: str, value: Any, at_least: int, below: float, allowed: str) -> int:
    """A whole number of Python or NumPy. Raises GenerationError for one outside its range and for anything else."""
    if isinstance(value, numbers.Integral) and not isinstance(value, bool) and at_least <= int(value) < below:
        return int(value)
    raise GenerationError(f"{name} is {shorten(value)}; it must be {allowed}")


def _number(name: str, value: Any, test: Callable[[float], bool], allowed: str) -> float:
    """The same of a real number."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            if test(number := float(value)):
                return number
    raise GenerationError(f"{name} is {shorten(value)}; it must be {allowed}")


def token_ids(values: Any, vocab_size: int) -> Array:
    """Token ids as an int32 array of their shape. Raises DTypeError for anything but integers, ShapeError for lists of
    different lengths, TokenizerError for an id that is not from 0 to vocab_size - 1."""
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, OverflowError):
        raise ShapeError(
            "the token ids are lists of different lengths; each sequence needs as many as the others"
        ) from None
    if array.size and array.dtype.kind not in "iu":
        big = array.dtype == object and all(type(value) is int for value in array.flat)
        if not big:
            raise DTypeError(f"the token ids are {shorten(values)}; they must be whole numbers")
    if array.size and not (array.min() >= 0 and array.max() < vocab_size):
        odd = next(value for value in array.flat if not 0 <= value < vocab_size)
        raise TokenizerError(f"a token id is {shorten(int(odd))}; it must be from 0 to {vocab_size - 1}")
    return array.astype(np.int32)


def generate_tokens(
    model: Decoder,
    prompt: Sequence[int] | Array,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    seed: int = 0,
    stop: Sequence[int] = (),
    vocab_size: int | None = None,
    cache_dtype: CacheDType = "float32",
) -> Iterator[int]:
    """Yields up to max_new_tokens token ids that continue the prompt; ends before a token of `stop`. Only ids below
    vocab_size are drawn, where it is given: a model may have rows of padding that no text is. Keys and values are
    kept as `cache_dtype`.

    The same arguments give the same tokens, whatever the number of threads; seed is from 0 to 2^64 - 1. Raises
    GenerationError for an empty prompt, one that is longer than the context, or a sampling option outside its
    range, and what token_ids raises for a prompt that is not a list of ids."""
    max_new_tokens = _whole("max_new_tokens", max_new_tokens, 0, math.inf, "a whole number, 0 or more")
    temperature = _number("temperature", temperature, lambda v: 0 <= v < math.inf, "0 (greedy) or a positive number")
    top_k = _whole("top_k", top_k, 0, math.inf, "a whole number, 0 (off) or more")
    top_p = _number("top_p", top_p, lambda v: 0 < v <= 1, "above 0 and at most 1")
    seed = _whole("seed", seed, 0, 2**64, "a whole number from 0 to 2^64 - 1")
    if vocab_size is not None:
        vocab_size = _whole("vocab_size", vocab_size, 1, math.inf, "a whole number, 1 or more")
    context = model.config.context
    array = token_ids(prompt, model.config.vocab_size)
    if array.ndim != 1:
        raise ShapeError(f"the prompt has the shape {array.shape}; it must be one list of token ids")
    tokens: list[int] = array.tolist()
    if not tokens:
        raise GenerationError("the prompt is empty; give at least one token")
    if len(tokens) > context:
        raise GenerationError(
            f"the prompt has {len(tokens)} tokens, more than this model's context ({context}); shorten the prompt"
        )
    try:
        stop_ids = frozenset(map(operator.index, stop))
    except TypeError:
        raise GenerationError(f"stop is {shorten(stop)}; it must be a list of token ids") from None
    pool_dtype = cache_dtype_of(model, cache_dtype)
    return _generate(model, tokens, max_new_tokens, temperature, top_k, top_p, seed, stop_ids, vocab_size, pool_dtype)


def _generate(
    model: Decoder,
    tokens: list[int],
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int,
    stop_ids: frozenset[int],
    vocab_size: int | None,
    pool_dtype: DType,
) -> Iterator[int]:
    """The loop of generate_tokens. A generator runs at its first token only: the checks come before it."""
    generator = np.random.Generator(np.random.Philox(seed))
    context = model.config.context
    n_pages = pages_for(min(context, len(tokens) + max_new_tokens))
    sequence = CachedSequence(PagePool(model.config, n_pages, pool_dtype))
    next_logits = RecordedDecoding(model, sequence.pool)
    new = tokens
    for _ in range(max_new_tokens):
        if sequence.length + len(new) > context:
            sequence.clear()
            new = tokens[-max(1, context // 2) :]
        logits = next_logits([sequence], [new])[0][:vocab_size]
        token = choose(logits, generator, temperature=temperature, top_k=top_k, top_p=top_p)
        if token in stop_ids:
            return
        yield token
        tokens.append(token)
        new = [token]
