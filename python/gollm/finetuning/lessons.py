"""Conversations to learn from, in the formats that data sets come in. Which one it is, the fields of a record say:

{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}], "tools": [...]}
{"prompt": "Hi", "completion": "Hello"}                            both text, or both lists of messages
{"instruction": "Translate", "input": "Hi", "output": "Hallo"}     Alpaca's; input may be missing or empty
{"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}       ShareGPT's
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gollm.data.records import Record
from gollm.errors import DataError
from gollm.system.strict_json import shorten

_SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
}
_FORMATS = "messages, prompt and completion, instruction and output, or conversations"

Message = dict[str, Any]


@dataclass(frozen=True)
class Lesson:
    """Messages as a chat template reads them, at least one of the assistant's; tools, where the record has some.
    Answers are learned from message `first` on."""

    messages: list[Message]
    tools: list[dict[str, Any]] | None
    where: str
    first: int = 0

    @property
    def answers(self) -> list[int]:
        """Which messages are learned."""
        return [i for i, m in enumerate(self.messages) if m["role"] == "assistant" and i >= self.first]


def lesson_of(record: Record) -> Lesson:
    """Raises DataError, with file and line, for a record in none of the formats, for one without an answer, and for an
    answer that is empty."""
    values, where = record.values, record.where
    if "messages" in values:
        messages = _messages(values["messages"], where, "messages")
    elif "conversations" in values:
        messages = _sharegpt(values["conversations"], where)
    elif "prompt" in values and "completion" in values:
        messages = [
            *messages_of(values["prompt"], where, "prompt", "user"),
            *messages_of(values["completion"], where, "completion", "assistant"),
        ]
    elif "instruction" in values and "output" in values:
        messages = _alpaca(values, where)
    else:
        found = ", ".join(map(shorten, list(values)[:8])) or "none"
        raise DataError(f"{where}: its fields are {found}; a conversation has {_FORMATS}")
    return _checked(Lesson(messages, _tools(values, where), where))


def pair_of(record: Record) -> tuple[Lesson, Lesson]:
    """The chosen answer and the rejected one, behind the same prompt:

        {"prompt": "Hi", "chosen": "Hello", "rejected": "What?"}        each a text, or a list of messages

    Without a prompt, chosen and rejected are whole conversations, which differ in the last message. Raises DataError as
    lesson_of does, and for two answers that are the same."""
    values, where = record.values, record.where
    if not {"chosen", "rejected"} <= values.keys():
        found = ", ".join(map(shorten, list(values)[:8])) or "none"
        raise DataError(f"{where}: its fields are {found}; a pair has prompt, chosen and rejected")
    prompt = messages_of(values["prompt"], where, "prompt", "user") if "prompt" in values else []
    lessons = []
    for field in ("chosen", "rejected"):
        messages = [*prompt, *messages_of(values[field], where, field, "assistant")]
        lessons.append(_checked(Lesson(messages, _tools(values, where), where, len(prompt) or len(messages) - 1)))
    chosen, rejected = lessons
    if chosen.messages == rejected.messages:
        raise DataError(f"{where}: chosen and rejected are the same; remove the pair")
    if chosen.messages[: chosen.first] != rejected.messages[: rejected.first]:
        raise DataError(f"{where}: chosen and rejected begin with different messages; they answer the same ones")
    return chosen, rejected


def _tools(values: dict[str, Any], where: str) -> list[dict[str, Any]] | None:
    tools = values.get("tools")
    if tools is not None and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        raise DataError(f"{where}: tools is {shorten(tools)}; it must be a list of JSON schemas")
    return tools or None


def _checked(lesson: Lesson) -> Lesson:
    where, messages = lesson.where, lesson.messages
    if not lesson.answers:
        raise DataError(f"{where}: no message is the assistant's, so there is nothing to learn")
    if lesson.answers[0] == 0:
        raise DataError(f"{where}: the first message is the assistant's; an answer needs a message before it")
    for i in lesson.answers:
        if not str(messages[i].get("content") or "").strip() and not messages[i].get("tool_calls"):
            raise DataError(f"{where}: message {i + 1}, the assistant's, is empty; remove it or the conversation")
    return lesson


def messages_of(value: Any, where: str, field: str, role: str) -> list[Message]:
    """A text as one message of a role, or a list of messages as it is."""
    if isinstance(value, list):
        return _messages(value, where, field)
    return [{"role": role, "content": _text(value, where, field)}]


def _messages(value: Any, where: str, field: str) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}: {field} is {shorten(value)}; it must be a list of messages")
    for i, message in enumerate(value, 1):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise DataError(
                f'{where}: message {i} is {shorten(message)}; it must be {{"role": "user", "content": "..."}}'
            )
    return value


def _sharegpt(value: Any, where: str) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}: conversations is {shorten(value)}; it must be a list of turns")
    messages = []
    for i, turn in enumerate(value, 1):
        if not isinstance(turn, dict) or turn.get("from") not in _SHAREGPT_ROLES:
            known = ", ".join(_SHAREGPT_ROLES)
            raise DataError(
                f'{where}: turn {i} is {shorten(turn)}; it must be {{"from": ..., "value": "..."}}, from one of {known}'
            )
        messages.append({"role": _SHAREGPT_ROLES[turn["from"]], "content": _text(turn.get("value"), where, "value")})
    return messages


def _alpaca(values: dict[str, Any], where: str) -> list[Message]:
    parts = [_text(values["instruction"], where, "instruction"), _text(values.get("input") or "", where, "input")]
    return [
        {"role": "user", "content": "\n\n".join(filter(None, parts))},
        {"role": "assistant", "content": _text(values["output"], where, "output")},
    ]


def _text(value: Any, where: str, field: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{where}: {field} is {shorten(value)}; it must be text")
    return value
