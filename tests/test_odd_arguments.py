"""What cannot be a path, a tokenizer, a format or a stop token is refused in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import gollm
from generating import tokens_after
from gollm import formats, tokenizers
from gollm.errors import CheckpointError, FormatError, GenerationError, TokenizerError

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


@pytest.mark.parametrize("stop", [None, 1.5, [None], [1.5], [[1]], [-1], True], ids=repr)
def test_stop_tokens(model: gollm.LanguageModel, stop: Any) -> None:
    with pytest.raises(GenerationError, match=r"stop is .*; it must be a string, a token id, or a list of them"):
        tokens_after(model.decoder, [1], max_new_tokens=2, stop=stop)
