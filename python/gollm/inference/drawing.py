"""Drawing the next token of each of several texts from their logits.

A draw depends on its text's logits and options, seed, choice and position only, so it is the same in any company.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from gollm.errors import GenerationError
from gollm.inference.processors import changes_logits, process
from gollm.inference.sampling import Sampling
from gollm.kernels import Array, cpu


class Constraint(Protocol):
    """What a text must be. Logits of tokens that cannot come next become -inf, in place."""

    def apply(self, generated: Array, logits: Array) -> None: ...


@dataclass(frozen=True, slots=True)
class Row:
    """A text whose next token is drawn: its options, resolved; its tokens so far, the prompt's n_prompt first; which of
    the choices of a request it is."""

    sampling: Sampling
    tokens: Sequence[int] | Array
    n_prompt: int
    choice: int = 0
    constraint: Constraint | None = None


@dataclass(slots=True)
class Drawn:
    """A token; where logprobs asks for them its log-probability, and the likeliest tokens with theirs."""

    token: int
    logprob: float | None = None
    top: list[tuple[int, float]] | None = None


def draw(logits: Array, rows: Sequence[Row], vocab_size: int | None = None) -> list[Drawn]:
    """The next token of each row, from its logits (S, V), which are not changed. Only ids below vocab_size are drawn,
    where it is given: a model may have rows of padding that no text is.

    Raises GenerationError where a largest logit is not a finite number, or another is NaN; and whatever a processor
    raises."""
    logits = np.ascontiguousarray(logits)
    n = logits.shape[1] if vocab_size is None else min(vocab_size, logits.shape[1])
    processed = _processed(logits, rows, n)
    tokens = np.empty(len(rows), np.int32)
    cpu.sample(tokens=tokens, logits=processed, vocab_size=n, **kernel_options(rows, n))
    drawn = [Drawn(token) for token in tokens.tolist()]
    for i, one in enumerate(drawn):
        if one.token < 0:
            raise _no_token(logits[i, :n], processed[i, :n])
        if (top := rows[i].sampling.logprobs) is not None:
            ((one.logprob, one.top),) = top_logprobs(logits[i : i + 1], [one.token], top, n)
    return drawn


def draw_each(logits: Array, rows: Sequence[Row], vocab_size: int | None) -> list[Drawn | BaseException]:
    """draw() of each row, or the exception that it raised. Functions of the user's are called once.  logits: (S, V)"""
    drawn: dict[int, Drawn | BaseException] = {}
    plain = [i for i, row in enumerate(rows) if not row.sampling.processors and row.constraint is None]
    if len(plain) == len(rows):
        with contextlib.suppress(Exception):  # whose it is, the loop finds out
            return [*draw(logits, rows, vocab_size)]
    elif plain:
        with contextlib.suppress(Exception):  # whose it is, the loop finds out
            drawn.update(zip(plain, draw(logits[plain], [rows[i] for i in plain], vocab_size), strict=True))
    for i in range(len(rows)):
        if i not in drawn:
            try:
                (drawn[i],) = draw(logits[i : i + 1], [rows[i]], vocab_size)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # it ends its own text
                drawn[i] = error
    return [drawn[i] for i in range(len(rows))]


def kernel_options(rows: Sequence[Row], n: int) -> dict[str, Array]:
    """What the kernel `sample` takes for each row beside its logits of n tokens."""
    samplings = [row.sampling for row in rows]
    return {
        "temperature": np.array([sampling.temperature for sampling in samplings], np.float64),
        "top_k": np.array([min(sampling.top_k or 0, n) for sampling in samplings], np.int64),
        "top_p": np.array([sampling.top_p for sampling in samplings], np.float64),
        "min_p": np.array([sampling.min_p for sampling in samplings], np.float64),
        "seed": np.array([sampling.seed for sampling in samplings], np.uint64).view(np.int64),
        "choice": np.array([row.choice for row in rows], np.int64),
        "position": np.array([len(row.tokens) for row in rows], np.int64),
    }


def is_plain(row: Row) -> bool:
    """Whether nothing but the kernel decides over a draw, and nothing but the token is wanted."""
    sampling = row.sampling
    return row.constraint is None and sampling.logprobs is None and sampling.beams == 1 and not changes_logits(sampling)


def _processed(logits: Array, rows: Sequence[Row], n: int) -> Array:
    """The logits of what is drawn: copies, where some are changed."""
    result = logits
    for i, row in enumerate(rows):
        if row.constraint is None and not changes_logits(row.sampling):
            continue
        if result is logits:
            result = logits.copy()
        tokens = np.array(row.tokens, np.int32)
        process(result[i, :n], row.sampling, tokens, row.n_prompt)
        if row.constraint is not None:
            row.constraint.apply(tokens[row.n_prompt :], result[i, :n])
    return result


def _no_token(logits: Array, processed: Array) -> GenerationError:
    largest = float(logits.max())  # NaN where one of them is
    if np.isfinite(largest):
        return GenerationError(
            f"the largest logit of the next token is {float(processed.max())} once it was changed by logit_bias, "
            "processors or a structure, so no token can be drawn; leave at least one allowed token a finite logit"
        )
    return GenerationError(
        f"the largest logit of the next token is {largest}, so no token can be drawn; the model's weights are "
        "damaged, or its training diverged"
    )


def top_logprobs(
    logits: Array, tokens: Sequence[int], n: int, vocab_size: int | None = None
) -> list[tuple[float, list[tuple[int, float]]]]:
    """For each row of logits (N, V) the log-probability of its token, and the n likeliest tokens with theirs, the
    smaller id first of equal ones: log softmax over all V."""
    logits = np.ascontiguousarray(logits)
    lse = np.empty(len(logits))
    cpu.log_sum_exp(lse=lse, logits=logits)
    found = []
    for row, token, normaliser in zip(logits, tokens, lse.tolist(), strict=True):
        top = [(index, float(row[index]) - normaliser) for index in _largest(row[:vocab_size], n)]
        found.append((float(row[token]) - normaliser, top))
    return found


def _largest(row: Array, n: int) -> list[int]:
    """The places of the n largest of a row, in order."""
    n = min(n, len(row))
    if n == 0:
        return []
    least = np.partition(row, len(row) - n)[len(row) - n]
    places = np.flatnonzero(row >= least)
    order = np.argsort(-row[places], kind="stable")[:n]
    return [int(place) for place in places[order]]
