"""Plain JSON models: what is written is read back bit for bit, by hand or by gollm; what is missing or odd is named."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gollm
from gollm.errors import FormatError
from gollm.formats import convert, format_named, open_model
from gollm.formats.source import Source
from gollm.language_model import LanguageModel
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder
from gollm.tokenizers import BPETokenizer, CharacterTokenizer, WordPieceTokenizer, WordTokenizer

from .sources import contents, random_source

GPT2 = ModelConfig(n_layers=2, n_heads=2, d_model=6, vocab_size=5, context=4, d_ff=10)
LLAMA = ModelConfig(
    n_layers=2, n_heads=4, n_kv_heads=2, d_model=12, head_dim=4, d_ff=9, vocab_size=7, context=8, norm="rmsnorm",
    position="rope", gated_mlp=True, activation="silu", bias=False, tied_head=False, rope_theta=1e6, norm_eps=1e-6,
)  # fmt: skip
CONFIGS = [
    GPT2,
    LLAMA,
    GPT2.replace(bias=False, activation="relu", tied_head=False),
    GPT2.replace(qkv_bias=False, sliding_window=2),
    GPT2.replace(n_layers=25, sliding_window=2, window_layers=tuple(range(24))),
    LLAMA.replace(qkv_bias=True, rope_scaling="llama3", rope_factor=8.0, rope_original_context=4),
]


def write(source: Source, path) -> None:
    format_named("json").write(source, path, "f32")


def by_hand() -> dict:
    """What a person writes: a model with all the required keys and no others."""
    rng = np.random.default_rng(0)

    def random(*shape):
        return rng.integers(-4, 5, shape).tolist()

    block = {
        "attention_norm": random(4), "query": random(4, 4), "key": random(4, 4), "value": random(4, 4),
        "output": random(4, 4), "mlp_norm": random(4), "up": random(6, 4), "down": random(4, 6),
    }  # fmt: skip
    return {
        "d_model": 4, "n_layers": 1, "n_heads": 2, "vocab": ["a", "b", "<unk>"], "max_seq_len": 5, "eps": 1e-5,
        "token_embedding": random(3, 4), "position_embedding": random(5, 4), "blocks": [block],
        "final_norm": random(4),
    }  # fmt: skip


@pytest.mark.parametrize("config", CONFIGS)
def test_round_trip(tmp_path, config):
    source, arrays = random_source(config)
    arrays["token_embedding"][0, :4] = [1e-45, 3.4028235e38, -0.0, 1 / 3]
    write(source, tmp_path / "model.json")
    with open_model(tmp_path / "model.json") as opened:
        assert opened.config == config
        found = contents(opened)
    assert all(np.array_equal(found[name], arrays[name]) for name in arrays)
    assert np.signbit(found["token_embedding"][0, 2])


def test_a_byte_order_mark_is_skipped(tmp_path):
    source, _ = random_source(ModelConfig(n_layers=1, n_heads=2, d_model=16, vocab_size=5, context=8))
    write(source, tmp_path / "model.json")
    (tmp_path / "model.json").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "model.json").read_bytes())
    with open_model(tmp_path / "model.json") as opened:
        assert opened.config == source.config


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=30, max_size=30))
@settings(max_examples=100, deadline=None)
def test_every_float32_survives(tmp_path_factory, numbers):
    path = tmp_path_factory.getbasetemp() / "model.json"
    source, arrays = random_source(GPT2)
    arrays["token_embedding"][:] = np.array(numbers, np.float32).reshape(5, 6)
    write(source, path)
    with open_model(path) as opened:
        assert contents(opened)["token_embedding"].tobytes() == arrays["token_embedding"].tobytes()


def test_written_by_hand(tmp_path):
    document = by_hand()
    (tmp_path / "model.json").write_text(json.dumps(document))
    model = gollm.load(tmp_path / "model.json")
    config = model.config
    assert (config.d_ff, config.context, config.vocab_size, config.tied_head) == (6, 5, 3, True)
    assert not config.bias and config.family == "gpt2"
    block, parameters = document["blocks"][0], model.decoder.parameters
    assert parameters["blocks.0.attention.qkv.weight"].data.tolist() == block["query"] + block["key"] + block["value"]
    assert parameters["blocks.0.mlp.up.weight"].data.tolist() == block["up"]
    assert model.tokenizer.encode("abba?").tolist() == [0, 1, 1, 0, 2]
    model.save(tmp_path / "model.golm")
    convert(tmp_path / "model.golm", tmp_path / "again.json", "json")
    assert json.loads((tmp_path / "again.json").read_text()) == document


def test_matrices_may_all_have_the_inputs_first(tmp_path):
    document = by_hand()
    expected = gollm_arrays(tmp_path, document)
    for key in ("query", "key", "value", "output", "up", "down"):
        document["blocks"][0][key] = np.transpose(document["blocks"][0][key]).tolist()
    assert all(np.array_equal(a, b) for a, b in zip(gollm_arrays(tmp_path, document), expected, strict=True))
    document["blocks"][0]["up"] = np.transpose(document["blocks"][0]["up"]).tolist()
    with pytest.raises(FormatError, match=r"blocks\[0\].up is \(outputs, inputs\) and blocks\[0\].down is \(inputs"):
        gollm_arrays(tmp_path, document)


def gollm_arrays(tmp_path, document):
    (tmp_path / "model.json").write_text(json.dumps(document))
    with open_model(tmp_path / "model.json") as source:
        return list(contents(source).values())


@pytest.mark.parametrize(
    "tokenizer",
    [
        CharacterTokenizer.train("to be or not to be"),
        CharacterTokenizer.train("to be, ünicode", special_tokens=["<pad>", "[BOS]"], unknown_token="<unk>"),
        WordTokenizer.train("to be or not to be", special_tokens=["<|endoftext|>"]),
    ],
)
def test_vocabularies(tmp_path, tokenizer):
    model = LanguageModel(Decoder(GPT2.replace(vocab_size=tokenizer.vocab_size)).initialise(0), tokenizer)
    model.save(tmp_path / "a.golm")
    convert(tmp_path / "a.golm", tmp_path / "a.json", "json")
    again = gollm.load(tmp_path / "a.json").tokenizer
    assert type(again) is type(tokenizer) and again.to_state()[0] == tokenizer.to_state()[0]
    assert again.encode("not to be").tolist() == tokenizer.encode("not to be").tolist()


def test_words_between_spaces(tmp_path):
    document = {**by_hand(), "vocab": ["one", "Two", "<unk>"]}
    (tmp_path / "model.json").write_text(json.dumps(document))
    model = gollm.load(tmp_path / "model.json")
    assert model.tokenizer.encode("one Two  two one").tolist() == [0, 1, 2, 0]
    assert model.tokenizer.decode([0, 1, 0]) == "one Two one"
    model.save(tmp_path / "model.golm")
    convert(tmp_path / "model.golm", tmp_path / "again.json", "json")
    assert json.loads((tmp_path / "again.json").read_text()) == document
    document["vocab"] = ["one", "two", "three"]
    (tmp_path / "model.json").write_text(json.dumps(document))
    with open_model(tmp_path / "model.json") as source:
        assert source.tokenizer is None and "no token for unknown ones" in source.without_tokenizer


def test_a_tokenizer_that_is_no_list_of_words_is_left_out_and_named(tmp_path):
    source, _ = random_source(GPT2)
    for tokenizer, words in (
        (BPETokenizer.train("aaabdaaabac", 259), "no tokenizer of the kind 'bpe'"),
        (CharacterTokenizer.train("abc", special_tokens=["end of text"]), "special tokens that do not look like"),
        (WordPieceTokenizer.train("to be or not to be", 30), "does more than a list of words says"),
    ):
        source.tokenizer, source.without_tokenizer = tokenizer, ""
        write(source, tmp_path / "a.json")
        assert words in source.without_tokenizer
        assert json.loads((tmp_path / "a.json").read_text())["vocab"] == 5


def test_what_json_cannot_hold_is_refused(tmp_path):
    source, arrays = random_source(GPT2)
    arrays["blocks.1.mlp.up.weight"][0, 0] = np.inf
    with pytest.raises(FormatError, match=r"blocks.1.mlp.up.weight are not finite"):
        write(source, tmp_path / "a.json")
    with pytest.raises(FormatError, match="JSON is for small ones"):
        write(random_source(GPT2.replace(vocab_size=400_000))[0], tmp_path / "a.json")
    assert not list(tmp_path.iterdir())


def changed(**changes):
    return lambda document: document.update(changes)


def in_block(**changes):
    return lambda document: document["blocks"][0].update(changes)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        *(
            (lambda d, key=key: d.pop(key), f'"{key}" is missing')
            for key in by_hand()
            if key not in ("d_model", "position_embedding")
        ),
        (lambda d: d.pop("position_embedding"), "position_embedding is missing"),
        (lambda d: d["blocks"][0].pop("up"), '"up" is missing in blocks[0]'),
        (lambda d: d["blocks"][0].pop("value"), "blocks[0].value is missing"),
        (in_block(query_bias=[1, 2, 3, 4]), "blocks[0].key_bias is missing"),
        (in_block(colour=[1]), "blocks[0] has the unknown key 'colour'; known are"),
        (in_block(**{"x" * 10_000: [1]}), "blocks[0] has the unknown key 'xxx"),
        (in_block(gate_bias=[1] * 6), "'blocks[0].gate_bias' does not belong"),
        (lambda d: d["blocks"].append({}) or d.update(n_layers=2), "blocks[1].attention_norm is missing"),
        (in_block(value=[[1]]), "blocks[0].value has the shape (1, 1); it must be (4, 4)"),
        (in_block(up=[[1, 2]]), "blocks[0].up has the shape (1, 2); it must have 4 (d_model) columns"),
        (in_block(down=[[1, 2]]), "blocks[0].down has the shape (1, 2); it must be (4, 6)"),
        (in_block(query=[[1, 2], [3]]), "blocks[0].query has rows of 2 and of 1 numbers"),
        (in_block(query=[]), "blocks[0].query must be a list of numbers"),
        (in_block(query=[[], []]), "blocks[0].query must be a list of numbers"),
        (in_block(query=[[[1]]]), "blocks[0].query must be a list of numbers"),
        (in_block(query=[["1"]]), "blocks[0].query must be a list of numbers"),
        (in_block(query=[[True]]), "blocks[0].query must be a list of numbers"),
        (in_block(query=7), "blocks[0].query must be a list of numbers"),
        (in_block(mlp_norm=[1e39] * 4), "blocks[0].mlp_norm has a number beyond those of float32"),
        (in_block(mlp_norm=[10**400] * 4), "blocks[0].mlp_norm has a number beyond those of float32"),
        (changed(token_embedding=[[1] * 4] * 2), "token_embedding has the shape (2, 4); it must be (3, 4)"),
        (changed(final_norm=[1] * 5), "final_norm has the shape (5,); it must be (4,)"),
        (changed(blocks=[]), "blocks must be a list"),
        (changed(blocks=[1]), "blocks must be a list"),
        (changed(n_layers=2), "n_layers is 2, but blocks has 1"),
        (changed(n_heads=3), "n_heads is 3; it must divide d_model (4)"),
        (changed(d_model="four"), "it must have 'four' (d_model) columns"),
        (changed(eps=-1), "norm_eps is -1"),
        (changed(eps="small"), "norm_eps is 'small'"),
        (changed(max_seq_len=0), "context is 0"),
        (changed(vocab=[]), "vocab_size is 0"),
        (changed(vocab=["a", "b", "a"]), "vocab has the word 'a' twice, at 0 and at 2"),
        (changed(vocab=["a", "b", 3]), "vocab[2] is 3; it must be a word"),
        (changed(vocab={"a": 1}), "vocab_size is {'a': 1}"),
        (changed(d_ff=6), '"d_ff" is not allowed'),
        (changed(preset="gpt2"), '"preset" is not allowed'),
        (changed(activation="swiglu"), "activation is 'swiglu'"),
        (changed(colour="red"), "the key 'colour' is unknown"),
        (changed(eps=10**100), "norm_eps is 1000"),
        (changed(activation="x" * 10_000), "activation is 'xxx"),
        (changed(**{"x" * 10_000: 1}), "is unknown"),
        (changed(d_model=[4] * 10_000), "it must have [4, 4"),
        (changed(vocab={"a": [1] * 10_000}), "vocab_size is {'a': [1, 1"),
    ],
)
def test_what_is_missing_or_odd_is_named(tmp_path, change, words):
    document = by_hand()
    change(document)
    with pytest.raises(FormatError) as error:
        gollm_arrays(tmp_path, document)
    assert words in str(error.value) and len(str(error.value)) < 400


def test_a_vocabulary_without_words(tmp_path):
    document = {**by_hand(), "vocab": 3}
    (tmp_path / "model.json").write_text(json.dumps(document))
    with open_model(tmp_path / "model.json") as source:
        assert source.config.vocab_size == 3 and source.tokenizer is None
        write(source, tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_text())["vocab"] == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"d_model": 1, "d_model": 2}', "twice"),
        ('{"d_model": NaN}', "NaN"),
        ('{"d_model": ' + "[" * 100_000, "deep"),
        ('{"d_model": [' + "{}," * 600_000 + "]}", "objects and lists"),
        ('{"d_model": [1,', "not JSON"),
        ('{"d_model": ' + "9" * 5000 + "}", "not JSON"),
        ('{"d_model": 1}' + " " * (16 << 20), "more than 16 MiB"),
    ],
)
def test_hostile_text(tmp_path, text, words):
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(FormatError) as error:
        open_model(tmp_path / "model.json")
    assert words in str(error.value) and len(str(error.value)) < 400
