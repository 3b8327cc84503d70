"""llama.cpp runs what is written here: the same logits, greedy text and token ids. Its C makes the same blocks."""

from __future__ import annotations

import ctypes
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import gollm
from gollm.benchmarks import with_llama_cpp
from gollm.formats import format_named, open_model, open_tokenizer
from gollm.formats.gguf import block_types as gguf_blocks
from gollm.formats.gguf.pretokenizers import RULES as RULES_BY_NAME
from gollm.formats.source import Source
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder
from gollm.model.generation_defaults import GenerationDefaults
from gollm.tokenizers import BPETokenizer, SentencePieceTokenizer, Tokenizer, Vocabulary
from gollm.tokenizers.files.gpt2 import to_vocab
from gollm.tokenizers.files.piece_scores import merges_of
from gollm.tokenizers.sentencepiece import PieceType
from horrors import TEXTS
from llama import Model, functions, ggml, quantise

pytest.importorskip("gguf")
pytestmark = pytest.mark.slow

CORPUS = "The cat sat on the mat, and the rat's hat sat on the cat: 1234 naïve ideas!\n\n  It's 12.5 € today.\n" * 4
LLAMA_3 = {"rope_scaling": "llama3", "rope_factor": 8.0, "rope_original_context": 16, "rope_theta": 500000.0}


def llama(**changes: Any) -> ModelConfig:
    base: dict[str, Any] = {
        "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "d_model": 64, "d_ff": 96, "vocab_size": 300, "context": 64,
        "norm": "rmsnorm", "position": "rope", "gated_mlp": True, "activation": "silu", "bias": False,
        "tied_head": True,
    }  # fmt: skip
    return ModelConfig(**{**base, **changes})


def gpt2(**changes: Any) -> ModelConfig:
    return ModelConfig(**{"n_layers": 2, "n_heads": 4, "d_model": 64, "vocab_size": 300, "context": 64, **changes})


CONFIGS = {
    "llama": llama(),
    "one kv head, untied": llama(n_kv_heads=1, tied_head=False, vocab_size=301),
    "head size of its own": llama(n_heads=3, n_kv_heads=3, head_dim=24),
    "biases": llama(qkv_bias=True, output_bias=True, mlp_bias=True),
    "linear": llama(rope_scaling="linear", rope_factor=2.5),
    "llama3": llama(head_dim=64, **LLAMA_3),
    "rows of 72 and 44": llama(d_model=72, d_ff=44, n_heads=2, n_kv_heads=2),
    "gpt2": gpt2(),
    "gpt2, untied, without biases": gpt2(bias=False, tied_head=False),
    "gpt2, few kv heads": gpt2(n_kv_heads=2),
}


def random_source(config: ModelConfig, seed: int = 0) -> Source:
    rng = np.random.default_rng(seed)
    arrays = {
        name: (0.2 * rng.standard_normal(p.shape)).astype(np.float32) for name, p in Decoder(config).parameters.items()
    }
    return Source(config, lambda name, out: np.copyto(out, arrays[name]))


def llama_logits(path: Path, ids: list[int]) -> np.ndarray:
    with Model(path) as model:
        return model.logits(ids)


# Of the largest logit. llama.cpp looks GELU up in a table of float16, and quantises activations for Q8_0 and Q4_0.
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("f32", 1e-3), ("f16", 2e-3), ("bf16", 1e-2), ("q8_0", 3e-2), ("q4_0", 8e-2)]
)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_logits_agree(tmp_path, config, dtype, tolerance):
    format_named("gguf").write(random_source(config), tmp_path / "model.gguf", dtype)
    ids = np.random.default_rng(1).integers(0, config.vocab_size, 50).tolist()
    ours = gollm.load(tmp_path / "model.gguf").logits(ids)[0]
    theirs = llama_logits(tmp_path / "model.gguf", ids)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


