"""Which tokens of a conversation count, and that training reads what generation reads."""

from __future__ import annotations

import numpy as np
import pytest

from gollm.data.records import Record
from gollm.errors import DataError
from gollm.finetuning.lessons import lesson_of
from gollm.finetuning.rendering import DEFAULT_TEMPLATE, rendered
from gollm.inference.chat_template import ChatTemplate
from gollm.nn.ops import IGNORE_INDEX

from .conftest import CHATML, small_model

MODEL = small_model()
TWO_TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "See you"},
]
# Drops the reasoning of earlier answers, as Qwen3's template does.
FORGETFUL = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and not loop.last %}{{ m.content.split('#')[-1] }}{% else %}{{ m.content }}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def lesson(messages):
    return lesson_of(Record({"messages": messages}, "chats.jsonl, line 3"))


def sequences(messages, template=CHATML, mask="assistant"):
    stop = MODEL.defaults.stop_tokens
    return rendered(lesson(messages), ChatTemplate(template, MODEL.tokenizer, MODEL.defaults), stop, mask)


def learned_text(sequence):
    return MODEL.tokenizer.decode(sequence.ids[sequence.learned])


def test_the_answers_and_their_ends_count_token_by_token():
    (found,) = sequences(TWO_TURNS)
    text = MODEL.tokenizer.decode(found.ids)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello<|im_end|>\n"
        "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\nSee you<|im_end|>\n"
    )
    assert learned_text(found) == "Hello<|im_end|>See you<|im_end|>"
    counted = [MODEL.tokenizer.decode([t]) for t in found.targets if t != IGNORE_INDEX]
    assert "".join(counted) == learned_text(found)
    assert np.array_equal(found.inputs[1:], found.ids[1:-1]) and len(found.inputs) == len(found.targets)


def test_the_prompts_are_those_of_generation():
    (found,) = sequences(TWO_TURNS)
    template = ChatTemplate(CHATML, MODEL.tokenizer, MODEL.defaults)
    for n in (2, 4):
        prompt = template.ids(TWO_TURNS[:n])
        assert found.ids[: len(prompt)].tolist() == prompt
        assert found.learned[len(prompt)] and not found.learned[len(prompt) - 1]


def test_without_a_mask_every_token_counts():
    (found,) = sequences(TWO_TURNS, mask="none")
    assert found.learned.all() and np.array_equal(found.targets, found.ids[1:])


def test_a_template_that_writes_earlier_answers_in_another_way_gives_a_sequence_each():
    messages = [*TWO_TURNS[:2], {"role": "assistant", "content": "think#Hello"}, *TWO_TURNS[3:]]
    first, second = sequences(messages, FORGETFUL)
    assert learned_text(first) == "think#Hello<|im_end|>"
    assert learned_text(second) == "See you<|im_end|>"
    template = ChatTemplate(FORGETFUL, MODEL.tokenizer, MODEL.defaults)
    prompt = template.ids(messages[:4])
    assert second.ids[: len(prompt)].tolist() == prompt and "think" not in MODEL.tokenizer.decode(second.ids)


def test_a_special_token_in_a_message_is_plain_text():
    (found,) = sequences([{"role": "user", "content": "<|im_end|>"}, {"role": "assistant", "content": "a<|im_end|>b"}])
    (end,) = MODEL.defaults.stop_tokens
    assert (found.ids == end).sum() == 2  # the template's own
    assert found.ids[found.learned][-1] == end and found.learned.sum() == len("a<|im_end|>b") + 1


def test_the_default_template_ends_answers():
    model = small_model(template=None)
    template = ChatTemplate(DEFAULT_TEMPLATE, model.tokenizer, model.defaults)
    (found,) = rendered(lesson(TWO_TURNS), template, model.defaults.stop_tokens)
    assert model.tokenizer.decode(found.ids[found.learned]) == "Hello<|endoftext|>See you<|endoftext|>"
    assert "### User:\nHi\n" in model.tokenizer.decode(found.ids)


def test_a_template_that_cannot_write_an_answer_behind_its_prompt_is_refused():
    odd = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>{% endif %}")
    with pytest.raises(DataError, match=r"chats.jsonl, line 3: .* does not write an answer behind the prompt"):
        sequences(TWO_TURNS, odd)


@pytest.mark.parametrize(
    "values",
    [
        {"messages": [{"role": "user", "content": "Hi\n\nthere"}, {"role": "assistant", "content": "Hello"}]},
        {"prompt": "Hi\n\nthere", "completion": "Hello"},
        {
            "prompt": [{"role": "user", "content": "Hi\n\nthere"}],
            "completion": [{"role": "assistant", "content": "Hello"}],
        },
        {"instruction": "Hi", "input": "there", "output": "Hello"},
        {"instruction": "Hi\n\nthere", "input": "", "output": "Hello"},
        {"instruction": "Hi\n\nthere", "output": "Hello"},
        {"conversations": [{"from": "human", "value": "Hi\n\nthere"}, {"from": "gpt", "value": "Hello"}]},
    ],
)
def test_the_four_formats_say_the_same(values):
    expected = [{"role": "user", "content": "Hi\n\nthere"}, {"role": "assistant", "content": "Hello"}]
    assert lesson_of(Record(values, "")).messages == expected


USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"text": "Hi"}, "its fields are 'text'; a conversation has messages, prompt and completion,"),
        ({"messages": []}, "messages is []; it must be a list of messages"),
        ({"messages": [USER, {"content": "Hello"}]}, "message 2 is {'content': 'Hello'}; it must be"),
        ({"messages": [USER]}, "no message is the assistant's, so there is nothing to learn"),
        ({"messages": [ANSWER]}, "the first message is the assistant's"),
        ({"messages": [USER, {**ANSWER, "content": " \n"}]}, "message 2, the assistant's, is empty"),
        ({"prompt": "Hi", "completion": ""}, "message 2, the assistant's, is empty"),
        ({"prompt": 3, "completion": "Hello"}, "prompt is 3; it must be text"),
        ({"instruction": "Hi", "output": None}, "output is None; it must be text"),
        ({"conversations": [{"from": "cat", "value": "Meow"}]}, "turn 1 is {'from': 'cat', 'value': 'Meow'}"),
        ({"messages": [USER, ANSWER], "tools": "all"}, "tools is 'all'; it must be a list"),
    ],
)
def test_mistakes_name_the_line(values, message):
    with pytest.raises(DataError) as error:
        lesson_of(Record(values, "chats.jsonl, line 3"))
    assert str(error.value).startswith("chats.jsonl, line 3: ") and message in str(error.value)
