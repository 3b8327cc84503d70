"""What the layers of a model make of a prompt: the logit lens, the surprise at each token, and activation norms.

The logit lens (nostalgebraist 2020) reads the residual stream after each block as if it were the last one: the model's
own last norm and head turn it into a distribution over the next token. After the last block that is what the model
predicts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gollm.errors import GenerationError
from gollm.kernels import Array
from gollm.language_model import LanguageModel
from gollm.model.batch import Batch
from gollm.nn.tape import no_grad, products_in
from gollm.pictures.finite import finite
from gollm.pictures.tokens import label, labels, prompt_tokens

__all__ = ["Guess", "PromptLayers", "prompt_layers"]


@dataclass(frozen=True)
class Guess:
    """A next token, in print, and its probability."""

    token: str
    probability: float


@dataclass(frozen=True)
class PromptLayers:
    """T tokens in L layers.

    ids, tokens    (T) ids and labels
    guesses        (L + 1, T) the likeliest next tokens, best first, after the embedding and after each block
    surprisal      (T) -log2 p(token | those before it), in bits; None for the first
    norms          (L + 1, T) float64: the length of the residual stream's vectors
    """

    ids: list[int]
    tokens: list[str]
    guesses: list[list[list[Guess]]]
    surprisal: list[float | None]
    norms: Array


def prompt_layers(model: LanguageModel, prompt: str, *, max_tokens: int = 32, n_guesses: int = 5) -> PromptLayers:
    """What each layer makes of the first max_tokens tokens of a prompt.

    Raises GenerationError for a prompt that is empty or longer than the context, for counts below 1, and for a model
    without a tokenizer; PictureError for logits that are not finite."""
    for name, n in (("max_tokens", max_tokens), ("n_guesses", n_guesses)):
        if type(n) is not int or n < 1:
            raise GenerationError(f"{name} is {n!r}; it must be at least 1")
    ids = prompt_tokens(model, prompt, max_tokens)
    guesses, norms, log_p = [], [], np.empty(0)
    for x, log_p in _layers(model, ids):
        guesses.append([_best(model, row, n_guesses) for row in log_p])
        norms.append(np.linalg.norm(x, axis=-1))
    told = [-float(log_p[i, token]) / math.log(2) for i, token in enumerate(ids[1:])]
    return PromptLayers(ids, labels(model.tokenizer, ids), guesses, [None, *told], np.stack(norms))


def _layers(model: LanguageModel, ids: list[int]) -> Any:
    """After the embedding and each block: the residual stream (T, C) and the lens' log p of the next token (T, V), both
    float64."""
    decoder, rows = model.decoder, range(len(ids))
    with no_grad(), products_in(decoder.compute_dtype):
        for x in decoder.residual_stream(Batch.of_sequences(np.array([ids], np.int32))):
            logits = finite(decoder.head_logits(decoder.norm(x), rows).data, "the model's logits").astype(np.float64)
            shifted = logits - logits.max(axis=-1, keepdims=True)
            yield x.data[0].astype(np.float64), shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _best(model: LanguageModel, log_p: Array, n: int) -> list[Guess]:
    """Best first; of equal ones the lower id."""
    best = np.argsort(-log_p, kind="stable")[:n]
    return [Guess(label(model.tokenizer, int(token)), float(np.exp(log_p[token]))) for token in best]
