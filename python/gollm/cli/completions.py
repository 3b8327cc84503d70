"""What was generated, as JSON can hold it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gollm.inference.generation import Completion, TokenLogprob
    from gollm.language_model import LanguageModel


def to_json(model: LanguageModel, found: Completion) -> dict[str, Any]:
    """The text, and where they were asked for, log-probabilities and the other texts."""
    values: dict[str, Any] = {"text": found.text}
    if found.logprobs is not None:
        values["logprobs"] = [_logprob(model, one) for one in found.logprobs]
    if found.choices:
        values["choices"] = [to_json(model, replace(choice, choices=())) for choice in found.choices]
    return values


def _logprob(model: LanguageModel, one: TokenLogprob) -> dict[str, Any]:
    assert model.tokenizer is not None
    top = [{"token": model.tokenizer.decode([token]), "id": token, "logprob": logprob} for token, logprob in one.top]
    values = {"token": model.tokenizer.decode([one.token]), "id": one.token, "logprob": one.logprob}
    return {**values, "top": top} if top else values
