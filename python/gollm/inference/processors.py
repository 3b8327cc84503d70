"""What changes logits before a token is drawn: steps 1 to 4 of gollm.Sampling, in order.

Each takes the logits (V,) of one text and changes them in place.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gollm.errors import GenerationError
from gollm.inference.sampling import Processor, Sampling
from gollm.kernels import Array
from gollm.system.strict_json import shorten


def changes_logits(sampling: Sampling) -> bool:
    """Whether process() does anything."""
    return bool(
        sampling.logit_bias
        or sampling.repetition_penalty != 1
        or sampling.presence_penalty
        or sampling.frequency_penalty
        or sampling.processors
    )


def process(logits: Array, sampling: Sampling, tokens: Array, n_prompt: int) -> None:
    """All of them. tokens: (T,) int32, the prompt and the text so far.

    Raises GenerationError for a token of logit_bias that the model does not have, and for a processor whose result
    cannot be logits; and whatever a processor raises."""
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):  # to infinity, or NaN, which the draw refuses
        _process(logits, sampling, tokens, n_prompt)


def _process(logits: Array, sampling: Sampling, tokens: Array, n_prompt: int) -> None:
    if sampling.logit_bias:
        add_bias(logits, sampling.logit_bias)
    if sampling.repetition_penalty is not None and sampling.repetition_penalty != 1:
        penalise_repetition(logits, tokens, sampling.repetition_penalty)
    if sampling.presence_penalty or sampling.frequency_penalty:
        penalise_frequency(logits, tokens[n_prompt:], sampling.presence_penalty, sampling.frequency_penalty)
    for processor in sampling.processors:
        run(processor, tokens, logits)


def add_bias(logits: Array, bias: Mapping[int, float]) -> None:
    largest = max(bias)
    if largest >= len(logits):
        raise GenerationError(
            f"logit_bias has the token {shorten(largest)}; this model has the tokens from 0 to {len(logits) - 1}"
        )
    logits[list(bias)] += np.fromiter(bias.values(), logits.dtype, len(bias))


def penalise_repetition(logits: Array, tokens: Array, penalty: float) -> None:
    seen = np.unique(tokens)
    seen = seen[seen < len(logits)]
    z = logits[seen]
    logits[seen] = np.where(z > 0, z / penalty, z * penalty)


def penalise_frequency(logits: Array, generated: Array, presence: float, frequency: float) -> None:
    seen, counts = np.unique(generated, return_counts=True)
    logits[seen] -= (presence + counts * frequency).astype(logits.dtype)


def run(processor: Processor, tokens: Array, logits: Array) -> None:
    """A function of the user's, whose result may be other logits."""
    result = processor(tokens, logits)
    if result is None or result is logits:
        return
    try:
        logits[...] = np.asarray(result).reshape(logits.shape)
    except (TypeError, ValueError):
        raise GenerationError(
            f"a processor has returned {shorten(result)}; it must return None or {len(logits)} logits"
        ) from None
