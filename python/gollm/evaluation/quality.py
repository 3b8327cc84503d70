"""The figures of `gollm eval`: perplexity, and how far a model is from another one, such as the one it was made from.

With p the model's distribution of the next token, q the full model's, t the token of the text, means over all scored
tokens:

    cross-entropy     mean of -log p(t), in nats           perplexity   exp(cross-entropy)
    bits per byte     sum of -log2 p(t), by the bytes of the text that the scored tokens stand for
    log ratio         mean of log q(t) - log p(t)          ratio        exp(log ratio): of the two perplexities
    KL divergence     Σ q (log q - log p) of each token: its mean, median and 99th percentile
    RMS Δp            √ mean of (p(t) - q(t))²
    same top token    how often argmax p = argmax q

They are what llama.cpp's `llama-perplexity --kl-divergence` reports, from logits that are never rounded or stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from gollm.data import DataSource, prepare
from gollm.errors import EvaluationError
from gollm.evaluation.statistics import Figure, mean, quantile
from gollm.evaluation.token_scores import TokenScores, positions_of, score_tokens
from gollm.kernels import Array
from gollm.language_model import LanguageModel
from gollm.tokenizers import Tokenizer

DEFAULT_CONTEXT = 512


@dataclass(frozen=True)
class Comparison:
    """How far a model is from the full one, and the full one's perplexity, as gollm.evaluation.quality defines them."""

    cross_entropy: Figure  # the full model's
    perplexity: Figure
    log_perplexity_ratio: Figure
    perplexity_ratio: Figure
    mean_kl: Figure
    median_kl: Figure
    kl_99: Figure
    rms_delta_p: Figure
    same_top: Figure


class PositionLoss(NamedTuple):
    """The mean cross-entropy of tokens with so many tokens of their window before them: from `first` to `last`."""

    first: int
    last: int
    cross_entropy: float


@dataclass(frozen=True)
class Evaluation:
    """How well a model predicts a text. gollm.evaluation.quality defines each figure."""

    n_tokens: int  # that were scored
    n_bytes: int  # that these stand for; special tokens stand for none
    context: int
    stride: int
    cross_entropy: Figure
    perplexity: Figure
    bits_per_byte: float | None  # None where the tokens stand for no bytes
    by_position: tuple[PositionLoss, ...]  # from the window's first tokens on
    against: Comparison | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it: {"value": ..., "standard_error": ...} for figures, None for what is infinite."""
        return {name: _plain(value) for name, value in vars(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Comparison):
        return {name: _plain(figure) for name, figure in vars(value).items()}
    if isinstance(value, tuple) and not isinstance(value, Figure):  # by position
        return [one._asdict() for one in value]
    if isinstance(value, Figure):
        return {name: _plain(figure) for name, figure in value._asdict().items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def evaluate_model(
    model: LanguageModel,
    source: DataSource,
    *,
    against: LanguageModel | None = None,
    context: int | None = None,
    stride: int | None = None,
    max_tokens: int | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Evaluation:
    """Evaluates a model on a text, which is tokenised and framed as training data is, in windows of `context` tokens
    (default: the models' context, at most 512) that begin `stride` tokens apart (default: `context`).

    `against` is the full model, with the same vocabulary. At most `max_tokens` are scored. `progress` is called with
    (tokens scored, tokens to score). Raises EvaluationError for models without a tokenizer or with different
    vocabularies, for a text that is too short, and for logits that are not finite; what gollm.data.prepare raises for a
    text that cannot be read, and what score_tokens raises."""
    tokenizer = _common_tokenizer(model, against)
    full = None if against is None else against.decoder
    longest = model.config.context if full is None else min(model.config.context, full.config.context)
    context = min(DEFAULT_CONTEXT, longest) if context is None else context
    stride = context if stride is None else stride
    found = prepare(source, tokenizer, validation_fraction=0).train
    tokens = found[: len(found) if max_tokens is None else max_tokens + 1]
    n = len(tokens) - 1
    if n < 1:
        raise EvaluationError(
            f"{source.name} has {len(tokens)} token, and the first one is never scored; evaluate on a longer text"
        )
    done = 0

    def count(scored: int) -> None:
        nonlocal done
        done += scored
        progress(done, n)

    scores = score_tokens(model.decoder, tokens, full, context=context, stride=stride, progress=count)
    n_bytes = tokenizer.count_bytes(tokens) - tokenizer.count_bytes(tokens[:1])
    entropy = mean(-scores.log_probs)
    bits = None if n_bytes == 0 else entropy.value * n / math.log(2) / n_bytes
    comparison = None if full is None else _comparison(scores)
    by_position = _by_position(-scores.log_probs, positions_of(n, context, stride))
    return Evaluation(n, n_bytes, context, stride, entropy, entropy.exp(), bits, by_position, comparison)


def _by_position(losses: Array, positions: Array) -> tuple[PositionLoss, ...]:
    """Means over 1, 2, 4, 8 ... positions: the first token's, those with 2 and 3 tokens before them, 4 to 7 ..."""
    octaves = np.floor(np.log2(positions + 1)).astype(np.int64)
    found = []
    for octave in np.unique(octaves).tolist():
        chosen = octaves == octave
        first, last = 1 << octave, min((2 << octave) - 1, int(positions.max()) + 1)
        found.append(PositionLoss(first, last, float(losses[chosen].mean())))
    return tuple(found)


def _comparison(scores: TokenScores) -> Comparison:
    log_p, log_q, kl, same_top = scores
    assert log_q is not None and kl is not None and same_top is not None
    entropy, log_ratio = mean(-log_q), mean(log_q - log_p)
    return Comparison(
        cross_entropy=entropy,
        perplexity=entropy.exp(),
        log_perplexity_ratio=log_ratio,
        perplexity_ratio=log_ratio.exp(),
        mean_kl=mean(kl),
        median_kl=quantile(kl, 0.5),
        kl_99=quantile(kl, 0.99),
        rms_delta_p=mean((np.exp(log_p) - np.exp(log_q)) ** 2).sqrt(),
        same_top=mean(same_top),
    )


def _common_tokenizer(model: LanguageModel, full: LanguageModel | None) -> Tokenizer:
    """The models' tokenizer. Raises EvaluationError for none, or two with different tokens."""
    found = [one.tokenizer for one in (model, full) if one is not None and one.tokenizer is not None]
    if not found:
        why = f" ({model.without_tokenizer})" if model.without_tokenizer else ""
        raise EvaluationError(f"this model has no tokenizer{why}; name one with --tokenizer")
    first, last = found[0].vocabulary, found[-1].vocabulary
    n = min(len(first), len(last))  # one may have names for padding
    if not np.array_equal(first.offsets[: n + 1], last.offsets[: n + 1]) or not np.array_equal(
        first.tokens[: first.offsets[n]], last.tokens[: last.offsets[n]]
    ):
        raise EvaluationError(
            "the models' tokenizers have different tokens; only models with the same vocabulary can be compared"
        )
    return found[0]
