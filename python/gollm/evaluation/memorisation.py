"""How much of its training data a model can be made to recite (Carlini et al. 2023, "Quantifying Memorization Across
Neural Language Models").

The model reads `prefix` tokens of the data and writes the likeliest text. What it has memorised it continues word by
word: the share of places where the next `length` tokens are exactly those of the data. On data that the model has not
seen the same figure says how much of it can simply be guessed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gollm.data import DataSource, prepare
from gollm.errors import EvaluationError
from gollm.evaluation.choices import share
from gollm.evaluation.statistics import Figure
from gollm.inference.engine import Engine
from gollm.language_model import LanguageModel


@dataclass(frozen=True)
class MemorizationResult:
    """recited: the share of places that were continued exactly; matched: how many tokens were right before the first
    that was not, on average."""

    n_places: int
    prefix: int
    length: int
    recited: Figure
    matched: float


def memorization(
    model: LanguageModel,
    source: DataSource,
    *,
    places: int = 100,
    prefix: int = 50,
    length: int = 50,
    progress: Callable[[int], object] = lambda n: None,
) -> MemorizationResult:
    """Tries places spread evenly over a text. `progress` is called with the number of places since the last call.

    Raises EvaluationError for a text that is shorter than one place, and places longer than the context."""
    context = model.config.context
    if prefix + length > context:
        raise EvaluationError(
            f"a prefix of {prefix} tokens and {length} behind it are more than this model's context ({context}); use "
            "fewer"
        )
    if model.tokenizer is None:
        raise EvaluationError(f"this model has no tokenizer ({model.without_tokenizer}), so it cannot read text")
    tokens = prepare(source, model.tokenizer, validation_fraction=0).train
    last = len(tokens) - prefix - length
    if last < 0:
        raise EvaluationError(f"{source.name} has {len(tokens)} tokens, fewer than one place of {prefix + length}")
    starts = np.unique(np.linspace(0, last, min(places, last + 1)).astype(np.int64))
    matched = []
    with Engine(LanguageModel(model.decoder)) as engine:  # no token ends the text
        streams = []
        for start in starts.tolist():
            prompt = tokens[start : start + prefix]
            streams.append(engine.submit(prompt, temperature=0.0, max_new_tokens=length))
        for start, stream in zip(starts.tolist(), streams, strict=True):
            written = np.array(stream.result().tokens)
            true = tokens[start + prefix : start + prefix + length]
            wrong = np.flatnonzero(written != true[: len(written)])
            matched.append(int(wrong[0]) if len(wrong) else len(written))
            progress(1)
    recited = share([n == length for n in matched])
    return MemorizationResult(len(starts), prefix, length, recited, float(np.mean(matched)))
