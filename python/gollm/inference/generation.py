"""A text that is being generated: what was asked for, the tokens so far, when it ends, and the pieces of its text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from gollm.errors import GenerationError, ShapeError
from gollm.inference.drawing import Drawn, Row
from gollm.inference.sampling import Sampling
from gollm.inference.stopping import StopStrings
from gollm.inference.structured import structured_text
from gollm.kernels import Array
from gollm.model.decoder import Decoder
from gollm.model.generation_defaults import GenerationDefaults
from gollm.model.token_ids import token_ids
from gollm.system.strict_json import shorten
from gollm.tokenizers import Tokenizer

FinishReason = Literal["stop", "length", "cancelled"]


class Model(Protocol):
    """What generation needs of a model: gollm.LanguageModel has it."""

    @property
    def decoder(self) -> Decoder: ...
    @property
    def tokenizer(self) -> Tokenizer | None: ...
    @property
    def defaults(self) -> GenerationDefaults: ...
    @property
    def without_tokenizer(self) -> str: ...


def check_model(model: Model) -> None:
    """Raises GenerationError for an object that is no model."""
    if not all(hasattr(model, name) for name in ("decoder", "tokenizer", "defaults")):
        raise GenerationError(f"the model is {shorten(model)}; it must be one that gollm.load returns")


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The logarithm of a token's probability in the model's own distribution: the log softmax of its logits, whatever
    the sampling. `top` has the likeliest tokens with theirs. The first token of a prompt has none."""

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """A token and the text that it completes, which is often empty; or at the end text without a token."""

    text: str
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None
    choice: int = 0


@dataclass(frozen=True)
class Completion:
    """A text that was generated.

    text           without the prompt; "" where the model has no tokenizer
    tokens         its ids; of the one that ended it only where it is part of a stop string
    finish_reason  "stop": at a stop token or a stop string; "length": after max_new_tokens, or where the context was
                   full and that ends a text; "cancelled"
    logprobs       of each token, where they were asked for
    prompt_tokens, prompt_logprobs   the same of the prompt
    choices        all of them, this one first, where more than one was asked for
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason
    logprobs: tuple[TokenLogprob, ...] | None
    prompt_tokens: tuple[int, ...]
    prompt_logprobs: tuple[TokenLogprob, ...] | None
    choices: tuple[Completion, ...] = ()

    def with_choices(self, choices: tuple[Completion, ...]) -> Completion:
        return replace(self, choices=choices) if len(choices) > 1 else self


class Generation:
    """One choice of a request.

    tokens      the prompt and the text so far
    row         what a draw of its next token depends on
    start       how many tokens were forgotten, because the context was full
    adapter     the number of the adapter that it is computed with, 0 for none
    deliver     gets each piece, and None at the end
    """

    def __init__(
        self, model: Model, prompt: list[int], sampling: Sampling, choice: int, deliver: Callable[[Piece | None], None]
    ) -> None:
        tokenizer, context = model.tokenizer, model.decoder.config.context
        assert sampling.max_new_tokens is not None
        self.tokens = list(prompt)
        self.n_prompt = len(prompt)
        self.sampling = sampling
        self.start = self.adapter = 0
        self.forgets = sampling.context_full == "forget"
        self.max_new_tokens = sampling.max_new_tokens
        if not self.forgets:
            self.max_new_tokens = min(self.max_new_tokens, context - self.n_prompt)
        self.prompt_logprobs: list[TokenLogprob] = []
        self.finish_reason: FinishReason | None = None
        self.error: BaseException | None = None
        self.cancelled = False  # asked for, by any thread
        self._deliver = deliver
        self._text: list[str] = []
        self._logprobs: list[TokenLogprob] | None = None if sampling.logprobs is None else []
        self._decoder = None if tokenizer is None else tokenizer.decoder(after=prompt)
        assert isinstance(sampling.stop, tuple)  # since Sampling has checked it
        self._strings = [one for one in sampling.stop if isinstance(one, str)]
        self._stop_strings = StopStrings(self._strings) if self._strings else None
        self._stop_tokens = {*model.defaults.stop_tokens, *(one for one in sampling.stop if not isinstance(one, str))}
        if tokenizer is not None:
            self._stop_tokens.update(tokenizer.framing.end[:1])
        self._structure = structured_text(sampling, tokenizer, sorted(self._stop_tokens))
        self.row = Row(sampling, self.tokens, self.n_prompt, choice, self._structure)

    @property
    def finished(self) -> bool:
        return self.finish_reason is not None or self.error is not None

    @property
    def n_new(self) -> int:
        return len(self.tokens) - self.n_prompt

    def accept(self, drawn: Drawn) -> None:
        """The next token: it ends the text, or is part of it."""
        token = drawn.token
        if token in self._stop_tokens:
            self.finish("stop")
            return
        self.tokens.append(token)
        text, stopped = "" if self._decoder is None else self._decoder.push(token), False
        if self._stop_strings is not None:
            text, stopped = self._stop_strings.push(text)
        logprobs = None
        if self._logprobs is not None:
            logprobs = (TokenLogprob(token, drawn.logprob, tuple(drawn.top or ())),)
            self._logprobs += logprobs
        self._text.append(text)
        self._deliver(Piece(text, (token,), logprobs, self.row.choice))
        if stopped:
            self._end("stop")
        elif self.n_new == self.max_new_tokens:
            self.finish("length")

    def finish(self, reason: FinishReason) -> None:
        """Ends the text with what has been held back of it."""
        rest, stopped = "" if self._decoder is None else self._decoder.finish(), False
        if self._stop_strings is not None:
            rest, stopped = self._stop_strings.push(rest)
            rest += "" if stopped else self._stop_strings.finish()
        if rest:
            self._text.append(rest)
            self._deliver(Piece(rest, choice=self.row.choice))
        self._end("stop" if stopped else reason)

    def fail(self, error: BaseException) -> None:
        self.error = error

    def _end(self, reason: FinishReason) -> None:
        self.finish_reason = reason

    def announce_end(self) -> None:
        """To be called when nothing in the cache is the text's any more."""
        self._deliver(None)

    def completion(self) -> Completion:
        """Of a text that has ended."""
        assert self.finish_reason is not None
        return Completion(
            text="".join(self._text),
            tokens=tuple(self.tokens[self.n_prompt :]),
            finish_reason=self.finish_reason,
            logprobs=None if self._logprobs is None else tuple(self._logprobs),
            prompt_tokens=tuple(self.tokens[: self.n_prompt]),
            prompt_logprobs=None if self.sampling.prompt_logprobs is None else tuple(self.prompt_logprobs),
        )


