"""Classifiers: the probabilities of labels, and how often they are right.

With n_ij the number of texts of label i that were given label j,

    accuracy     Σ n_ii / Σ n_ij, with the standard error √(p (1 - p) / n)
    F1 of i      2 n_ii / (Σ_j n_ij + Σ_j n_ji)      macro F1: their mean
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gollm.errors import EvaluationError, TokenizerError
from gollm.evaluation.statistics import Figure
from gollm.kernels import Array
from gollm.language_model import LanguageModel
from gollm.model.batch import Batch
from gollm.nn.tape import no_grad

BATCH_TOKENS = 2048


@dataclass(frozen=True)
class Classification:
    """How well labels were told. confusion: (labels, labels) int64, a row for each true label."""

    labels: tuple[str, ...]
    confusion: Array

    @property
    def accuracy(self) -> Figure:
        n = int(self.confusion.sum())
        p = float(np.trace(self.confusion)) / n
        return Figure(p, math.sqrt(p * (1 - p) / n))

    @property
    def f1(self) -> dict[str, float]:
        """Of each label; 0 for one that neither occurs nor is told."""
        both = self.confusion.sum(axis=0) + self.confusion.sum(axis=1)
        values = 2 * np.diag(self.confusion) / np.maximum(both, 1)
        return dict(zip(self.labels, values.tolist(), strict=True))

    @property
    def macro_f1(self) -> float:
        return float(np.mean(list(self.f1.values())))


def classify(model: LanguageModel, texts: Sequence[str]) -> Array:
    """The probability of each of the model's labels for each text, which is cut where it is longer than the context.
    -> (N, labels) float32

    A text is framed as in training. Raises EvaluationError for a model that is no classifier, or has no tokenizer, and
    for a text without tokens or with a character that there is no token for."""
    config, tokenizer = model.config, model.tokenizer
    if not config.labels:
        raise EvaluationError("this model is no classifier; train one with: gollm finetune MODEL DATA --task classify")
    if tokenizer is None:
        raise EvaluationError(f"this model has no tokenizer ({model.without_tokenizer}), so it cannot read text")
    rows = []
    for number, text in enumerate(texts, 1):
        try:
            row = [*tokenizer.framing.begin, *tokenizer.encode(text)][: config.context]
        except TokenizerError as error:
            raise EvaluationError(f"text {number}: {error}") from None
        if not row:
            raise EvaluationError(f"text {number} has no tokens")
        rows.append(row)
    found = np.empty((len(rows), len(config.labels)), np.float32)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    while order:
        longest = len(rows[order[-1]])
        n = max(1, BATCH_TOKENS // longest)
        batch, order = order[-n:], order[:-n]
        inputs = np.zeros((len(batch), longest), np.int32)
        for line, i in zip(inputs, batch, strict=True):
            line[: len(rows[i])] = rows[i]
        with no_grad():
            hidden = model.decoder.hidden(Batch.of_sequences(inputs))
        last = [line * longest + len(rows[i]) - 1 for line, i in enumerate(batch)]
        logits = model.decoder.head_logits(hidden, last).data.astype(np.float64)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        found[batch] = weights / weights.sum(axis=1, keepdims=True)
    return found


def judged(labels: Sequence[str], true: Sequence[str], told: Sequence[str]) -> Classification:
    """How well labels were told. Raises EvaluationError for a true label that is none of the model's."""
    number = {label: i for i, label in enumerate(labels)}
    confusion = np.zeros((len(labels), len(labels)), np.int64)
    for one, other in zip(true, told, strict=True):
        if one not in number:
            raise EvaluationError(f"a text has the label {one!r}; the model's labels are {', '.join(labels)}")
        confusion[number[one], number[other]] += 1
    return Classification(tuple(labels), confusion)
