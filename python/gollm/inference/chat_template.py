"""Chat templates: from a conversation to the ids that a model reads.

A chat template is a Jinja template in a model's file. It writes the messages of a conversation one after the other,
with special tokens around them, such as <|im_start|>. Those that the template itself spells become their ids. Those
that are spelled in a message stay plain text: otherwise whoever writes a message could end it, and go on as somebody
else.

To tell them apart, the template is compiled twice. In the second one each special token in its text and its string
constants is a character of its own, a lone surrogate, which no text can have:

    template    <|im_start|>{{ role }}                  a text   <|im_start|>user
    with codes  \\ud800{{ role }}                       a text   \\ud800user
"""

from __future__ import annotations

import numbers
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

from gollm.errors import GenerationError
from gollm.inference.generation import Model
from gollm.model.generation_defaults import GenerationDefaults
from gollm.system.strict_json import shorten
from gollm.tokenizers import Tokenizer

T = TypeVar("T")

Messages: TypeAlias = Sequence[Mapping[str, Any]]
"""{"role": "user", "content": "Hello"}, and what else the template reads: all that JSON can hold."""

_MAX_DEPTH = 32
_ROLE = re.compile(r"[\w .-]{1,64}")
_SURROGATE = re.compile("[\ud800-\udfff]")
_FIRST, _N_CODES = 0xD800, 0x800
_KEPT = ("role", "type")


