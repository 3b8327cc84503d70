"""Conversations as sequences of token ids, and which of the ids the model learns to write.

An answer is learned behind the ids that `gollm chat` would compute for the messages before it: the chat template's
prompt. What counts are the answer's ids up to the stop token that ends it, this one included.

    <|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n  Hello<|im_end|>  \n
    the prompt                                               what counts      what the template adds

Where the next turn's prompt begins with all ids so far, it is part of the same sequence. Some templates write earlier
answers in another way (without their reasoning, for one); then the next answer has a sequence of its own.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np

from gollm.errors import DataError, GenerationError, TokenizerError
from gollm.finetuning.lessons import Lesson
from gollm.inference.chat_template import ChatTemplate
from gollm.kernels import Array
from gollm.nn.ops import IGNORE_INDEX

Mask = Literal["assistant", "none"]

# For models that bring no template. The text between messages has no special tokens but the one that ends an answer.
DEFAULT_TEMPLATE = """\
{% if bos_token is defined and bos_token != eos_token %}{{ bos_token }}{% endif %}\
{% for message in messages %}\
### {{ message['role'] | capitalize }}:
{{ message['content'] | trim }}{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}


{% endfor %}\
{% if add_generation_prompt %}### Assistant:
{% endif %}"""


@dataclass(frozen=True)
class TokenSequence:
    """ids: (n,) int32; learned: (n,) bool, the ids that the model learns to write"""

    ids: Array
    learned: Array
    where: str

    @property
    def inputs(self) -> Array:
        """(n - 1,) int32"""
        return self.ids[:-1]

    @property
    def targets(self) -> Array:
        """(n - 1,) int32: what follows each input, IGNORE_INDEX where that does not count"""
        return np.where(self.learned[1:], self.ids[1:], np.int32(IGNORE_INDEX))

    @property
    def length(self) -> int:
        """Of inputs and targets."""
        return len(self.ids) - 1

    @property
    def content(self) -> bytes:
        return self.ids.tobytes() + self.learned.tobytes()

    def truncated(self, n: int) -> TokenSequence:
        return TokenSequence(self.ids[:n], self.learned[:n], self.where)


def rendered(
    conversation: Lesson, template: ChatTemplate, stop_tokens: Collection[int], mask: Mask = "assistant"
) -> list[TokenSequence]:
    """The sequences of a conversation; usually one. With the mask "none" all of their ids count.

    Raises DataError, with file and line, for a conversation that the template refuses or cannot render, and
    text that the tokenizer has no tokens for."""
    messages, where = conversation.messages, conversation.where
    parts: list[tuple[list[int], list[bool]]] = []
    ids: list[int] = []
    for i in conversation.answers:
        try:
            prompt, answer = template.prompt_and_answer(messages[: i + 1], tools=conversation.tools)
        except (GenerationError, TokenizerError) as error:
            raise DataError(f"{where}: {error}") from None
        n_learned = next((n for n, token in enumerate(answer, 1) if token in stop_tokens), len(answer))
        if ids and prompt[: len(ids)] == ids:
            learned = parts[-1][1]
        else:
            ids, learned = [], []
            parts.append((ids, learned))
        ids += [*prompt[len(ids) :], *answer]
        learned += [False] * (len(ids) - len(answer) - len(learned))
        learned += [True] * n_learned + [False] * (len(answer) - n_learned)
    return [
        TokenSequence(np.array(ids, np.int32), np.array(learned) | (mask == "none"), where) for ids, learned in parts
    ]
