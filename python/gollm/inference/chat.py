"""Conversations with a model: turn after turn, with the prefix that turns have in common computed once.

Policy for long conversations: an answer has room for max_new_tokens, at most half of the context. When the conversation
does not fit beside it, the oldest turns behind the system message are left out of what the model reads, as many as
bring the rest down to half of that, so that the next turns have the same beginning. They stay in `messages`. Where the
last message alone does not fit, it is refused.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from dataclasses import replace as with_changes
from pathlib import Path
from typing import Any

from gollm.errors import GenerationError
from gollm.inference.chat_template import ChatTemplate, template_of
from gollm.inference.engine import Engine, Stream
from gollm.inference.generation import Completion, Model, check_model
from gollm.inference.sampling import Sampling, check_text_only
from gollm.system.files import as_path, read_regular, reason, replacing
from gollm.system.strict_json import parse_object, shorten

ANSWER_TOKENS = 1024  # of an answer at most, where neither the user nor the model's file says
_FORMAT, _VERSION = "gollm conversation", 1
_MAX_FILE = 64 << 20


@dataclass(frozen=True)
class Answer:
    """The last answer of a conversation. `n_left_out`: messages that the model did not read, for want of room."""

    text: str
    finish_reason: str
    n_prompt_tokens: int
    n_tokens: int
    n_left_out: int


class Conversation:
    """A user and a model that take turns.

    >>> chat = gollm.Conversation(gollm.load("model.gguf"), system="Be brief.")       # doctest: +SKIP
    >>> for piece in chat.say("What is the capital of France?"):                      # doctest: +SKIP
    ...     print(piece, end="", flush=True)

    `messages` are all turns as {"role", "content"}, `answer` is the last one. `sampling` is for each answer, and may be
    replaced."""

    def __init__(
        self,
        model: Model,
        sampling: Sampling | None = None,
        *,
        system: str | None = None,
        template: ChatTemplate | None = None,
        engine: Engine | None = None,
    ) -> None:
        """`template` replaces the model's own, `engine` one that only this conversation uses. Raises GenerationError
        for a model that has no chat template or no tokenizer."""
        check_model(model)
        self.sampling = sampling or Sampling()
        self.messages: list[dict[str, Any]] = []
        self.answer: Answer | None = None
        self.template = template or template_of(model)
        self.engine = engine or Engine(model, max_tokens_in_cache=model.decoder.config.context, max_batch=1)
        self.model = model
        self._n_left_out = 0
        self._pieces: Generator[str, None, None] | None = None  # of the last answer
        self._file: Path | None = None  # where the conversation was saved or loaded
        self.system = system

    @property
    def system(self) -> str | None:
        """The system message, or None. Setting it changes what the model reads from the next turn on."""
        return self.messages[0]["content"] if self._n_system else None

    @system.setter
    def system(self, text: str | None) -> None:
        self.messages[: self._n_system] = [] if text is None else [{"role": "system", "content": text}]

    @property
    def _n_system(self) -> int:
        return int(bool(self.messages) and self.messages[0]["role"] == "system")

    def say(self, text: str) -> Generator[str, None, None]:
        """The answer to a message of the user, piece by piece. Both are added to the messages when the answer ends, or
        when its iterator is closed, as far as it was read; a message whose answer nobody has read was not said. There
        is one answer at a time: say() closes the one before.

        Raises GenerationError for a message that the context has no room for, and what Engine.submit raises; nothing is
        said then."""
        self._close_answer()
        message = {"role": "user", "content": text}
        ids = self._fitting_ids([*self.messages, message])
        stream = self.engine.submit(ids, chat_sampling(self.model, self.sampling, len(ids)))
        self._pieces = self._read(message, stream)
        return self._pieces

    def _close_answer(self) -> None:
        try:
            if self._pieces is not None:
                self._pieces.close()
        except ValueError:  # Python's, of a generator that runs
            raise GenerationError(
                "an answer of this conversation is being read by another thread; wait for its end"
            ) from None

    def _read(self, message: dict[str, Any], stream: Stream) -> Generator[str, None, None]:
        texts: list[str] = []
        try:
            for piece in stream:
                texts.append(piece.text)
                if piece.text:
                    yield piece.text
        except (GeneratorExit, KeyboardInterrupt):
            stream.cancel()
            self._add_turn(message, stream.result(), "".join(texts))
            raise
        self._add_turn(message, stream.result(), "".join(texts))

    def _add_turn(self, message: dict[str, Any], completion: Completion, text: str) -> None:
        """What was read. An answer that was cancelled before it began was none, nor was the message said."""
        if completion.finish_reason == "cancelled" and not text:
            return
        n_tokens = len(completion.tokens)
        self.messages += [message, {"role": "assistant", "content": text}]
        self.answer = Answer(text, completion.finish_reason, len(completion.prompt_tokens), n_tokens, self._n_left_out)

    def _fitting_ids(self, messages: list[dict[str, Any]]) -> list[int]:
        context = self.model.decoder.config.context
        limit = context - _room(self.model, self.sampling)
        ids = self._ids(messages)
        if len(ids) > limit:
            while len(ids) > limit // 2 and self._leave_out_a_turn(messages):
                ids = self._ids(messages)
        if len(ids) > limit:
            self._limit_left_out()
            raise GenerationError(
                f"the message is too long: with the system message and the template it has {len(ids)} tokens, and "
                f"beside an answer of {context - limit} tokens {limit} fit into the context ({context}); shorten it"
            )
        return ids

    def _ids(self, messages: list[dict[str, Any]]) -> list[int]:
        n = self._n_system
        return self.template.ids([*messages[:n], *messages[n + self._n_left_out :]])

    def _leave_out_a_turn(self, messages: list[dict[str, Any]]) -> bool:
        """A message of the user and all that follows it up to the next one. False where only one turn is left."""
        first = self._n_system + self._n_left_out
        later = [i for i, message in enumerate(messages) if message["role"] == "user" and i > first]
        if later:
            self._n_left_out = later[0] - self._n_system
        return bool(later)

    def _limit_left_out(self) -> None:
        self._n_left_out = min(self._n_left_out, max(0, len(self.messages) - self._n_system))

    def undo(self) -> str | None:
        """Takes back the last message of the user and what follows it. Returns its text; None where there is none."""
        self._close_answer()
        users = [i for i, message in enumerate(self.messages) if message["role"] == "user"]
        if not users:
            return None
        text: str = self.messages[users[-1]]["content"]
        del self.messages[users[-1] :]
        self._limit_left_out()
        return text

    def reset(self) -> None:
        """Begins anew, with the same system message."""
        self._close_answer()
        del self.messages[self._n_system :]
        self._n_left_out, self.answer, self._file = 0, None, None

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Writes the messages to a JSON file. Raises GenerationError where another conversation than this one, as it
        was saved to or loaded from there before, lies there, unless `overwrite` is True; and for any other file."""
        target = as_path(path, GenerationError)
        if target.exists():
            try:
                _read(target)
            except GenerationError:
                raise GenerationError(
                    f"cannot write {target}: a file that is no conversation lies there; choose another name"
                ) from None
            if not overwrite and target.resolve() != self._file:
                raise GenerationError(
                    f"cannot write {target}: another conversation lies there; choose another name, or overwrite it "
                    "(overwrite=True; in gollm chat: /save --overwrite FILE)"
                )
        saved = {"format": _FORMAT, "version": _VERSION, "messages": self.messages}
        with replacing(target, GenerationError) as file:
            file.write(json.dumps(saved, ensure_ascii=False, indent=1).encode() + b"\n")
        self._file = target.resolve()

    def load(self, path: str | Path) -> None:
        """Goes on from a file that save() wrote. Raises GenerationError for anything else, and changes nothing then."""
        source = as_path(path, GenerationError)
        messages = _read(source)
        self._close_answer()
        self.messages, self._file = messages, source.resolve()
        self._n_left_out, self.answer = 0, None


