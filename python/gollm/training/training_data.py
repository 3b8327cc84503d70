"""What a trainer trains on and is judged by, in a form that does not depend on where it comes from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gollm.data import Sampler, TokenDataset, evaluation_batches
from gollm.errors import ConfigError, TokenizerError
from gollm.kernels import Array
from gollm.language_model import LanguageModel
from gollm.model.decoder import Decoder
from gollm.model.generation_defaults import GenerationDefaults
from gollm.tokenizers import Tokenizer
from gollm.training.objective import Batches
from gollm.training.options import LoopOptions
from gollm.training.run_folder import RunFolder

MANY_TOKENS = 1 << 20  # of the training data, searched for the tokens that a sample may start from
PROMPT_TOKENS = 8  # of validation text


class FrozenWeights(NamedTuple):
    """Where they come from, and what names their content."""

    model: str
    fingerprint: str

    @classmethod
    def of(cls, decoder: Decoder, model: str) -> FrozenWeights:
        """Those of a decoder on the CPU. It takes half a second for a gigabyte."""
        digest = hashlib.sha256(b"frozen weights")
        for name, parameter in decoder.parameters.items():
            if not parameter.requires_grad:
                storage = parameter.storage
                digest.update(f"{name} {storage.dtype} {storage.layout} {storage.shape}\n".encode())
                digest.update(np.ascontiguousarray(storage.array).data)
        return cls(model, digest.hexdigest())


@dataclass(frozen=True)
class TrainingData:
    """Batches to train on, and what the model is judged by on the way.

    batches      where the batches of a step come from
    validation   (inputs, targets) of each batch of an evaluation, always the same
    fingerprint  names the validation data's content
    prompt       the ids that a sample continues; none: there are no samples
    shown        their text, as far as a sample shows it
    defaults     what the model's file will say about generating; its stop tokens end a sample
    bytes_per_target  of the validation text, on average; None: its bytes are not counted
    frozen       the weights that are not trained, of a run with adapters
    each_checkpoint  without validation data, save the model with each checkpoint, as the best so far
    save         writes the best model so far to the run folder
    """

    batches: Batches
    validation: Sequence[tuple[Array, Array]]
    fingerprint: str
    prompt: Array
    shown: str = ""
    defaults: GenerationDefaults | None = None
    bytes_per_target: float | None = None
    frozen: FrozenWeights | None = None
    each_checkpoint: bool = False
    save: Callable[[LanguageModel, RunFolder], None] = lambda model, folder: model.save(folder.best_path)


def sampler_of(data: TokenDataset, options: LoopOptions, context: int) -> Sampler:
    """The windows of the training data, in the order that the seed gives."""
    return Sampler(data.train, batch_size=options.batch_size, context=context, seed=options.seed)


def of_tokens(
    data: TokenDataset, tokenizer: Tokenizer, options: LoopOptions, context: int, batches: Batches | None = None
) -> TrainingData:
    """Windows of `context` tokens that predict the next one. `batches` are those of sampler_of() unless given."""
    enough = len(data.validation) > context
    validation = (
        list(evaluation_batches(data.validation, options.batch_size, context, options.eval_batches)) if enough else []
    )
    prompt, shown = _prompt(data, tokenizer, options.sample_prompt, context)
    return TrainingData(
        batches=batches or sampler_of(data, options, context),
        validation=validation,
        fingerprint=data.validation.fingerprint,
        prompt=prompt,
        shown=shown,
        bytes_per_target=_bytes_per_target(tokenizer, [targets for _, targets in validation]),
    )


def _bytes_per_target(tokenizer: Tokenizer, targets: Sequence[Array]) -> float | None:
    n_bytes = sum(tokenizer.count_bytes(ids.reshape(-1)) for ids in targets)
    return n_bytes / sum(ids.size for ids in targets) if n_bytes else None


def _prompt(data: TokenDataset, tokenizer: Tokenizer, text: str, context: int) -> tuple[Array, str]:
    """The tokens of a sample's prompt, framed as the data's documents are, and what is shown of it.

    Without a text: what comes before a document's first token. Where the training data never has that, a new line, or
    else the beginning of the validation text."""
    framing = tokenizer.framing
    ids = np.array([*framing.begin, *tokenizer.encode(text)], np.int32)
    if len(ids) > context:
        raise ConfigError(
            f"--sample-prompt has {len(ids)} tokens, more than the model's context ({context}); shorten it"
        )
    if len(ids):
        return ids, text
    looked_at = data.train[:MANY_TOKENS]
    # A single long text without a begin has taught the model nothing of its end.
    if framing.end and framing.end[0] in looked_at:
        return np.array(framing.start, np.int32), ""
    if len(line := _new_line(tokenizer)) and np.isin(line, looked_at).all():
        return line, ""
    beginning = (data.validation if len(data.validation) else data.train)[: min(PROMPT_TOKENS, context)]
    return beginning, tokenizer.decode(beginning)


def _new_line(tokenizer: Tokenizer) -> Array:
    """Its tokens, none where the tokenizer does not know it."""
    try:
        line = tokenizer.encode("\n")
    except TokenizerError:
        return np.empty(0, np.int32)
    return line[:0] if np.isin(line, list(tokenizer.special_tokens.values())).any() else line
