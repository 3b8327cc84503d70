"""What a model's file says about generating is heard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import gollm
from generating import tokens_after
from gollm.errors import GenerationError
from gollm.language_model import LanguageModel
from gollm.model.batch import Batch
from gollm.model.config import preset
from gollm.model.decoder import Decoder
from gollm.model.generation_defaults import GenerationDefaults
from gollm.tokenizers import BPETokenizer

TOKENIZER = BPETokenizer.train("hello world, this is a text\n" * 3, 264, special_tokens=["<begin>", "<end>"])
BEGIN, END = TOKENIZER.special_tokens["<begin>"], TOKENIZER.special_tokens["<end>"]


def model(*, prefix: tuple[int, ...] = (), suffix: tuple[int, ...] = (), defaults: GenerationDefaults) -> LanguageModel:
    tokenizer = BPETokenizer(
        TOKENIZER.vocabulary, TOKENIZER.merges, TOKENIZER.special_tokens, prefix=prefix, suffix=suffix
    )
    decoder = Decoder(preset("tiny").replace(vocab_size=264)).initialise(1)
    generator = np.random.default_rng(2)
    for parameter in decoder.parameters.values():  # away from where they start, or it says one token all the time
        parameter.data[...] += generator.standard_normal(parameter.shape, dtype=np.float32) / 4
    return LanguageModel(decoder, tokenizer, defaults)


def greedy(m: LanguageModel, prompt: list[int], **options: object) -> list[int]:
    return tokens_after(m.decoder, prompt, max_new_tokens=20, temperature=0, **options)


def test_a_prompt_begins_as_the_tokenizer_says_and_does_not_end_so() -> None:
    plain = TOKENIZER.encode("hello").tolist()
    m = model(prefix=(BEGIN,), suffix=(END,), defaults=GenerationDefaults())
    with_begin = TOKENIZER.decode(greedy(m, [BEGIN, *plain]))
    assert m.generate("hello", max_new_tokens=20, temperature=0) == with_begin
    assert TOKENIZER.decode(greedy(m, plain)) != with_begin  # the begin token makes a difference


def test_stop_tokens_end_the_text() -> None:
    tokens = greedy(model(defaults=GenerationDefaults()), TOKENIZER.encode("hello").tolist())
    stop = next(t for i, t in enumerate(tokens) if i > 2 and t not in tokens[:i])
    m = model(defaults=GenerationDefaults(stop_tokens=(END, stop)))
    text = m.generate("hello", max_new_tokens=20, temperature=0)
    assert text == TOKENIZER.decode(tokens[: tokens.index(stop)])


def test_an_empty_prompt_starts_from_the_begin_token() -> None:
    m = model(defaults=GenerationDefaults(bos_token=BEGIN))
    assert m.generate("", max_new_tokens=20, temperature=0) == TOKENIZER.decode(greedy(m, [BEGIN]))
    with pytest.raises(GenerationError, match="the prompt is empty"):
        model(defaults=GenerationDefaults()).generate("")


def test_defaults_are_saved(tmp_path: Path) -> None:
    defaults = GenerationDefaults((3, END), BEGIN, None, 0.5, 10, 0.9, "{{ messages }}")
    model(defaults=defaults).save(tmp_path / "m.golm")
    assert gollm.load(tmp_path / "m.golm").defaults == defaults


def test_the_cache_is_as_large_as_is_needed() -> None:
    """A text that stays within the context, one that fills it, and one that goes beyond are the same in their
    beginnings."""
    m = model(defaults=GenerationDefaults())
    prompt = TOKENIZER.encode("hello").tolist()
    longest = tokens_after(m.decoder, prompt, max_new_tokens=100, temperature=0)
    for n in (1, 64 - len(prompt), 65 - len(prompt), 70):
        assert tokens_after(m.decoder, prompt, max_new_tokens=n, temperature=0) == longest[:n]
    assert np.unique(longest).size > 1


CHAT = "{% for m in messages %}<begin>{{ m.content }}<end>{% endfor %}{{ tools }}<begin>"


def test_chat() -> None:
    m = model(prefix=(BEGIN,), defaults=GenerationDefaults((END,), chat_template=CHAT, chat_templates={"x": "hello"}))
    messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "<end>"}]
    texts = [TOKENIZER.encode(text) for text in ("hello", "<end>", "None")]
    ids = [BEGIN, *texts[0], END, BEGIN, *texts[1], END, *texts[2], BEGIN]
    text = m.chat(messages, max_new_tokens=20, temperature=0)
    with gollm.Engine(m) as engine:
        assert engine.submit(ids, max_new_tokens=20, temperature=0).result().text == text
        named = engine.submit(texts[0], max_new_tokens=20, temperature=0).result().text
    assert m.chat(messages, gollm.Sampling(temperature=0), max_new_tokens=20) == text
    assert m.chat(messages, template="x", max_new_tokens=20, temperature=0) == named
    assert m.chat(messages, tools=[{"name": "f"}], max_new_tokens=20, temperature=0) != text
    assert len(m.chat(messages, temperature=0)) < 2000  # until the context is full
    with pytest.raises(GenerationError, match="this model has no chat template"):
        model(defaults=GenerationDefaults()).chat(messages)
    with pytest.raises(GenerationError, match=r"more than this model's context \(64\)"):
        m.chat([{"role": "user", "content": "hello " * 40}])


def test_embed() -> None:
    """Each text alone, as a prompt is framed; the pooled output of the last norm."""
    m = model(prefix=(BEGIN,), defaults=GenerationDefaults())
    texts = ["hello", "hello world, this is", ""]
    for pooling, pool in (("mean", lambda h: h.mean(axis=0)), ("last", lambda h: h[-1])):
        vectors = m.embed(texts, pooling=pooling)
        assert vectors.shape == (3, m.config.d_model) and vectors.dtype == np.float32
        for text, vector in zip(texts, vectors, strict=True):
            ids = np.array([[BEGIN, *TOKENIZER.encode(text)]], np.int32)
            with gollm.no_grad():
                hidden = m.decoder.hidden(Batch.of_sequences(ids)).data[0]
            np.testing.assert_array_equal(vector, pool(hidden))
            np.testing.assert_array_equal(m.embed(text, pooling=pooling)[0], vector)
        normalized = m.embed(texts, pooling=pooling, normalize=True)
        np.testing.assert_allclose(np.linalg.norm(normalized, axis=1), 1, rtol=1e-6)
        np.testing.assert_allclose(
            normalized * np.linalg.norm(vectors, axis=1, keepdims=True), vectors, rtol=1e-4, atol=1e-6
        )
    assert m.embed([]).shape == (0, m.config.d_model)
    with pytest.raises(GenerationError, match="pooling is 'max'; it must be 'mean' or 'last'"):
        m.embed("hello", pooling="max")
    with pytest.raises(GenerationError, match="a text is 1; it must be text"):
        m.embed([1])  # type: ignore[list-item]
    with pytest.raises(GenerationError, match=r"context \(64\)"):
        m.embed("xyz" * 100)
    with pytest.raises(GenerationError, match="the prompt is empty"):
        model(defaults=GenerationDefaults()).embed("")