def chat_sampling(model: Model, sampling: Sampling, n_prompt: int) -> Sampling:
    """An answer ends where the context is full, and may be longer than a text that is continued."""
    check_text_only(sampling, "in a chat")
    room = model.decoder.config.context - n_prompt
    return with_changes(
        sampling, max_new_tokens=max(1, min(_answer_tokens(model, sampling), room)), context_full="stop"
    )


def _answer_tokens(model: Model, sampling: Sampling) -> int:
    if sampling.max_new_tokens is not None:
        return sampling.max_new_tokens
    return ANSWER_TOKENS if model.defaults.max_new_tokens is None else model.defaults.max_new_tokens


def _room(model: Model, sampling: Sampling) -> int:
    """The tokens that a prompt leaves to the answer."""
    return min(_answer_tokens(model, sampling), model.decoder.config.context // 2)


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        data = read_regular(path, _MAX_FILE + 1)
    except OSError as failure:
        raise GenerationError(f"cannot read {path}: {reason(failure)}") from None
    if len(data) > _MAX_FILE:
        raise GenerationError(f"{path} is longer than {_MAX_FILE >> 20} MB; no conversation is that long")
    saved = parse_object(data, str(path), GenerationError)
    if saved.get("format") != _FORMAT or saved.get("version") != _VERSION:
        raise GenerationError(f"{path} is no saved conversation of this version; name a file that /save wrote")
    return _checked_turns(saved.get("messages"), str(path))


def _checked_turns(messages: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        raise GenerationError(f"{where}: messages is {shorten(messages)}; it must be a list")
    for i, message in enumerate(messages):
        roles = ("user", "assistant") if i else ("system", "user", "assistant")
        if (
            not isinstance(message, dict)
            or message.keys() != {"role", "content"}
            or message["role"] not in roles
            or not isinstance(message["content"], str)
        ):
            raise GenerationError(
                f"{where}: message {i + 1} is {shorten(message)}; it must have a role ({', '.join(roles)}) and a "
                "content"
            )
    return list(messages)