class ChatTemplate:
    """A Jinja template that turns a conversation into a prompt, as transformers' apply_chat_template does.

    `tokenizer` and `defaults` give it bos_token, eos_token and pad_token, and the tokenizer makes ids of the prompt.
    A template comes with a model, so it may be hostile: it runs in jinja2's sandbox, in bounded time and memory."""

    def __init__(
        self, source: str, tokenizer: Tokenizer | None = None, defaults: GenerationDefaults | None = None
    ) -> None:
        """Raises GenerationError for a text that is no template, and where jinja2 is not installed."""
        self.source = source
        self._tokenizer = tokenizer
        self._variables = _token_variables(tokenizer, defaults or GenerationDefaults())
        special = [] if tokenizer is None else list(tokenizer.special_tokens)
        own = self._variables.values()
        special.sort(key=lambda token: not (token in source or token in own))  # the others are seldom put together
        self._codes = {token: chr(_FIRST + i) for i, token in enumerate(special[:_N_CODES])}
        self._special = _any_of(self._codes)
        self._render = _compiled(source, str)
        self._render_codes = _compiled(source, self._coded)

    def render(
        self,
        messages: Messages,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The prompt as text. With `add_generation_prompt` it ends where the assistant's next message begins. `tools`
        are JSON schemas of functions; `variables` are the template's own, such as enable_thinking.

        Raises GenerationError for messages that are not allowed or that the template refuses, and for a template that
        fails, or takes too much time or memory."""
        return self._render(self._values(messages, tools, add_generation_prompt, variables))

    def ids(
        self,
        messages: Messages,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> list[int]:
        """The ids of the prompt, in which special tokens that are spelled in the messages are plain text.

        Raises GenerationError as render does, and where the two cannot be told apart: the template looks for a special
        token in a message, or puts it together of parts, such as "<|" and a role, and a message spells the same."""
        return self._encoded(self._coded_text(self._values(messages, tools, add_generation_prompt, variables)))

    def prompt_and_answer(
        self, messages: Messages, *, tools: Sequence[Mapping[str, Any]] | None = None
    ) -> tuple[list[int], list[int]]:
        """The ids of the prompt that all messages but the last one make, as `ids` gives them, and those of the last
        message, the assistant's, behind it.

        Raises GenerationError as ids does, and for a template that begins the answer in another way in a prompt."""
        prompt = self._coded_text(self._values(messages[:-1], tools, True, {}))
        whole = self._coded_text(self._values(messages, tools, False, {}))
        ids, all_ids = self._encoded(prompt), self._encoded(whole)
        if all_ids[: len(ids)] == ids:
            return ids, all_ids[len(ids) :]
        if not whole.startswith(prompt):
            raise GenerationError(
                "the model's chat template does not write an answer behind the prompt that it makes for one, so "
                "generation would begin in another way than this; give another template"
            )
        return ids, self._encoded(whole[len(prompt) :])  # a token would reach over the place where the answer begins

    def _coded_text(self, values: dict[str, Any]) -> str:
        """The text with a code for each special token that the template has written."""
        text = self._render(values)
        values = values | {name: self._codes.get(spelling, spelling) for name, spelling in self._variables.items()}
        coded = self._render_codes(values)
        spellings = {code: spelling for spelling, code in self._codes.items()}
        if _SURROGATE.sub(lambda match: spellings[match.group()], coded) != text:
            raise GenerationError(
                "a message spells a special token that the model's chat template looks for in messages, so the two "
                "cannot be told apart; remove special tokens from the messages"
            )
        return self._with_built(coded, values)

    def _encoded(self, coded: str) -> list[int]:
        assert self._tokenizer is not None, "ids need a tokenizer"
        ids: list[int] = self._tokenizer.encode_coded(coded, self._codes).tolist()
        return ids

    def _values(
        self, messages: Messages, tools: Any, add_generation_prompt: bool, variables: Mapping[str, Any]
    ) -> dict[str, Any]:
        return {
            **self._variables,
            "messages": _checked(messages),
            "tools": None if tools is None else _plain(list(tools), "the tools"),
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            **{name: _plain(value, f"the template variable {name}") for name, value in variables.items()},
        }

    def _coded(self, text: str) -> str:
        return self._special.sub(lambda match: self._codes[match.group()], text)

    def _with_built(self, coded: str, values: Mapping[str, Any]) -> str:
        """The text with codes also for the special tokens that the template puts together of parts, such as "<|" and a
        role: those that are there as often when all text in the messages is x's."""
        found = Counter(self._special.findall(coded))
        if not found:
            return coded
        try:
            built = Counter(self._special.findall(self._render_codes(_without_text(values, self._special))))
        except GenerationError:  # the template refuses such messages
            return coded
        for token, n in found.items():
            if n != built[token] > 0:
                raise GenerationError(
                    f"a message spells {shorten(token)}, which the model's chat template puts together of parts, so "
                    "the two cannot be told apart; remove it from the message"
                )
        return self._special.sub(
            lambda match: self._codes[match.group()] if built[match.group()] else match.group(), coded
        )


def template_of(model: Model, name: str | None = None, *, tools: bool = False) -> ChatTemplate:
    """The model's template of that name, or as transformers chooses: "tool_use" for a conversation with tools where
    there is one, else the default. Raises GenerationError where there is none, and for a model without a tokenizer."""
    templates = dict(model.defaults.chat_templates)
    if model.defaults.chat_template is not None:
        templates["default"] = model.defaults.chat_template
    if model.tokenizer is None:
        why = f" ({model.without_tokenizer})" if model.without_tokenizer else ""
        raise GenerationError(f"this model has no tokenizer{why}, so it cannot chat; load it with one")
    if name is None:
        name = "tool_use" if tools and "tool_use" in templates else "default"
        if name not in templates:
            raise GenerationError(
                "this model has no chat template, so it was probably not trained to chat; continue a text with "
                "generate instead, or give a template"
            )
    if name not in templates:
        known = ", ".join(map(shorten, templates)) or "none"
        raise GenerationError(f"this model has no chat template named {shorten(name)}; it has {known}")
    return ChatTemplate(templates[name], model.tokenizer, model.defaults)


def _token_variables(tokenizer: Tokenizer | None, defaults: GenerationDefaults) -> dict[str, str]:
    """bos_token, eos_token and pad_token as they are spelled."""
    if tokenizer is None:
        return {}
    spellings = {index: token for token, index in tokenizer.special_tokens.items()}
    ids = {
        "bos_token": (defaults.bos_token, *tokenizer.framing.begin),
        "eos_token": (*defaults.stop_tokens, *tokenizer.framing.end),
        "pad_token": (defaults.pad_token,),
    }
    found = {name: next((spellings[i] for i in candidates if i in spellings), None) for name, candidates in ids.items()}
    return {name: spelling for name, spelling in found.items() if spelling is not None}


def _any_of(spellings: Iterable[str]) -> re.Pattern[str]:
    """The longest of these that begins at the leftmost place; matches nothing where there are none."""
    return re.compile("|".join(map(re.escape, sorted(spellings, key=len, reverse=True))) or r"(?!)")


def _compiled(source: str, spell: Callable[[str], str]) -> Callable[[dict[str, Any]], str]:
    """A function of a template's variables that gives its text."""
    try:
        from gollm.inference.template_sandbox import Environment
    except ImportError:
        raise GenerationError(
            "chat templates need jinja2 3.1.6 or newer, which is not installed; install it with: pip install jinja2"
        ) from None
    render = _in_words(lambda: Environment().compiled(source, spell), "is not valid")
    return lambda variables: _in_words(lambda: render(variables), "fails")


def _in_words(action: Callable[[], T], what: str) -> T:
    """Templates raise whatever Python can raise: all of it becomes GenerationError."""
    from gollm.inference.template_sandbox import Exhausted, Refused

    try:
        return action()
    except Refused as error:
        raise GenerationError(f"the model's chat template refuses the conversation: {_line(error)}") from None
    except Exhausted as error:
        raise GenerationError(
            f"the model's chat template is stopped, since {error}; chat templates need less"
        ) from None
    except Exception as error:
        raise GenerationError(
            f"the model's chat template {what} ({type(error).__name__}: {_line(error)}); give another template"
        ) from None


def _line(error: Exception) -> str:
    text = " ".join(_SURROGATE.sub("\N{REPLACEMENT CHARACTER}", str(error)).split())
    return text if len(text) <= 300 else text[:297] + "..."


# --- messages --------------------------------------------------------------------------------------------------------


def _checked(messages: Messages) -> list[dict[str, Any]]:
    """Messages as a template reads them. A key whose value is None is left out, as transformers does."""
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence):
        raise GenerationError(f'the messages are {shorten(messages)}; they must be a list of {{"role", "content"}}')
    if not messages:
        raise GenerationError("the conversation has no messages; give at least one")
    found = []
    for i, message in enumerate(messages):
        where = f"message {i + 1}"
        if not isinstance(message, Mapping):
            raise GenerationError(f'{where} is {shorten(message)}; it must be {{"role": ..., "content": ...}}')
        role = message.get("role")
        if not isinstance(role, str) or not _ROLE.fullmatch(role):
            raise GenerationError(
                f'{where} has the role {shorten(role)}; it must be a word such as "system", "user" or "assistant"'
            )
        found.append({name: value for name, value in _plain(message, where).items() if value is not None})
    return found


