"""What a model's file says about generating is heard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import gollm
from generating import tokens_after
from gollm.errors import GenerationError
from gollm.language_model import LanguageModel
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
