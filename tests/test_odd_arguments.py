"""What cannot be a path, a tokenizer, a format or a stop token is refused in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import gollm
from generating import tokens_after
from gollm import formats, tokenizers
from gollm.errors import CheckpointError, ConfigError, DTypeError, FormatError, GenerationError, TokenizerError

NO_PATHS: list[Any] = [None, 3, b"x", True, [], 1.5, pytest.param(object(), id="object")]


@pytest.fixture(scope="module")
def model() -> gollm.LanguageModel:
    config = gollm.ModelConfig(n_layers=1, n_heads=2, d_model=8, vocab_size=300, context=8)
    return gollm.LanguageModel(gollm.Decoder(config), None)


@pytest.mark.parametrize("path", NO_PATHS, ids=repr)
def test_paths(model: gollm.LanguageModel, path: Any, tmp_path: Path) -> None:
    file = tmp_path / "m.golm"
    model.save(file)
    said = "must be a str or a pathlib.Path"
    for refused in (gollm.load, formats.recognise, lambda path: formats.convert(path, tmp_path / "new.golm")):
        with pytest.raises(FormatError, match=said):
            refused(path)
    with pytest.raises(FormatError, match=said):
        formats.convert(file, path)
    for refused in (tokenizers.load, formats.open_tokenizer):
        with pytest.raises(TokenizerError, match=said):
            refused(path)
    with pytest.raises(CheckpointError, match=said):
        model.save(path)
    if path is not None:
        with pytest.raises(TokenizerError, match=said):
            gollm.load(file, tokenizer=path)


@pytest.mark.parametrize("name", ["x", 3, "", b"golm", [], "golm" * 3000], ids=lambda name: repr(name)[:20])
def test_formats_and_dtypes(model: gollm.LanguageModel, name: Any, tmp_path: Path) -> None:
    model.save(tmp_path / "m.golm")
    for option in ("to", "dtype"):
        with pytest.raises(FormatError) as caught:
            formats.convert(tmp_path / "m.golm", tmp_path / "new.golm", **{option: name})
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize("odd", [-1, 2.5, "1", None, True], ids=repr)
def test_numbers_of_generation(model: gollm.LanguageModel, odd: Any) -> None:
    for name in ("seed", "n", *(("max_new_tokens",) if odd is not None else ())):
        with pytest.raises(GenerationError, match=f"{name} is .*; it must be a whole number"):
            model.generate("x", **{name: odd})
    if odd is not True:
        with pytest.raises(ConfigError, match=r"the seed is .*; it must be a whole number, 0 or more"):
            model.decoder.initialise(odd)


@pytest.mark.parametrize("odd", [None, 3, "data.txt", [], {"steps": 1}], ids=repr)
def test_objects_of_another_kind(model: gollm.LanguageModel, odd: Any) -> None:
    for options, refused in ((gollm.TrainOptions, gollm.train), (gollm.FinetuneOptions, gollm.finetune)):
        with pytest.raises(ConfigError, match=rf"the options are .*; they must be a gollm\.{options.__name__}"):
            refused(odd)
    for refused in (gollm.Engine, gollm.Conversation):
        with pytest.raises(GenerationError, match=r"the model is .*; it must be one that gollm\.load returns"):
            refused(odd)
    with pytest.raises(ConfigError, match=r"the configuration is .*; it must be a gollm\.ModelConfig"):
        gollm.Decoder(odd)
    if not isinstance(odd, str | list):
        with pytest.raises(GenerationError, match=r"the texts are .*; they must be text"):
            model.embed(odd)
        with pytest.raises(FormatError, match=r"must be a str or a pathlib\.Path"):
            model.with_adapter(odd)
    if odd in ("data.txt", {"steps": 1}):
        with pytest.raises(DTypeError, match=r"the values are .*; they must be numbers, or lists of them"):
            gollm.tensor(odd)


@pytest.mark.parametrize("stop", [None, 1.5, [None], [1.5], [[1]], [-1], True], ids=repr)
def test_stop_tokens(model: gollm.LanguageModel, stop: Any) -> None:
    with pytest.raises(GenerationError, match=r"stop is .*; it must be a string, a token id, or a list of them"):
        tokens_after(model.decoder, [1], max_new_tokens=2, stop=stop)
