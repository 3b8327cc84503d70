"""GGUF files: what is written comes back, exactly or within the rounding of its type."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest

from gollm.errors import FormatError, GollmWarning
from gollm.formats import convert, format_named, open_model, recognise
from gollm.formats.source import Source
from gollm.model.config import ModelConfig
from gollm.model.generation_defaults import GenerationDefaults
from gollm.tokenizers import BPETokenizer, CharacterTokenizer, SentencePieceTokenizer, Vocabulary
from gollm.tokenizers.added_tokens import AddedToken
from gollm.tokenizers.sentencepiece import PieceType

from .sources import contents, random_source

gguf = pytest.importorskip("gguf")

TEXT = "the cat sat on the mat, and the rat sat on the cat: 1234 naïve \U0001f600 ideas\n" * 3


def llama(**changes) -> ModelConfig:
    base = {
        "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "d_model": 64, "d_ff": 96, "vocab_size": 290, "context": 32,
        "norm": "rmsnorm", "position": "rope", "gated_mlp": True, "activation": "silu", "bias": False,
        "tied_head": True,
    }  # fmt: skip
    return ModelConfig(**{**base, **changes})


def gpt2(**changes) -> ModelConfig:
    return ModelConfig(**{"n_layers": 2, "n_heads": 4, "d_model": 64, "vocab_size": 290, "context": 32, **changes})


LLAMA_3 = {"rope_scaling": "llama3", "rope_factor": 8.0, "rope_original_context": 8192, "rope_theta": 500000.0}
CONFIGS = {
    "llama": llama(),
    "untied, one kv head": llama(tied_head=False, n_kv_heads=1, vocab_size=291),
    "head size of its own": llama(n_heads=3, n_kv_heads=3, head_dim=10),
    "qkv biases": llama(qkv_bias=True),
    "biases": llama(qkv_bias=True, output_bias=True, mlp_bias=True),
    "linear": llama(rope_scaling="linear", rope_factor=2.5, norm_eps=1e-6),
    "llama3": llama(head_dim=64, **LLAMA_3),
    "rows of 24 and 44": llama(d_model=24, d_ff=44),
    "gpt2": gpt2(),
    "gpt2, untied, narrow": gpt2(tied_head=False, d_ff=96),
}


def written(source: Source, path, dtype="f32"):
    format_named("gguf").write(source, path, dtype)
    return open_model(path)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_float32_comes_back_bit_for_bit(tmp_path, config):
    source, arrays = random_source(config)
    with written(source, tmp_path / "model.gguf") as back:
        assert back.config == config
        found = contents(back)
    assert all(np.array_equal(found[name], arrays[name]) for name in arrays)
    assert recognise(tmp_path / "model.gguf").name == "gguf"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.gguf"]


# Of the largest number in a row of 32: half a step of each type, and of the float16 that holds the step.
@pytest.mark.parametrize(("dtype", "share"), [("f16", 2**-11), ("bf16", 2**-8), ("q8_0", 0.5 / 127), ("q4_0", 1 / 8)])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_other_types_come_back_within_their_rounding(tmp_path, config, dtype, share):
    source, arrays = random_source(config)
    with written(source, tmp_path / "model.gguf", dtype) as back:
        assert back.config == config
        found = contents(back)
    for name, array in arrays.items():
        if array.ndim == 1 or name == "position_embedding":
            assert np.array_equal(found[name], array)
            continue
        rows = array if array.shape[1] % 32 else array.reshape(-1, 32)
        bound = np.abs(rows).max(1, keepdims=True) * (share + 2**-10)
        assert (np.abs(found[name].reshape(rows.shape) - rows) <= bound).all()
        assert not np.array_equal(found[name], array)


@pytest.mark.parametrize("dtype", ["f16", "bf16", "q8_0", "q4_0"])
def test_what_was_rounded_once_is_not_rounded_again(tmp_path, dtype):
    source, _ = random_source(llama(tied_head=False))
    with written(source, tmp_path / "once.gguf", dtype) as once:
        format_named("gguf").write(once, tmp_path / "twice.gguf", dtype)
    assert (tmp_path / "once.gguf").read_bytes() == (tmp_path / "twice.gguf").read_bytes()


def test_rows_that_blocks_cannot_hold_are_float16(tmp_path):
    source, _ = random_source(llama(d_ff=40))
    format_named("gguf").write(source, tmp_path / "model.gguf", "q4_0")
    with open_model(tmp_path / "model.gguf") as back:
        assert back.dtype == "Q8_0, Q4_0, F16"
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    assert types["blk.0.ffn_down.weight"] == "F16" and types["blk.0.ffn_up.weight"] == "Q4_0"
    assert types["token_embd.weight"] == "Q8_0"  # the head
    assert types["blk.0.attn_norm.weight"] == "F32"


def test_gpt2_without_biases_has_zeros_for_them(tmp_path):
    source, arrays = random_source(gpt2(bias=False))
    with written(source, tmp_path / "model.gguf") as back:
        assert back.config == gpt2()
        found = contents(back)
    assert all(not array.any() for name, array in found.items() if name.endswith(".bias"))
    assert all(np.array_equal(found[name], array) for name, array in arrays.items())


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (llama(activation="gelu"), "llama with silu, and this model has gelu"),
        (gpt2(activation="relu"), "gpt2 with gelu_tanh, and this model has relu"),
        (llama(sliding_window=8), "sliding_window of 8"),
        (llama(sliding_window=8, window_layers=(1,)), "sliding_window of 8"),
        (gpt2(head_dim=8), "4 * 8 and 64"),
        (llama(norm="layernorm"), "norm 'layernorm'"),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused(tmp_path, config, words):
    source, _ = random_source(config)
    with pytest.raises(FormatError) as error:
        format_named("gguf").write(source, tmp_path / "model.gguf", "f32")
    assert words in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", ["f16", "q8_0", "q4_0"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e38])
def test_a_weight_that_a_type_cannot_hold_is_refused(tmp_path, dtype, value):
    source, arrays = random_source(llama())
    arrays["blocks.1.mlp.up.weight"][3, 4] = value
    if dtype == "f16" and not np.isfinite(value):
        format_named("gguf").write(source, tmp_path / "model.gguf", dtype)
        return
    with pytest.raises(FormatError, match="f32"):
        format_named("gguf").write(source, tmp_path / "model.gguf", dtype)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("theta", [10000.0, 500000.0])
@pytest.mark.parametrize("head_dim", [2, 4, 8, 64, 128])
@pytest.mark.parametrize("scaling", [(8.0, 1.0, 4.0, 8192), (32.0, 1.0, 4.0, 8192), (4.0, 2.0, 3.0, 100)])
def test_llama3_scaling_comes_back_from_its_table(tmp_path, theta, head_dim, scaling):
    """The file has only the divisors of the angles: other numbers may come back, but the same angles."""
    from gollm.formats.gguf.config import rope_divisors

    factor, low, high, original = scaling
    config = llama(
        head_dim=head_dim, rope_theta=theta, rope_scaling="llama3", rope_factor=factor, rope_low_freq_factor=low,
        rope_high_freq_factor=high, rope_original_context=original,
    )  # fmt: skip
    source, _ = random_source(config)
    with written(source, tmp_path / "model.gguf") as back:
        found = back.config
    table = rope_divisors(config)
    if (table == 1).all():
        assert found.rope_scaling == "none"
    else:
        assert np.allclose(rope_divisors(found), table, rtol=1e-5, atol=0)
    if head_dim >= 64 and low == 1:
        assert found == config


def test_tokenizer_and_defaults_come_back(tmp_path):
    tokenizer = BPETokenizer.train(TEXT, 290, special_tokens=["<|endoftext|>", "<|user|>"])
    defaults = GenerationDefaults(
        stop_tokens=(tokenizer.special_tokens["<|endoftext|>"], tokenizer.special_tokens["<|user|>"]),
        bos_token=3, pad_token=5, temperature=0.7, top_k=40, top_p=0.9, chat_template="{{ messages }}",
        min_p=0.25, repetition_penalty=1.5, chat_templates={"tool_use": "{{ tools }}"},
    )  # fmt: skip
    config = llama(vocab_size=tokenizer.vocab_size + 7)
    source, _ = random_source(config)
    source.tokenizer, source.defaults = tokenizer, defaults
    with written(source, tmp_path / "model.gguf") as back:
        assert back.defaults == defaults
        assert back.config == config
        assert back.tokenizer.to_state()[0] == tokenizer.to_state()[0]
        assert back.tokenizer.encode(TEXT).tolist() == tokenizer.encode(TEXT).tolist()
        assert list(back.tokenizer.vocabulary) == list(tokenizer.vocabulary)
    keys = gguf.GGUFReader(tmp_path / "model.gguf").fields
    assert len(keys["tokenizer.ggml.tokens"].data) == config.vocab_size


def test_the_template_of_a_tokenizer_comes_back(tmp_path):
    learned = BPETokenizer.train(TEXT, 290, special_tokens=["<s>", "</s>"])
    begin, end = learned.special_tokens.values()
    tokenizer = BPETokenizer(learned.vocabulary, learned.merges, learned.special_tokens, prefix=(begin,), suffix=(end,))
    source, _ = random_source(llama(vocab_size=tokenizer.vocab_size))
    source.tokenizer = tokenizer
    with written(source, tmp_path / "model.gguf") as back:
        assert (back.tokenizer.prefix, back.tokenizer.suffix) == ((begin,), (end,))
        assert (back.defaults.bos_token, back.defaults.stop_tokens) == (begin, (end,))


# What comes back of cl100k is LLaMA-3's pattern, the nearest that has a name.
@pytest.mark.parametrize(
    ("pattern", "options", "name", "back"),
    [
        ("gpt2", {}, "gpt-2", "gpt2"),
        ("llama3", {}, "dbrx", "llama3"),
        ("llama3", {"ignore_merges": True}, "llama-bpe", "llama3"),
        ("cl100k", {}, "dbrx", "llama3"),
        ("cl100k", {"ignore_merges": True}, "llama-bpe", "llama3"),
        ("qwen2", {}, "deepseek-r1-qwen", "qwen2"),
        ("qwen2", {"normalizer": "NFC"}, "qwen2", "qwen2"),
        ("o200k", {}, "gpt-4o", "o200k"),
        ("smollm", {}, "smollm", "smollm"),
    ],
)
def test_patterns_have_llama_cpps_names(tmp_path, pattern, options, name, back):
    learned = BPETokenizer.train(TEXT, 290, pattern=pattern, special_tokens=["<|end_of_text|>"])
    added = [
        AddedToken("<|end_of_text|>", learned.vocab_size - 1),
        AddedToken("<now>", learned.vocab_size, special=False),
    ]
    vocabulary = Vocabulary.of([*learned.vocabulary, b"<now>"])
    tokenizer = BPETokenizer(vocabulary, learned.merges, pattern=pattern, added_tokens=added, **options)
    source, _ = random_source(llama(vocab_size=tokenizer.vocab_size))
    source.tokenizer = tokenizer
    with written(source, tmp_path / "model.gguf") as found:
        header, arrays = found.tokenizer.to_state()
        expected, expected_arrays = tokenizer.to_state()
        assert header == {**expected, "pattern": back}
        assert all(np.array_equal(arrays[key], expected_arrays[key]) for key in expected_arrays)
        assert found.defaults.stop_tokens == (learned.vocab_size - 1,)
    assert gguf.GGUFReader(tmp_path / "model.gguf").get_field("tokenizer.ggml.pre").contents() == name


def sentencepiece(pieces=("a", "b", " ", "ab", " a", " ab", "é"), **changes) -> SentencePieceTokenizer:
    kinds = [PieceType.UNKNOWN, PieceType.CONTROL, PieceType.CONTROL, *[PieceType.BYTE] * 256]
    tokens = [b"<unk>", b"<s>", b"</s>", *(bytes([byte]) for byte in range(256)), *(p.encode() for p in pieces)]
    scores = np.array([0.0] * 259 + [-5.0, -6.0, -7.0, -1.0, -2.0, -3.0, -4.0][: len(pieces)], np.float32)
    types = np.array([*kinds, *[PieceType.NORMAL] * len(pieces)], np.uint8)
    return SentencePieceTokenizer(
        Vocabulary.of(tokens), types, **{"scores": scores, "prefix": (1,), "suffix": (2,), **changes}
    )


@pytest.mark.parametrize("changes", [{}, {"dummy_prefix": "never", "prefix": (), "suffix": ()}])
def test_sentencepiece_comes_back(tmp_path, changes):
    tokenizer = sentencepiece(**changes)
    source, _ = random_source(llama(vocab_size=tokenizer.vocab_size + 2))
    source.tokenizer = tokenizer
    with written(source, tmp_path / "model.gguf") as found:
        header, arrays = found.tokenizer.to_state()
        assert header == tokenizer.to_state()[0]
        assert all(np.array_equal(array, arrays[key]) for key, array in tokenizer.to_state()[1].items())
        assert found.tokenizer.encode("ab é\n").tolist() == tokenizer.encode("ab é\n").tolist()
        assert found.defaults.stop_tokens == (2,)


def learned(text=TEXT, size=290, **options):
    trained = BPETokenizer.train(text, size)
    return BPETokenizer(trained.vocabulary, trained.merges, **options)


@pytest.mark.parametrize(
    ("tokenizer", "words"),
    [
        (CharacterTokenizer.train("some text"), "no character tokenizers"),
        (learned(pattern=("smollm", "llama3")), "no name for this tokenizer's rules"),
        (learned(add_prefix_space=True), "add_prefix_space True"),
        (learned(ignore_merges=True), "ignore_merges True"),
        (learned(prefix=(1, 2)), "this tokenizer 2 and 0"),
        (learned("abc", 256), "no merges"),
        (sentencepiece(remove_extra_spaces=True), "normalises text"),
        (sentencepiece(pieces=["a", "a "], split_spaces=True), "never joins a space"),
        (BPETokenizer.train(TEXT * 50, 292), "has 292 tokens, and the model only 290"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.kind,
)
def test_a_tokenizer_that_gguf_has_not_is_refused(tmp_path, tokenizer, words):
    source, _ = random_source(llama())
    source.tokenizer = tokenizer
    with pytest.raises(FormatError, match=re.escape(words)):
        format_named("gguf").write(source, tmp_path / "model.gguf", "f32")
    assert not list(tmp_path.iterdir())


def test_convert_goes_there_and_back(tmp_path):
    source, _ = random_source(llama(tied_head=False))
    format_named("gguf").write(source, tmp_path / "one.gguf", "f32")
    convert(tmp_path / "one.gguf", tmp_path / "two.bin", "llama2.c")
    convert(tmp_path / "two.bin", tmp_path / "three.gguf", "gguf")
    with open_model(tmp_path / "one.gguf") as one, open_model(tmp_path / "three.gguf") as three:
        assert one.config == three.config
        a, b = contents(one), contents(three)
    assert all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("temperature", 1e39, False), ("temperature", 1e-60, True), ("temperature", 0, True), ("top_p", 1e-60, False),
        ("top_p", 1, True), ("repetition_penalty", 1e300, False), ("repetition_penalty", 1e-50, False),
        ("min_p", 1e-60, True), ("top_k", 2**31 - 1, True),
    ],
)  # fmt: skip
def test_defaults_beyond_float32(tmp_path, name, value, kept):
    source, _ = random_source(llama())
    source.defaults = GenerationDefaults(**{name: value})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with written(source, tmp_path / "m.gguf") as opened:
            found = getattr(opened.defaults, name)
    assert [name in str(warning.message) for warning in caught] == ([] if kept else [True])
    assert found == (type(found)(np.float32(value)) if name != "top_k" else value) if kept else found is None


def test_names_of_chat_templates(tmp_path):
    """As ggml's package writes them; of names that become the same the first is kept."""
    source, _ = random_source(llama())
    source.defaults = GenerationDefaults(chat_templates={"tool-use": "1", "tool_use": "2", "rag": "3", "é": "4"})
    with pytest.warns(GollmWarning) as caught:
        written(source, tmp_path / "m.gguf").close()
    assert [
        next(
            word
            for word in ("'tool-use' becomes", "'tool_use' is left out", "'é' becomes")
            if word in str(each.message)
        )
        for each in caught
    ] == ["'tool-use' becomes", "'tool_use' is left out", "'é' becomes"]
    with open_model(tmp_path / "m.gguf") as opened:
        assert opened.defaults.chat_templates == {"tool_use": "1", "rag": "3", "_": "4"}