def prompt_ids(model: Model, prompt: str | Sequence[int] | Array) -> list[int]:
    """The ids of a prompt: a text's, framed as documents are in training, or ids as they are given.

    Raises GenerationError for an empty prompt, one that is longer than the context, and a text whose tokens the model
    does not have; and what token_ids raises."""
    config = model.decoder.config
    if config.labels:
        raise GenerationError("this model is a classifier, which writes no text; use gollm classify")
    if isinstance(prompt, str):
        ids = _ids_of_text(model, prompt)
    else:
        array = token_ids(prompt, config.vocab_size)
        if array.ndim != 1:
            raise ShapeError(f"the prompt has the shape {array.shape}; it must be one list of token ids")
        ids = array.tolist()
        if not ids:
            raise GenerationError("the prompt is empty; give at least one token")
    if len(ids) > config.context:
        raise GenerationError(
            f"the prompt has {len(ids)} tokens, more than this model's context ({config.context}); shorten the prompt"
        )
    return ids


def _ids_of_text(model: Model, prompt: str) -> list[int]:
    if model.tokenizer is None:
        why = f" ({model.without_tokenizer})" if model.without_tokenizer else ""
        raise GenerationError(f"this model has no tokenizer{why}; give token ids to gollm.Engine(model).submit")
    framing = model.tokenizer.framing
    ids = [*framing.begin, *model.tokenizer.encode(prompt).tolist()]
    if not ids:
        ids = list(framing.start if model.defaults.bos_token is None else [model.defaults.bos_token])
    if not ids:
        raise GenerationError("the prompt is empty, and this model has no end-of-text token to start from")
    largest, vocab_size = max(ids), model.decoder.config.vocab_size
    if largest >= vocab_size:
        raise GenerationError(
            f"the prompt has the token {shorten(model.tokenizer.decode([largest]))} ({largest}), and this model has "
            f"only the tokens from 0 to {vocab_size - 1}"
        )
    return ids