def _plain(value: Any, where: str, depth: int = 0) -> Any:
    """The same value of plain types: a template could call the methods of others. Raises GenerationError for what JSON
    cannot hold."""
    if depth > _MAX_DEPTH:
        raise GenerationError(f"{where} has lists nested more than {_MAX_DEPTH} deep")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        if odd := _SURROGATE.search(value):
            raise GenerationError(f"{where} has a lone surrogate, U+{ord(odd.group()):04X}, which is no character")
        return str.__str__(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, Mapping):
        return {_key(key, where): _plain(item, where, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, where, depth + 1) for item in value]
    raise GenerationError(f"{where} holds {shorten(value)}, a {type(value).__name__}; use what JSON can hold")


def _key(key: Any, where: str) -> str:
    if not isinstance(key, str):
        raise GenerationError(f"{where} has the key {shorten(key)}; keys must be text")
    return str(_plain(key, where))


def _without_text(value: Any, special: re.Pattern[str], key: str = "") -> Any:
    """The same value with x's for text, but for roles, types, and the keys of objects."""
    if isinstance(value, dict):
        keys = {name: "x" * len(name) if special.search(name) else name for name in value}
        return {keys[name]: _without_text(item, special, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_text(item, special, key) for item in value]
    if isinstance(value, str) and not (key in _KEPT and _ROLE.fullmatch(value)):
        return "x" * len(value)
    return value
