"""gollm chat"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from gollm.cli.line_editor import read_line
from gollm.cli.sampling_flags import ModelFlags, SamplingFlags
from gollm.errors import GenerationError, GollmError
from gollm.options.types import nearest, shown
from gollm.system.files import read_regular, reason
from gollm.system.strict_json import parse_object, shorten

if TYPE_CHECKING:
    from gollm.inference.chat import Conversation
    from gollm.inference.chat_template import ChatTemplate
    from gollm.language_model import LanguageModel

_MAX_LINE = 16 << 20
_MAX_TEMPLATE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Options(SamplingFlags, ModelFlags):
    """Chat with a model that has a chat template. /help lists the commands; Ctrl-C stops an answer, Ctrl-D exits. When
    the conversation outgrows the context, the oldest turns are dropped and the program reports it."""

    system: str | None = None  # system message
    # name of one of the model's chat templates, or a Jinja template file (default: the model's template)
    template: str | None = None
    # for scripts: read one JSON object per line, {"content": "..."} or {"command": "/..."}, and print one for each
    json: bool = False

    HEADINGS: ClassVar[Mapping[str, str]] = {"model": "model", "max_new_tokens": "sampling", "system": "conversation"}
    DEFAULTS: ClassVar[Mapping[str, str]] = {"max_new_tokens": "the model's recommendation, or 1024"}


def run(options: Options) -> None:
    from gollm.inference.chat import Conversation
    from gollm.inference.chat_template import template_of
    from gollm.inference.engine import Engine

    sampling = options.sampling()
    model = options.load()
    template = _template(options.template, model) or template_of(model)
    engine = Engine(model, max_tokens_in_cache=model.config.context, max_batch=1, draft=options.load_draft())
    chat = Conversation(model, sampling, system=options.system, template=template, engine=engine)
    with chat.engine:
        if options.json:
            _talk_in_json(chat)
        else:
            _talk(chat, str(options.model))


def _template(name: str | None, model: LanguageModel) -> ChatTemplate | None:
    from gollm.inference.chat_template import ChatTemplate, template_of

    if name is None or name == "default" or name in model.defaults.chat_templates:
        return template_of(model, name)
    try:
        text = read_regular(name, _MAX_TEMPLATE).decode()
    except (OSError, ValueError) as failure:
        known = ", ".join(map(shown, model.defaults.chat_templates))
        why = reason(failure) if isinstance(failure, OSError) else "it is not UTF-8 text"
        raise GenerationError(
            f"--template {shown(name)} is no file that can be read ({why}), and the model has "
            + (f"only the named chat templates {known}" if known else "no named chat templates")
        ) from None
    return ChatTemplate(text, model.tokenizer, model.defaults)


# --- with a person ---------------------------------------------------------------------------------------------------


def _talk(chat: Conversation, model: str) -> None:
    prompt = ""
    if sys.stdin.isatty():
        prompt = "> "
        print(f"{model}; /help lists the commands, Ctrl-D ends")
    while True:
        try:
            line = (read_line(prompt) if prompt else input()).strip()
        except EOFError:
            if prompt:
                print()
            return
        except KeyboardInterrupt:
            if not prompt:
                raise
            print()
            continue
        except UnicodeDecodeError:
            print("that is not UTF-8 text")
            continue
        if line in ("/exit", "/quit"):
            return
        try:
            if line.startswith("/") and not line.startswith("//"):
                print(command(chat, line))
            elif line:
                _answer(chat, line.removeprefix("/") if line.startswith("//") else line)
        except GollmError as error:
            print(f"gollm: {error}", file=sys.stderr, flush=True)


def _answer(chat: Conversation, text: str) -> None:
    """Prints an answer as it comes. Ctrl-C ends it where it is."""
    started = first = time.monotonic()
    n = 0
    try:
        with contextlib.closing(chat.say(text)) as pieces:
            for piece in pieces:
                first = first if n else time.monotonic()
                n += 1
                print(piece, end="", flush=True)
    except KeyboardInterrupt:
        print("\n(stopped)")
        return
    print()
    print(_figures(chat, first - started, time.monotonic() - first))


def _figures(chat: Conversation, until_first: float, rest: float) -> str:
    answer = chat.answer
    assert answer is not None
    said = [f"{answer.n_tokens} tokens"]
    if answer.n_tokens > 1 and rest > 0:
        said.append(f"{(answer.n_tokens - 1) / rest:.1f} tokens/s")
    said.append(f"first after {until_first:.2f} s")
    if answer.finish_reason == "length":
        said.append("cut off: it reached --max-new-tokens, or the end of the context")
    if answer.n_left_out:
        said.append(f"the oldest {answer.n_left_out} messages do not fit into the context and were left out")
    return f"({'; '.join(said)})"


# --- commands --------------------------------------------------------------------------------------------------------


def command(chat: Conversation, line: str) -> str:
    """Carries out a command; returns what there is to say. Raises GenerationError."""
    name, _, rest = line.partition(" ")
    if name not in COMMANDS:
        near = nearest(name, COMMANDS)
        raise GenerationError(
            f"unknown command {shown(name)[1:-1]}; "
            + (f"did you mean {near}?" if near else "/help lists the commands")
            + " (a message that begins with a slash takes two)"
        )
    return COMMANDS[name][1](chat, rest.strip())


def _help(chat: Conversation, rest: str) -> str:
    width = max(map(len, COMMANDS)) + 2
    return "\n".join(f"{name:{width}}{what}" for name, (what, _) in COMMANDS.items())


def _reset(chat: Conversation, rest: str) -> str:
    chat.reset()
    return "(a new conversation)"


def _undo(chat: Conversation, rest: str) -> str:
    text = chat.undo()
    return "(there is nothing to take back)" if text is None else f"(taken back: {shorten(text)})"


def _system(chat: Conversation, rest: str) -> str:
    if rest:
        chat.system = rest
        return "(the system message is set)"
    return "(there is no system message)" if chat.system is None else chat.system


def _temperature(chat: Conversation, rest: str) -> str:
    if rest:
        try:
            number = float(rest)
        except ValueError:
            raise GenerationError(f"the temperature is {shorten(rest)}; it must be 0 or a positive number") from None
        chat.sampling = replace(chat.sampling, temperature=number)
    default = "" if chat.sampling.temperature is not None else ", the default"
    return f"(the temperature is {chat.sampling.resolved(chat.model.defaults).temperature:g}{default})"


def _save(chat: Conversation, rest: str) -> str:
    first, _, others = rest.partition(" ")
    overwrite = first == "--overwrite"
    name = others.strip() if overwrite else rest
    chat.save(_path(name), overwrite=overwrite)
    return f"(saved {len(chat.messages)} messages in {name})"


def _load(chat: Conversation, rest: str) -> str:
    chat.load(_path(rest))
    return f"({len(chat.messages)} messages from {rest})"


def _path(rest: str) -> Path:
    if not rest:
        raise GenerationError("the name of a file is missing, as in /save talk.json")
    return Path(os.path.expanduser(rest))


def _exit(chat: Conversation, rest: str) -> str:
    raise SystemExit(0)


COMMANDS: Mapping[str, tuple[str, Callable[[Conversation, str], str]]] = {
    "/help": ("list the commands", _help),
    "/reset": ("begin a new conversation with the same system message", _reset),
    "/undo": ("take back your last message and its answer", _undo),
    "/system": ("TEXT: set the system message; without TEXT, show it", _system),
    "/temperature": (
        "NUMBER: set the temperature; 0 always takes the likeliest token; without NUMBER, show it",
        _temperature,
    ),
    "/save": ("FILE: save the conversation; --overwrite FILE replaces another one", _save),
    "/load": ("FILE: go on with a saved conversation", _load),
    "/exit": ("end, as Ctrl-D does", _exit),
}


# --- with a script ---------------------------------------------------------------------------------------------------


def _talk_in_json(chat: Conversation) -> None:
    """One object a line in, one out: an answer, what a command says, or an error, after which the talk goes on."""
    while line := sys.stdin.buffer.readline(_MAX_LINE):
        if not line.strip():
            continue
        try:
            found = _json_turn(chat, parse_object(line, "the line", GenerationError))
        except GollmError as error:
            found = {"error": str(error)}
        print(json.dumps(found, ensure_ascii=False), flush=True)


def _json_turn(chat: Conversation, asked: dict[str, Any]) -> dict[str, Any]:
    if len(asked) != 1 or not asked.keys() <= {"content", "command"} or not isinstance(next(iter(asked.values())), str):
        raise GenerationError(f'the line is {shorten(asked)}; it must be {{"content": TEXT}} or {{"command": "/..."}}')
    if "command" in asked:
        return {"command": asked["command"], "said": command(chat, asked["command"])}
    started = time.monotonic()
    for _ in chat.say(asked["content"]):
        pass
    answer = chat.answer
    assert answer is not None
    return {
        "role": "assistant",
        "content": answer.text,
        "finish_reason": answer.finish_reason,
        "prompt_tokens": answer.n_prompt_tokens,
        "tokens": answer.n_tokens,
        "left_out_messages": answer.n_left_out,
        "seconds": round(time.monotonic() - started, 3),
    }
