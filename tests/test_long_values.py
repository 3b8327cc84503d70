"""A value of a file that is thousands of characters long is cut in the message, in every reader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gollm import tokenizers
from gollm.errors import GollmError
from gollm.model.config import ModelConfig
from gollm.model.generation_defaults import GenerationDefaults
from gollm.options import files
from gollm.system.strict_json import parse_object, shorten

LONG = "x" * 10_000
TEXTS = [LONG, {LONG: LONG}, [LONG] * 1000, [[LONG]], LONG.encode()]


def message(action: Any) -> str:
    with pytest.raises(GollmError) as caught:
        action()
    text = str(caught.value)
    assert "\n" not in text and LONG[:100] not in text
    return text


@pytest.mark.parametrize(
    "value", [*TEXTS, 10**300, 10**5000, np.zeros((50, 50))], ids=lambda value: type(value).__name__
)
def test_shortened_values_fit_a_line(value: Any) -> None:
    assert len(shorten(value)) <= 60 and "\n" not in shorten(value)


@pytest.mark.parametrize("value", TEXTS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("key", ["kind", "vocab_size", "version", "special_tokens"])
@pytest.mark.parametrize("kind", ["bpe", "word", "character", "wordpiece", "sentencepiece"])
def test_tokenizer_states(kind: str, key: str, value: Any) -> None:
    tokens = np.frombuffer(b"ab", np.uint8)
    arrays: dict[str, Any] = {"tokens": tokens, "offsets": np.array([0, 1, 2], np.int64)}
    header = {"kind": kind, "version": 1, "vocab_size": 2, "special_tokens": {}, key: value}
    assert len(message(lambda: tokenizers.from_state(header, arrays))) < 500


@pytest.mark.parametrize("value", TEXTS, ids=lambda value: type(value).__name__)
def test_configurations_and_defaults(value: Any) -> None:
    for name in ("activation", "norm", "rope_scaling", "n_layers", "bias", "dropout"):
        assert len(message(lambda name=name: ModelConfig.from_dict({name: value}))) < 300
    for name in ("stop_tokens", "top_k", "temperature", "chat_templates", "bos_token"):
        assert len(message(lambda name=name: GenerationDefaults.from_dict({name: value}))) < 300


def test_names() -> None:
    for action in (
        lambda: ModelConfig.from_dict({LONG: 1}),
        lambda: ModelConfig.from_dict({"preset": LONG}),
        lambda: GenerationDefaults.from_dict({LONG: 1}),
        lambda: parse_object(f'{{"{LONG}": 1, "{LONG}": 2}}'.encode(), "it", GollmError),
        lambda: parse_object(b'{"a": ' + b"9" * 9999 + b"}", "it", GollmError),
    ):
        assert len(message(action)) < 500


@pytest.mark.parametrize("ending", ["json", "yaml"])
def test_configuration_files(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"c.{ending}"
    line = f'"{LONG}": 1'
    path.write_text(f"{{{line}, {line}}}" if ending == "json" else f"{line}\n{line}\n")
    assert len(message(lambda: files.load_file(path))) < 400


def test_tokenizer_files(tmp_path: Path) -> None:
    """Of names in a vocabulary, in merges and among added tokens."""
    letters = {chr(i): i for i in range(300)}
    path = tmp_path / "tokenizer.json"
    model = {"type": "BPE", "vocab": {}, "merges": []}
    for changes in (
        {"model": {**model, "vocab": {LONG: 5}}},
        {"model": {**model, "vocab": letters, "merges": [f"{LONG} {LONG}"]}},
        {"model": {**model, "type": LONG}},
        {"model": {**model, "type": "WordPiece", "vocab": {LONG: 7}, "unk_token": LONG}},
        {"added_tokens": [{"id": 0, "content": LONG, "special": LONG}], "model": model},
        {"normalizer": {"type": LONG}, "model": model},
        {"pre_tokenizer": {"type": LONG}, "model": model},
    ):
        path.write_text(json.dumps(changes))
        assert len(message(lambda: tokenizers.load(path)).replace(str(path), "")) < 600
    (tmp_path / "vocab.json").write_text(json.dumps({LONG: 0}))
    for merges in (f"#version: 0.2\n{LONG} {LONG}\n", f"#version: 0.2\n{LONG}\n"):
        (tmp_path / "merges.txt").write_text(merges)
        assert len(message(lambda: tokenizers.load(tmp_path / "merges.txt")).replace(str(tmp_path), "")) < 600
