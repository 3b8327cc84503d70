"""Files that the weights do not need never cost the weights: what is odd in them is left out, with one warning."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gollm.errors import FormatError, GenerationError, GollmWarning
from gollm.formats import open_model
from gollm.formats.huggingface import model as huggingface
from gollm.formats.source import Source
from gollm.model.config import ModelConfig
from gollm.model.generation_defaults import GenerationDefaults

CONFIG = ModelConfig(
    n_layers=1, n_heads=2, d_model=16, d_ff=20, vocab_size=300, context=32, norm="rmsnorm",
    position="rope", gated_mlp=True, bias=False, activation="silu", tied_head=False,
)  # fmt: skip
ALL = GenerationDefaults(
    stop_tokens=(2, 5), bos_token=1, pad_token=0, temperature=0.5, top_k=3, top_p=0.5, chat_template="{{ a }}",
    min_p=0.25, repetition_penalty=1.5, max_new_tokens=7, chat_templates={"tool_use": "{{ b }}ü", "rag": ""},
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    zeros = Source(CONFIG, lambda name, out: np.copyto(out, 0))
    huggingface.write(zeros, tmp_path / "m", "f32")
    return tmp_path / "m"


def defaults_of(folder: Path) -> tuple[GenerationDefaults, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with open_model(folder) as source:
            defaults = source.defaults
    assert all(w.category is GollmWarning for w in caught)
    return defaults, [str(w.message) for w in caught]


def test_what_is_said_survives_a_folder_and_a_golm(tmp_path: Path) -> None:
    huggingface.write(Source(CONFIG, lambda name, out: np.copyto(out, 0), defaults=ALL), tmp_path / "m", "f32")
    assert defaults_of(tmp_path / "m") == (ALL, [])
    assert GenerationDefaults.from_dict(json.loads(json.dumps(ALL.to_dict()))) == ALL
    assert GenerationDefaults().to_dict() == {}


def test_repetition_penalty_and_length_of_a_greedy_model_are_kept(tmp_path: Path) -> None:
    defaults = GenerationDefaults((2,), temperature=0.0, repetition_penalty=1.25, max_new_tokens=9)
    huggingface.write(Source(CONFIG, lambda name, out: np.copyto(out, 0), defaults=defaults), tmp_path / "m", "f32")
    assert defaults_of(tmp_path / "m") == (defaults, [])


@pytest.mark.parametrize(
    "value", ["..", "../up", "a/b", "a\\b", "", ".hidden", "x" * 101, "\n", "default", "\ud800", 3]
)
def test_templates_have_names_that_files_can_have(value: Any) -> None:
    with pytest.raises(GenerationError, match="chat_templates"):
        GenerationDefaults.from_dict({"chat_templates": {value: "t"}})


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("temperature", "-1"), ("temperature", '"1.0"'), ("temperature", "NaN"), ("temperature", "Infinity"),
        ("temperature", "1e999"), ("temperature", "true"), ("temperature", "[]"), ("temperature", "9" * 5000),
        ("top_k", "-1"), ("top_k", "50.0"), ("top_k", "1" + 30 * "0"), ("top_k", "false"), ("top_k", '"50"'),
        ("top_p", "0"), ("top_p", "1.5"), ("top_p", "-0.1"), ("top_p", "{}"),
        ("min_p", "-0.1"), ("min_p", "2"), ("repetition_penalty", "0"), ("repetition_penalty", '"' + "x" * 9999 + '"'),
        ("max_new_tokens", "0"), ("max_new_tokens", "-5"), ("max_new_tokens", "2.0"),
        ("eos_token_id", '"2"'), ("eos_token_id", "2.0"), ("eos_token_id", "300"), ("eos_token_id", "-2"),
        ("eos_token_id", "true"), ("eos_token_id", '{"a": 1}'), ("eos_token_id", "1" + 30 * "0"),
        ("bos_token_id", '"1"'), ("pad_token_id", "[[0]]"), ("do_sample", '"false"'), ("do_sample", "0"),
    ],
)  # fmt: skip
def test_an_odd_value_is_left_out_with_one_warning(folder: Path, key: str, text: str) -> None:
    path = folder / "generation_config.json"
    path.write_text(f'{{"{key}": {text}, "repetition_penalty_": 1, "max_length": 1e400}}')
    defaults, said = defaults_of(folder)
    assert defaults == GenerationDefaults()
    assert len(said) == 1 and str(path) in said[0] and f"{key} is " in said[0] and "left out" in said[0]
    assert len(said[0]) < 300 + len(str(path)) and "\n" not in said[0]


def test_the_other_values_of_a_file_with_an_odd_one_are_kept(folder: Path) -> None:
    values = {"top_k": -1, "top_p": 0.9, "temperature": None, "eos_token_id": [2, "3", 300, 4], "pad_token_id": -1}
    (folder / "generation_config.json").write_text(json.dumps(values))
    defaults, said = defaults_of(folder)
    assert defaults == GenerationDefaults((2, 4), top_p=0.9)
    assert len(said) == 2 and "top_k is -1" in said[0] + said[1] and "'3'" in said[0] + said[1]


def test_an_odd_id_in_the_configuration_does_not_cost_the_weights(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": "2", "bos_token_id": 3}))
    defaults, said = defaults_of(folder)
    assert defaults == GenerationDefaults(bos_token=3)
    assert len(said) == 1 and "config.json: eos_token_id is '2'" in said[0]


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"not JSON", "is not JSON"),
        (b"", "is not JSON"),
        (b"[]", "instead of an object"),
        (b"{" * 100, "nested"),
        (b'{"a": ' * 100 + b"1" + b"}" * 100, "nested"),
        (b'{"a": "\xff"}', "is not JSON in UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "is not JSON in UTF-8"),
        (b" " * (9 << 20), "longer than 8 MB"),
        (None, "cannot read"),
    ],
)
def test_a_file_that_is_no_json_is_left_out(folder: Path, name: str, data: bytes | None, words: str) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).mkdir() if data is None else (folder / name).write_bytes(data)
    defaults, said = defaults_of(folder)
    assert defaults == GenerationDefaults()
    assert len(said) == 1 and words in said[0] and name in said[0] and "left out" in said[0]


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer_config.json", "chat_template.jinja"])
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs")
def test_a_fifo_in_its_place_is_left_out_at_once(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    _, said = defaults_of(folder)
    assert len(said) == 1 and "not a regular file" in said[0] and name in said[0]


def test_byte_order_marks_and_double_keys(folder: Path) -> None:
    config = (folder / "config.json").read_bytes()
    (folder / "config.json").write_bytes(b"\xef\xbb\xbf" + config)
    (folder / "generation_config.json").write_bytes(b'\xef\xbb\xbf{"top_k": 5, "top_k": 6}')
    (folder / "chat_template.jinja").write_bytes(b"\xef\xbb\xbf{{ a }}")
    defaults, said = defaults_of(folder)
    assert defaults == GenerationDefaults(top_k=6, chat_template="{{ a }}")
    assert len(said) == 1 and "'top_k' twice; the last one counts" in said[0]


def test_numbers_that_nobody_needs(folder: Path) -> None:
    values = {"model_max_length": int(1e30), "a": [1e30, {"b": 10**300}], "chat_template": "{{ a }}"}
    (folder / "tokenizer_config.json").write_text(json.dumps(values))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_max_length": int(1e30)}))
    assert defaults_of(folder) == (GenerationDefaults(chat_template="{{ a }}"), [])


@pytest.mark.parametrize("number", ["1" + 30 * "0", "1" + 200 * "0", "9" * 401, "NaN", "1e999"])
def test_the_configuration_is_as_strict_as_before(folder: Path, number: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    text = json.dumps({**config, "hidden_size": "here"}).replace('"here"', number)
    (folder / "config.json").write_text(text)
    with pytest.raises(FormatError, match=r"config\.json"):
        open_model(folder).close()


# --- chat templates --------------------------------------------------------------------------------------------------


def test_named_templates_of_older_folders(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    named = [{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]
    path.write_text(json.dumps({"chat_template": named}))
    assert defaults_of(folder) == (GenerationDefaults(chat_template="d", chat_templates={"tools": "t"}), [])
    path.write_text(json.dumps({"chat_template": named[:1]}))
    assert defaults_of(folder) == (GenerationDefaults(chat_templates={"tools": "t"}), [])
    odd = [*named, 3, {"name": "../up", "template": "x"}, {"name": "no"}, {"name": "odd", "template": ["x" * 10_000]}]
    path.write_text(json.dumps({"chat_template": odd}))
    defaults, said = defaults_of(folder)
    assert defaults == GenerationDefaults(chat_template="d", chat_templates={"tools": "t"})
    assert len(said) == 4 and all("left out" in text and len(text) < 400 for text in said)


def test_templates_in_files_replace_those_of_older_folders(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"chat_template": "old"}')
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "rag.jinja").write_text("r")
    (folder / "additional_chat_templates" / "notes.txt").write_text("r")
    assert defaults_of(folder) == (GenerationDefaults(chat_templates={"rag": "r"}), [])
    (folder / "chat_template.jinja").write_text("new")
    (folder / "additional_chat_templates" / "bad.jinja").write_bytes(b"\xff")
    defaults, said = defaults_of(folder)
    assert defaults == GenerationDefaults(chat_template="new", chat_templates={"rag": "r"})
    assert len(said) == 1 and "bad.jinja is not UTF-8 text (byte 0)" in said[0]


def test_a_number_of_templates_has_an_end(folder: Path) -> None:
    (folder / "additional_chat_templates").mkdir()
    for i in range(70):
        (folder / "additional_chat_templates" / f"{i}.jinja").write_text("x")
    defaults, said = defaults_of(folder)
    assert len(defaults.chat_templates) == 64 and len(said) == 1 and "64" in said[0]


@pytest.mark.parametrize("value", [3, [], {"default": 3}, "\ud800", True])
def test_a_template_that_is_not_text_is_left_out(folder: Path, value: Any) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": value}))
    defaults, said = defaults_of(folder)
    assert defaults == GenerationDefaults()
    assert len(said) == (0 if value == [] else 1) and all("chat_template is" in text for text in said)
