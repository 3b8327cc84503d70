"""Supervised fine-tuning: the model learns to write the answers of conversations."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from gollm.data.records import read_records
from gollm.errors import ConfigError, DataError, TokenizerError
from gollm.finetuning.lessons import Lesson, lesson_of
from gollm.finetuning.options import FinetuneOptions
from gollm.finetuning.padding import pair_of
from gollm.finetuning.rendering import DEFAULT_TEMPLATE, TokenSequence, rendered
from gollm.finetuning.task import Base, Task, held_out, longest_allowed
from gollm.inference.chat_template import ChatTemplate
from gollm.kernels import Array
from gollm.model.generation_defaults import GenerationDefaults
from gollm.training.objective import NextToken


def sft(options: FinetuneOptions, base: Base) -> Task:
    """Raises DataError, with file and line, for data that cannot be learned from."""
    longest = longest_allowed(options, base.config)
    defaults = with_template(base)
    template = ChatTemplate(defaults.chat_template or "", base.tokenizer, defaults)
    conversations = [lesson_of(record) for record in read_records(options.data)]
    if options.validation_data:
        train, validation = conversations, [lesson_of(record) for record in read_records(options.validation_data)]
    else:
        train, validation = held_out(conversations, options.validation_fraction)
    stop_tokens = {*defaults.stop_tokens, *base.tokenizer.framing.end[:1]}
    n_long = 0
    parts: list[list[TokenSequence]] = []
    for part in (train, validation):
        sequences = [one for item in part for one in rendered(item, template, stop_tokens, options.mask)]
        kept, n = fitting(sequences, longest, options.too_long)
        parts.append(kept)
        n_long += n
    prompt, shown = sample_prompt(options.sample_prompt, (validation or train)[0], template)
    return Task(
        train=parts[0],
        validation=parts[1],
        collate=pair_of,
        objective=NextToken(),
        longest=longest,
        defaults=defaults,
        prompt=prompt if len(prompt) <= base.config.context else prompt[:0],
        shown=shown,
        summary=_summary(len(train), parts, n_long, longest),
    )


def with_template(base: Base) -> GenerationDefaults:
    """What the model's file says about generating, with a chat template and a token that ends answers. Raises
    ConfigError for a model that has no such token, or none for the characters of the plain template."""
    defaults, end = base.defaults, base.tokenizer.framing.end[:1]
    if not defaults.stop_tokens and not end:
        raise ConfigError(
            "this model's tokenizer has no end-of-text token, so an answer could not end; use a model that has one"
        )
    if not defaults.chat_template:
        try:
            base.tokenizer.encode("### User:\n\n### Assistant:\n")
        except TokenizerError as error:
            raise ConfigError(
                "this model has no chat template, and its tokenizer cannot write the plain one, which begins with "
                f"'### User:' ({error}); use a model with a byte-level tokenizer"
            ) from None
    return dataclasses.replace(
        defaults,
        stop_tokens=defaults.stop_tokens or tuple(end),
        chat_template=defaults.chat_template or DEFAULT_TEMPLATE,
    )


def fitting(sequences: Sequence[TokenSequence], longest: int, too_long: str) -> tuple[list[TokenSequence], int]:
    """Sequences of at most `longest` inputs with something to learn in them, and how many were longer. Raises DataError
    for longer ones unless they are to be truncated."""
    long = [sequence for sequence in sequences if sequence.length > longest]
    if long and too_long == "refuse":
        others = f", and {len(long) - 1} others are longer, too" if len(long) > 1 else ""
        raise DataError(
            f"{long[0].where} has {long[0].length:,} tokens, more than the longest sequence allowed, {longest:,}"
            f"{others}; shorten them, cut them with --too-long truncate, or raise --context if the model allows it"
        )
    kept = [sequence.truncated(longest + 1) for sequence in sequences]
    return [sequence for sequence in kept if sequence.learned[1:].any()], len(long)


def sample_prompt(text: str, conversation: Lesson, template: ChatTemplate) -> tuple[Array, str]:
    """The ids of a question, and what a sample shows of it."""
    messages = conversation.messages[: conversation.answers[0]]
    tools = conversation.tools
    if text:
        messages, tools = [{"role": "user", "content": text}], None
    ids = template.ids(messages, tools=tools)
    return np.array(ids, np.int32), f"{messages[-1].get('content')}\n-> "


def _summary(n_train: int, parts: Sequence[Sequence[TokenSequence]], n_long: int, longest: int) -> str:
    n_tokens = sum(sequence.length for sequence in parts[0])
    n_learned = sum(int(sequence.learned[1:].sum()) for sequence in parts[0])
    long = f"; {n_long:,} longer than {longest:,} tokens were cut" if n_long else ""
    return (
        f"{n_train:,} training conversations in {len(parts[0]):,} sequences, {n_tokens:,} tokens of which "
        f"{n_learned:,} count; {len(parts[1]):,} validation sequences{long}"
    )
