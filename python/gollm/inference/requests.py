"""A request: what was asked for, checked, as the texts that the scheduler runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gollm.errors import GenerationError
from gollm.inference.beam import BeamText
from gollm.inference.generation import Generation, Model, Piece, prompt_ids
from gollm.inference.sampling import Sampling
from gollm.kernels import Array


def generations(
    model: Model,
    prompt: str | Sequence[int] | Array,
    sampling: Sampling,
    deliver: Callable[[Piece | None], None],
    adapter: int = 0,
) -> list[Generation]:
    """The choices of a request, or its beam search; `adapter` is the model's number in an engine. Raises what
    prompt_ids and structured_text raise, and GenerationError for stop strings where the model has no tokenizer, and for
    log-probabilities of a beam search."""
    ids = prompt_ids(model, prompt)
    assert isinstance(sampling.stop, tuple)
    if model.tokenizer is None and any(isinstance(one, str) for one in sampling.stop):
        raise GenerationError("stop has strings, and this model has no tokenizer; give token ids")
    resolved = sampling.resolved(model.defaults)
    if resolved.beams > 1:
        found: list[Generation] = [BeamText(model, ids, resolved, deliver)]
    else:
        found = [Generation(model, ids, resolved, choice, deliver) for choice in range(resolved.n)]
    for generation in found:
        generation.adapter = adapter
    return found
