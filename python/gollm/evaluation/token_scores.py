"""The log-probability that a model gives to each token of a text, and how it differs from another model's predictions.

A text longer than the context is cut into windows of `context` tokens, which begin `stride` tokens apart. A window
predicts the token after each of its own, and scores those that no earlier window has scored: every token but the first
is scored once. With stride = context the windows do not overlap.

    tokens  0 1 2 3 4 5 6        context 4, stride 2
    window  0 1 2 3              scores 1 2 3 4
                2 3 4 5          scores 5 6
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from gollm.errors import ConfigError, EvaluationError
from gollm.kernels import Array
from gollm.model.batch import Batch
from gollm.model.decoder import Decoder
from gollm.model.token_ids import token_ids
from gollm.nn.tape import no_grad
from gollm.nn.tensor import Tensor

BATCH_TOKENS = 1024  # of a forward pass, for models of a short context
CHUNK_LOGITS = 1 << 22  # held at a time: 32 MB a model, and as much again for each array of the comparison


class TokenScores(NamedTuple):
    """One value for each of n scored tokens, float64. Without a full model the last three are None.

    log_probs       log p(token) of the model
    full_log_probs  log p(token) of the full model
    kl              KL(full || model) of the two distributions that predict the token, in nats
    same_top        whether both models' likeliest token is the same, as 0 or 1
    """

    log_probs: Array
    full_log_probs: Array | None = None
    kl: Array | None = None
    same_top: Array | None = None


def score_tokens(
    decoder: Decoder,
    tokens: Array,
    full: Decoder | None = None,
    *,
    context: int,
    stride: int | None = None,
    progress: Callable[[int], object] = lambda n: None,
) -> TokenScores:
    """The scores of all tokens (n + 1) but the first. All logits of a model count, those of padding rows too, as in
    training's loss. `progress` is called with the number of tokens that have been scored since the last call.

    `stride` is `context` unless given. Raises ConfigError for windows longer than a model's context and a stride
    outside 1 to `context`, EvaluationError for logits that are not finite and models with different vocabulary sizes,
    TokenizerError for an id outside the vocabulary."""
    stride = context if stride is None else stride
    decoders = [decoder] if full is None else [decoder, full]
    longest = min(model.config.context for model in decoders)
    if not 1 <= context <= longest:
        raise ConfigError(f"context is {context}; it must be from 1 to the model's context ({longest})")
    if not 1 <= stride <= context:
        raise ConfigError(f"stride is {stride}; it must be from 1 to the context of a window ({context})")
    refuse_classifier(*decoders)
    sizes = [model.config.vocab_size for model in decoders]
    if len(set(sizes)) > 1:
        raise EvaluationError(
            f"the models have vocabularies of {sizes[0]:,} and {sizes[1]:,} tokens; only models with the same "
            "vocabulary can be compared"
        )
    tokens = token_ids(tokens, sizes[0])
    scores = np.empty((1 if full is None else 4, max(0, len(tokens) - 1)))
    at = 0
    for targets, log_p, *of_full in _distributions(decoders, tokens, context, stride):
        n = len(targets)
        rows = np.arange(n)
        part = scores[:, at : at + n]
        part[0] = log_p[rows, targets]
        if of_full:
            (log_q,) = of_full
            part[1] = log_q[rows, targets]
            part[3] = log_p.argmax(axis=1) == log_q.argmax(axis=1)
            np.subtract(log_q, log_p, out=log_p)
            part[2] = np.einsum("nv,nv->n", np.exp(log_q, out=log_q), log_p)  # Σ q (log q - log p)
        at += n
        progress(n)
    return TokenScores(*scores)


def refuse_classifier(*decoders: Decoder) -> None:
    """Raises EvaluationError for a model that predicts labels instead of tokens."""
    if any(decoder.config.labels for decoder in decoders):
        raise EvaluationError("this model is a classifier, which predicts no tokens; use gollm classify")


class _Window(NamedTuple):
    start: int
    stop: int
    n_scored: int  # the tokens after its last ones

    @property
    def shape(self) -> tuple[int, int]:
        return self.stop - self.start, self.n_scored


def _windows(n: int, context: int, stride: int) -> Iterator[_Window]:
    """The windows that score n tokens behind a first one."""
    scored = 0
    for start in range(0, n, stride):
        stop = min(start + context, n)
        yield _Window(start, stop, stop - scored)
        scored = stop
        if stop == n:
            return


def positions_of(n: int, context: int, stride: int) -> Array:
    """How many tokens of its window stand before each of n scored tokens, less one: (n,) int64

    >>> positions_of(6, context=4, stride=2).tolist()
    [0, 1, 2, 3, 2, 3]
    """
    windows = _windows(n, context, stride)
    parts = [np.arange(one.stop - one.start - one.n_scored, one.stop - one.start) for one in windows]
    return np.concatenate(parts)


def _distributions(decoders: list[Decoder], tokens: Array, context: int, stride: int) -> Iterator[tuple[Array, ...]]:
    """Targets (N), and of each decoder log p (N, V) float64, for all scored tokens in order, a chunk at a time."""
    windows = _windows(len(tokens) - 1, context, stride)
    for (_, n_scored), alike in itertools.groupby(windows, lambda window: window.shape):
        while batch := list(itertools.islice(alike, max(1, BATCH_TOKENS // context))):
            inputs = np.stack([tokens[window.start : window.stop] for window in batch])
            targets = np.concatenate([tokens[window.stop - n_scored + 1 : window.stop + 1] for window in batch])
            hidden = [_hidden(decoder, inputs) for decoder in decoders]
            T = inputs.shape[1]
            rows = np.arange(inputs.size).reshape(-1, T)[:, T - n_scored :].reshape(-1)  # each window's last tokens
            size = max(1, CHUNK_LOGITS // decoders[0].config.vocab_size)
            for i in range(0, len(targets), size):
                part = slice(i, i + size)
                pairs = zip(decoders, hidden, strict=True)
                yield targets[part], *(log_softmax(decoder.head_logits(x, rows[part]).data) for decoder, x in pairs)


def _hidden(decoder: Decoder, inputs: Array) -> Tensor:
    """(B, T) tokens -> (B, T, C)"""
    with no_grad():
        return decoder.hidden(Batch.of_sequences(inputs))


def log_softmax(logits: Array) -> Array:
    """log p = x - log Σ exp x, in double precision.  (N, V) -> (N, V)"""
    x = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):  # inf - inf
        x -= x.max(axis=1, keepdims=True)
    if not np.isfinite(x).all():
        raise EvaluationError(
            "some logits are NaN or infinite, so tokens have no probability; the model's weights are damaged, or its "
            "training diverged"
        )
    x -= np.log(np.exp(x).sum(axis=1, keepdims=True))
    return x
