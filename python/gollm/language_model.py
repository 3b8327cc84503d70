"""A language model as a program uses it: a decoder with its tokenizer, loaded from one file.

>>> model = gollm.load("runs/shakespeare/best.golm")     # doctest: +SKIP
>>> model.generate("ROMEO:", max_new_tokens=100)          # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gollm import generation, tokenizers
from gollm.checkpoint import CheckpointFile, open_checkpoint, write_checkpoint
from gollm.config import ModelConfig
from gollm.errors import CheckpointError, ConfigError, GenerationError
from gollm.model import Decoder
from gollm.tensor import Array
from gollm.tokenizers import Tokenizer

END_OF_TEXT = "<|endoftext|>"


class LanguageModel:
    """A decoder and its tokenizer (None for a model of bare token ids)."""

    def __init__(self, decoder: Decoder, tokenizer: Tokenizer | None = None) -> None:
        self.decoder = decoder
        self.tokenizer = tokenizer

    @property
    def config(self) -> ModelConfig:
        return self.decoder.config

    def logits(self, ids: Any) -> Array:
        """Scores of the next token after each position.  (B, T) or (T,) token ids -> (B, T, V) float32

        Raises ShapeError for more tokens than the context, KernelError for an id outside of the vocabulary."""
        return self.decoder.logits(np.atleast_2d(np.asarray(ids, dtype=np.int32)))

    def generate(
        self,
        prompt: str,
        *,
        max_new_tokens: int = 200,
        temperature: float = 0.8,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> str:
        """The text that continues the prompt (without the prompt). Temperature 0 is greedy; top_k 0 and top_p 1 keep
        all tokens.

        Ends after max_new_tokens, or at the tokenizer's end-of-text token. An empty prompt starts from end-of-text
        where the tokenizer has one. Raises GenerationError for a prompt that is longer than the context."""
        return "".join(
            self.stream(
                prompt, max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
            )
        )

    def stream(
        self,
        prompt: str,
        *,
        max_new_tokens: int = 200,
        temperature: float = 0.8,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> Iterator[str]:
        """generate() piece by piece, as tokens come; a character is never split."""
        if self.tokenizer is None:
            raise GenerationError("this model has no tokenizer; use gollm.generation.generate_tokens with token ids")
        end = self.tokenizer.special_tokens.get(END_OF_TEXT)
        ids = self.tokenizer.encode(prompt)
        if len(ids) == 0:
            if end is None:
                raise GenerationError("the prompt is empty, and this model has no end-of-text token to start from")
            ids = np.array([end], np.int32)
        tokens = generation.generate_tokens(
            self.decoder,
            ids,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seed=seed,
            stop=() if end is None else (end,),
        )
        return _decode(tokens, self.tokenizer)

    def save(self, path: str | Path) -> None:
        """Writes weights and tokenizer to one *.golm file. Raises CheckpointError."""
        write_checkpoint(
            path,
            config=self.config.to_dict(),
            tensors={name: parameter.data for name, parameter in self.decoder.parameters.items()},
            tokenizer_state=None if self.tokenizer is None else self.tokenizer.to_state(),
        )


def _decode(tokens: Iterator[int], tokenizer: Tokenizer) -> Iterator[str]:
    decoder = tokenizer.decoder()
    for token in tokens:
        text = decoder.push(token)
        if text:
            yield text
    text = decoder.finish()
    if text:
        yield text


def load(path: str | Path) -> LanguageModel:
    """The model in a *.golm file. Raises CheckpointError for a file that is missing, damaged, or of another kind."""
    with open_checkpoint(path) as file:
        return LanguageModel(load_decoder(file), load_tokenizer(file))


def load_decoder(file: CheckpointFile) -> Decoder:
    """The decoder of an open checkpoint, its weights copied into an arena of their own."""
    try:
        config = ModelConfig.from_dict(file.config)
    except ConfigError as error:
        raise CheckpointError(f"{file.path}: {error}") from None
    check_weights(file, config)
    decoder = Decoder(config)
    copy_weights(file, decoder)
    return decoder


def copy_weights(file: CheckpointFile, decoder: Decoder) -> None:
    """Puts the weights of an open checkpoint into a decoder. Raises CheckpointError unless they are of its shape."""
    check_weights(file, decoder.config)
    for name, parameter in decoder.parameters.items():
        file.copy(file.tensors[name], parameter.data)


def check_weights(file: CheckpointFile, config: ModelConfig) -> None:
    """Raises CheckpointError unless the file's weights are those of the configuration. Needs no memory for them."""
    from gollm.specs import parameter_specs

    if config.n_layers > len(file.tensors):
        raise CheckpointError(f"{file.path}: it has {len(file.tensors)} tensors, too few for {config.n_layers} layers")
    for spec in parameter_specs(config):
        if spec.name not in file.tensors:
            raise CheckpointError(f"{file.path}: the tensor '{spec.name}' is missing")
        found = file.tensors[spec.name]
        if found.shape != spec.shape or found.dtype != np.float32:
            raise CheckpointError(
                f"{file.path}: '{spec.name}' is {found.dtype} of shape {found.shape}; "
                f"this configuration needs float32 of shape {spec.shape}"
            )


def load_tokenizer(file: CheckpointFile) -> Tokenizer | None:
    """The tokenizer of an open checkpoint, or None."""
    state = file.tokenizer_state()
    return None if state is None else tokenizers.from_state(*state)
