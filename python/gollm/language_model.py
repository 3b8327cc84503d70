"""A language model as a program uses it: a decoder with its tokenizer, loaded from a file or folder.

>>> model = gollm.load("runs/shakespeare/best.golm")     # doctest: +SKIP
>>> model.generate("ROMEO:", max_new_tokens=100)          # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gollm import generation, interop
from gollm.checkpoint import write_checkpoint
from gollm.config import ModelConfig
from gollm.errors import GenerationError
from gollm.generation import GenerationDefaults
from gollm.model import Decoder
from gollm.tensor import Array
from gollm.tokenizers import StreamDecoder, Tokenizer

END_OF_TEXT = "<|endoftext|>"


class LanguageModel:
    """A decoder, its tokenizer (None for a model of bare token ids), and what its file says about generating."""

    def __init__(
        self, decoder: Decoder, tokenizer: Tokenizer | None = None, defaults: GenerationDefaults | None = None
    ) -> None:
        self.decoder = decoder
        self.tokenizer = tokenizer
        self.defaults = defaults or GenerationDefaults()

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
        return _decode(tokens, self.tokenizer.decoder(after=ids.tolist()))

    def save(self, path: str | Path) -> None:
        """Writes weights, tokenizer and defaults to one *.golm file. Raises CheckpointError."""
        write_checkpoint(
            path,
            config=self.config.to_dict(),
            generation=self.defaults.to_dict(),
            tensors={name: parameter.data for name, parameter in self.decoder.parameters.items()},
            order=self.decoder.parameters.order,
            tokenizer_state=None if self.tokenizer is None else self.tokenizer.to_state(),
        )


def _decode(tokens: Iterator[int], decoder: StreamDecoder) -> Iterator[str]:
    for token in tokens:
        text = decoder.push(token)
        if text:
            yield text
    text = decoder.finish()
    if text:
        yield text


def load(path: str | Path) -> LanguageModel:
    """The model at `path` in any format of gollm.interop, which is told by its content. Raises FormatError for one that
    is missing, damaged, or not supported."""
    with interop.open_model(path) as source:
        weights = source.weights()
        decoder = Decoder(source.config, weights=weights)
        if weights is None:
            for name, parameter in decoder.parameters.items():
                source.read(name, parameter.data)
        return LanguageModel(decoder, source.tokenizer, source.defaults)