@pytest.mark.parametrize("make", [llama, gpt2])
def test_greedy_text_is_the_same(tmp_path, make):
    tokenizer = BPETokenizer.train(CORPUS, 310, special_tokens=["<|endoftext|>"])
    source = random_source(make(vocab_size=tokenizer.vocab_size))
    source.tokenizer = tokenizer
    source.defaults = GenerationDefaults(
        chat_template="{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    )
    format_named("gguf").write(source, tmp_path / "model.gguf", "f32")
    ours = gollm.load(tmp_path / "model.gguf")
    with Model(tmp_path / "model.gguf") as model:
        assert model.value("tokenizer.chat_template") == source.defaults.chat_template
        for prompt in ("The cat", "naïve 12", "It's"):
            ids = model.tokenize(prompt)
            assert ids == ours.tokenizer.encode(prompt).tolist()
            text = ours.generate(prompt, max_new_tokens=24, temperature=0.0)
            assert text == ours.tokenizer.decode(model.greedy(ids, 24))


def test_the_benchmark_computes_the_tokens_that_it_counts(tmp_path, monkeypatch):
    """Two sequences that share their beginning, each with another token after it; then a prompt, again and again."""
    format_named("gguf").write(random_source(llama()), tmp_path / "model.gguf", "f32")
    path = str(tmp_path / "model.gguf")
    monkeypatch.setattr(with_llama_cpp, "library", functions)
    sequences = with_llama_cpp.Sequences(path, 1, 2, 5, 3, 1)
    sequences.run(sequences.next, 5, 1)
    found = functions().llama_get_logits(sequences.context)
    found = np.array([found[i] for i in range(2 * 300)]).reshape(2, 300)
    for token, logits in enumerate(found):
        expected = llama_logits(tmp_path / "model.gguf", [0, 1, 2, 3, 4, token])[-1]
        assert np.abs(logits - expected).max() <= 1e-2 * np.abs(expected).max()  # keys and values in half precision
    for call, _ in (with_llama_cpp.prefill(path, 1, 9, 4), with_llama_cpp.decoding(path, 1, 3, 9, 2)):
        for _ in range(5):
            call()


# llama.cpp spells o200k's pattern without marks, and with the letters of ASCII alone as upper and lower case.
ASCII = TEXTS.map(lambda text: "".join(character for character in text if character.isascii()))
RULES = {
    "gpt2": ("gpt2", {}, TEXTS),
    "llama3": ("llama3", {}, TEXTS),
    "llama3, whole pieces first": ("llama3", {"ignore_merges": True}, TEXTS),
    "qwen2": ("qwen2", {}, TEXTS),
    "smollm": ("smollm", {}, TEXTS),
    "o200k": ("o200k", {}, ASCII),
}


@pytest.mark.parametrize(("pattern", "options", "texts"), RULES.values(), ids=RULES)
def test_token_ids_are_the_same(tmp_path, pattern, options, texts):
    learned = BPETokenizer.train(CORPUS, 320, pattern=pattern, special_tokens=["<|endoftext|>"])
    tokenizer = BPETokenizer(
        learned.vocabulary, learned.merges, learned.special_tokens, pattern, prefix=(3,), **options
    )
    check_ids(tmp_path / "model.gguf", tokenizer, texts)


# Approximations of llama.cpp's: no marks, and white space beyond ASCII is none in ranges of characters.
APPROXIMATE = ("gpt-4o", "llama4", "kanana2", "minimax-m2", "talkie", "tekken", "deepseek-coder")


@pytest.mark.parametrize("name", RULES_BY_NAME)
def test_every_name_of_a_pre_tokenizer_cuts_as_there(tmp_path, name):
    """Files of a tokenizer alone, with all names that gollm reads."""
    import gguf

    vocab, merges = to_vocab(BPETokenizer.train(CORPUS, 400))
    writer = gguf.GGUFWriter(tmp_path / "vocab.gguf", "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(name)
    writer.add_token_list(sorted(vocab, key=lambda token: vocab[token]))
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_bos_token_id(3)
    writer.add_eos_token_id(4)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    tokenizer = open_tokenizer(tmp_path / "vocab.gguf")
    with Model(tmp_path / "vocab.gguf", vocab_only=True) as model:

        @settings(max_examples=200, deadline=None)
        @given(ASCII if name in APPROXIMATE else TEXTS.map(lambda text: unicodedata.normalize("NFC", text)))
        @example(CORPUS)
        def same(text: str) -> None:
            theirs = model.tokenize(text)
            assert theirs == tokenizer.encode(text, add_special_tokens=True).tolist()

        same()


WITHOUT_MARKS = TEXTS.map(lambda text: text.replace("\u2581", ""))


@pytest.mark.parametrize("dummy_prefix", ["always", "never"])
def test_ids_of_sentencepiece_are_the_same(tmp_path, dummy_prefix):
    check_ids(tmp_path / "model.gguf", sentencepiece(dummy_prefix), WITHOUT_MARKS)


@pytest.mark.parametrize("dummy_prefix", ["first", "missing"])
def test_ids_of_sentencepiece_from_merges_are_the_same(tmp_path, dummy_prefix):
    """As tokenizer.json has it; llama.cpp puts its space before a text that begins with one, too."""
    scored = sentencepiece(dummy_prefix)
    merges = np.array(merges_of(scored), np.int32)
    tokenizer = SentencePieceTokenizer(
        scored.vocabulary, scored.types, merges=merges, dummy_prefix=dummy_prefix, prefix=(1,)
    )
    check_ids(tmp_path / "model.gguf", tokenizer, WITHOUT_MARKS.map(lambda text: text.lstrip(" ")))


def sentencepiece(dummy_prefix: Any) -> SentencePieceTokenizer:
    """Bytes, characters, and the merges that byte-level BPE learns from the same text, as pieces with scores."""
    learned = BPETokenizer.train(CORPUS, 400)
    texts = [token.decode() for token in learned.vocabulary if len(token) > 1 and is_text(token)]
    pieces = sorted({character for text in [*texts, CORPUS] for character in text} | set(texts), key=len)
    head = [b"<unk>", b"<s>", b"</s>", *(bytes([byte]) for byte in range(256))]
    kinds = [PieceType.UNKNOWN, PieceType.CONTROL, PieceType.CONTROL, *[PieceType.BYTE] * 256]
    scores = [0.0] * len(head) + [-float(i) for i in range(len(pieces))]
    return SentencePieceTokenizer(
        Vocabulary.of([*head, *(piece.encode() for piece in pieces)]),
        np.array([*kinds, *[PieceType.NORMAL] * len(pieces)], np.uint8),
        scores=np.array(scores, np.float32),
        dummy_prefix=dummy_prefix,
        prefix=(1,),
    )


def is_text(token: bytes) -> bool:
    try:
        return bool(token.decode())
    except UnicodeDecodeError:
        return False


def check_ids(path: Path, tokenizer: Tokenizer, texts: st.SearchStrategy[str]) -> None:
    source = random_source(llama(vocab_size=tokenizer.vocab_size + 3))
    source.tokenizer = tokenizer
    format_named("gguf").write(source, path, "f32")
    back = gollm.load(path).tokenizer
    with Model(path, vocab_only=True) as model:

        @settings(max_examples=300, deadline=None)
        @given(texts)
        @example(CORPUS)
        def same(text: str) -> None:
            theirs = model.tokenize(text)
            assert theirs == tokenizer.encode(text, add_special_tokens=True).tolist()
            assert theirs == back.encode(text, add_special_tokens=True).tolist()

        same()


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0"])
def test_blocks_are_encoded_as_by_its_quantiser(tmp_path, name):
    lib = ggml()
    kind = next(kind for kind in gguf_blocks.TYPES.values() if kind.name == name)
    rng = np.random.default_rng(4)
    for scale in (1e-10, 1e-4, 1.0, 1e4):
        x = rng.standard_normal((5000, 32)).astype(np.float32)
        x[:2000] = np.round(x[:2000] * 4) / 4
        x[::40] = 0
        x = (x * np.float32(scale)).astype(np.float32)
        with (tmp_path / "blocks").open("wb") as file:
            kind.encoding.write(file, x.reshape(-1))
        theirs = np.empty((len(x), kind.encoding.n_bytes(32)), np.uint8)
        size, rows, row = ctypes.c_int64(0), ctypes.c_int64(len(x)), ctypes.c_int64(32)
        lib.ggml_quantize_chunk(ctypes.c_int(kind.number), pointer(x), pointer(theirs), size, rows, row, None)
        assert (tmp_path / "blocks").read_bytes() == theirs.tobytes()


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"])
def test_blocks_are_decoded_as_by_its_c(tmp_path, name):
    kind = next(kind for kind in gguf_blocks.TYPES.values() if kind.name == name)
    blocks = np.random.default_rng(5).integers(0, 256, (2000, kind.encoding.n_bytes(kind.K)), dtype=np.uint8)
    (tmp_path / "blocks").write_bytes(blocks.tobytes())
    ours, theirs = np.empty((2, 2000 * kind.K), np.float32)
    with (tmp_path / "blocks").open("rb", buffering=0) as file:
        kind.encoding.read(file, ours)
    decode = getattr(ggml(), f"dequantize_row_{name.replace('Q', 'q')}")
    decode(pointer(blocks), pointer(theirs), ctypes.c_int64(theirs.size))
    assert ((ours.view(np.uint32) == theirs.view(np.uint32)) | (np.isnan(ours) & np.isnan(theirs))).all()


def pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


@pytest.mark.parametrize("file_type", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K_M", "Q5_K_M", "Q6_K"])
def test_what_its_quantiser_writes_is_read(tmp_path, file_type):
    """The mixtures of types that common downloads have, of a model whose rows K-quants can hold."""
    config = llama(d_model=256, d_ff=512, n_heads=8, n_layers=4, vocab_size=310, tied_head=False)
    tokenizer = BPETokenizer.train(CORPUS, 310, special_tokens=["<|endoftext|>"])
    source = random_source(config)
    source.tokenizer = tokenizer
    format_named("gguf").write(source, tmp_path / "f32.gguf", "f32")
    quantise(tmp_path / "f32.gguf", tmp_path / "model.gguf", file_type)
    model = gollm.load(tmp_path / "model.gguf")
    assert model.config == config
    assert model.tokenizer.encode(CORPUS).tolist() == tokenizer.encode(CORPUS).tolist()
    ids = np.random.default_rng(1).integers(0, config.vocab_size, 50).tolist()
    ours, theirs = model.logits(ids)[0], llama_logits(tmp_path / "model.gguf", ids)
    # llama.cpp quantises activations to eight bits; a wrong scale or nibble anywhere makes logits of another model.
    assert np.abs(ours - theirs).max() <= 8e-2 * np.abs(theirs).max()
    if file_type == "Q8_0":
        format_named("gguf").write(source, tmp_path / "ours.gguf", "q8_0")
        with open_model(tmp_path / "ours.gguf") as a, open_model(tmp_path / "model.gguf") as b:
            for name, p in Decoder(config).parameters.items():
                assert np.array_equal(a.array(name, p.shape), b.array(name, p.shape)), name
