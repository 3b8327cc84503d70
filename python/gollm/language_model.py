"""A language model as a program uses it: a decoder with its tokenizer, loaded from a file or folder.

>>> model = gollm.load("runs/shakespeare/best.golm")     # doctest: +SKIP
>>> model.generate("ROMEO:", max_new_tokens=100)          # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gollm import formats
from gollm.errors import CheckpointError, ConfigError, FormatError, GenerationError
from gollm.formats.peft import adapter_in, read_adapter, with_template
from gollm.formats.source import Packed
from gollm.inference.chat import chat_sampling
from gollm.inference.chat_template import Messages, template_of
from gollm.inference.engine import pieces
from gollm.inference.generation import prompt_ids
from gollm.inference.sampling import Sampling, check_text_only
from gollm.kernels import Array, cpu
from gollm.model.batch import Batch
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder
from gollm.model.generation_defaults import GenerationDefaults
from gollm.model.lora import added_to, has_adapter, with_adapter
from gollm.model.token_ids import token_ids
from gollm.nn import dtypes
from gollm.nn.devices import DeviceName, ModelDType, kernels_of
from gollm.nn.products import group_of
from gollm.nn.storage import ROW_MAJOR
from gollm.nn.tape import no_grad
from gollm.quantisation import plain_values
from gollm.system.files import as_path
from gollm.system.strict_json import shorten
from gollm.tokenizers import Tokenizer


class LanguageModel:
    """A decoder, its tokenizer (None for a model of bare token ids), and what its file says about generating."""

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Tokenizer | None = None,
        defaults: GenerationDefaults | None = None,
        without_tokenizer: str = "",  # why the file's tokenizer could not be used
    ) -> None:
        self.decoder = decoder
        self.tokenizer = tokenizer
        self.defaults = defaults or GenerationDefaults()
        self.without_tokenizer = without_tokenizer

    def __repr__(self) -> str:
        tokenizer = "None" if self.tokenizer is None else type(self.tokenizer).__name__
        return f"LanguageModel({self.decoder.summary()}, tokenizer={tokenizer})"

    @property
    def config(self) -> ModelConfig:
        return self.decoder.config

    def logits(self, ids: Any) -> Array:
        """Scores of the next token after each position.  (B, T) or (T,) token ids -> (B, T, V) float32

        Raises ShapeError for more tokens than the context or another shape, DTypeError for ids that are not integers,
        TokenizerError for an id outside the vocabulary."""
        return self.decoder.logits(np.atleast_2d(token_ids(ids, self.config.vocab_size)))

    def generate(self, prompt: str, sampling: Sampling | None = None, **options: Any) -> str:
        """The text that continues the prompt (without the prompt). `options` are fields of gollm.Sampling, such as
        max_new_tokens, temperature, top_k, top_p and seed; they replace those of `sampling`. What neither says is the
        model's own recommendation.

        The prompt is framed as documents are in training: the ids of the tokenizer's `framing.begin`, such as a BOS
        token, come first. Special tokens that are spelled in the prompt are plain text. Generation ends after
        max_new_tokens, or at one of the model's stop tokens or the tokenizer's `framing.end`. An empty prompt starts
        from `framing.begin`, or else from the model's BOS token or `framing.end`.
        The same seed, from 0 to 2^64 - 1, gives the same text. Raises GenerationError for a prompt that is longer than
        the context or has a token that the model does not, and for logits that are NaN."""
        return "".join(self.stream(prompt, sampling, **options))

    def stream(self, prompt: str, sampling: Sampling | None = None, **options: Any) -> Iterator[str]:
        """generate() piece by piece, as tokens come; a character is never split. Many texts at once, token ids,
        log-probabilities and more: gollm.Engine."""
        if not isinstance(prompt, str):
            raise GenerationError(f"the prompt is {shorten(prompt)}; it must be text (str)")
        chosen = Sampling.of(sampling, options)
        check_text_only(chosen, "here")
        return (piece.text for piece in pieces(self, prompt, chosen) if piece.text)

    def chat(
        self,
        messages: Messages,
        sampling: Sampling | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template: str | None = None,
        **options: Any,
    ) -> str:
        """The assistant's answer to messages such as {"role": "user", "content": "Hello"}, by the model's chat
        template: the one named `template`, or the default. Special tokens that are spelled in messages are plain text.
        An answer ends at a stop token, after max_new_tokens (1024 where nobody says), or where the context is full.

        gollm.Conversation keeps the turns and what is computed for them. Raises GenerationError for a model without a
        chat template, for messages that are not allowed, and for a prompt that is longer than the context."""
        ids = template_of(self, template, tools=tools is not None).ids(messages, tools=tools)
        chosen = chat_sampling(self, Sampling.of(sampling, options), len(ids))
        return "".join(piece.text for piece in pieces(self, ids, chosen))

    def embed(self, texts: str | Sequence[str], *, pooling: str = "mean", normalize: bool = False) -> Array:
        """One vector for each text, from the last norm's output at its tokens.  -> (B, C) float32

        `pooling` is "mean" over the tokens, or "last", the last token's. With `normalize` each vector has the length 1.
        A text is framed as a prompt is. Raises GenerationError for an empty text, one that is longer than the context,
        and another pooling."""
        if pooling not in ("mean", "last"):
            raise GenerationError(f"pooling is {shorten(pooling)}; it must be 'mean' or 'last'")
        if not isinstance(texts, str | Sequence):
            raise GenerationError(f"the texts are {shorten(texts)}; they must be text (str), or a list of it")
        vectors = np.empty((1 if isinstance(texts, str) else len(texts), self.config.d_model), np.float32)
        for row, text in zip(vectors, [texts] if isinstance(texts, str) else texts, strict=True):
            if not isinstance(text, str):
                raise GenerationError(f"a text is {shorten(text)}; it must be text (str)")
            ids = np.array([prompt_ids(self, text)], np.int32)
            with no_grad():
                hidden = self.decoder.hidden(Batch.of_sequences(ids)).data[0]  # (T, C)
            row[:] = hidden[-1] if pooling == "last" else hidden.mean(axis=0)
        if normalize:
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    def with_adapter(self, path: str | Path) -> LanguageModel:
        """This model with the adapter (a LoRA in peft's files) in a folder or a run, computed beside its weights, which
        both models share and which stay quantised: for several adapters on one model in memory.

        Raises FormatError for an adapter that is missing, damaged, of another kind or for another model, ConfigError
        where this model has one already."""
        if has_adapter(self.decoder):
            raise ConfigError("this model has an adapter already; call with_adapter() of the model without one")
        folder = adapter_in(as_path(path, FormatError))
        if folder is None:
            raise FormatError(f"there is no adapter in {path}: no adapter_config.json")
        adapter = read_adapter(folder, self.config)
        decoder = with_adapter(self.decoder, adapter.scale, adapter.weights)
        return LanguageModel(decoder, self.tokenizer, with_template(self.defaults, folder), self.without_tokenizer)

    def save(self, path: str | Path) -> None:
        """Writes weights, tokenizer and defaults to one *.golm file; adapters are added to the weights. Raises
        CheckpointError."""
        parameters, added = self.decoder.parameters, added_to(self.decoder)

        def read(name: str, out: Array) -> None:
            out[...] = plain_values(parameters[name])
            for begin, rows in added.get(name, ()):
                out[begin : begin + len(rows)] += rows

        def packed(name: str) -> Packed | None:
            storage = parameters[name].storage
            if storage.layout == ROW_MAJOR or name in added:
                return None
            return Packed(storage.dtype, group_of(storage), lambda: storage.to(cpu))

        source = formats.Source(self.config, read, self.tokenizer, self.defaults, packed=packed)
        formats.format_named("golm").write(source, as_path(path, CheckpointError), "f32")


def load(
    path: str | Path,
    *,
    tokenizer: Tokenizer | str | Path | None = None,
    context: int | None = None,
    rope_scaling: str | None = None,
    dequantise: bool = False,
    device: DeviceName = "cpu",
    dtype: ModelDType = "float32",
    any_tokenizer: bool = False,
) -> LanguageModel:
    """The model at `path` in any format of gollm.formats, which is told by its content; a run folder's best checkpoint.

    `tokenizer`, one that is loaded or a file's name, replaces the model's own, or stands for the one that its
    format does not have; one with far fewer tokens than the model is refused unless `any_tokenizer`. `context` is
    another number of tokens than the model is for; `rope_scaling` ("linear", "llama3" or "none") says how the
    positions of a longer one are rotated: see ModelConfig.with_context. Weights that are quantised or stored in 16
    bits are used as they are, and cannot be trained; with `dequantise` they become float32, which can, and takes
    several times the memory. `device` is where it computes: "cpu", "cuda", or "auto" for a GPU where there is one;
    there `dtype` may be "bfloat16", and such a model cannot be trained either. Raises DeviceError for a device that
    is not there, FormatError for a model that is missing, damaged or not supported, TokenizerError for such a
    tokenizer, ConfigError for a context that it cannot have."""
    if rope_scaling is not None and context is None:
        raise ConfigError(f"rope_scaling is {rope_scaling!r}, but there is no context to scale to; give both")
    kernels = kernels_of(device, dtype)
    with formats.open_model(path, tokenizer, any_tokenizer=any_tokenizer) as source:
        config = source.config if context is None else source.config.with_context(context, rope_scaling)
        weights = source.weights()
        decoder = Decoder(config, weights=weights)
        if weights is None:
            stored = source.as_stored()
            found = {} if dequantise else {name: stored.packed(name) for name in decoder.parameters}
            plain = (dtypes.bfloat16, dtypes.float16) if dtype == "bfloat16" else ()  # to be rounded like the others
            packed = {n: weight.storage() for n, weight in found.items() if weight and weight.dtype not in plain}
            decoder.parameters.freeze(packed)
            decoder.parameters.let_go(packed)
            for name, parameter in decoder.parameters.items():
                if name not in packed:
                    source.read(name, parameter.data)
        if not kernels.is_cpu:
            if dtype == "bfloat16":
                decoder.parameters.freeze(decoder.parameters)
            decoder.to(kernels, getattr(dtypes, dtype))
        return LanguageModel(decoder, source.tokenizer, source.defaults, source.without_tokenizer)
