"""SentencePiece's BPE against sentencepiece itself, on models trained here, and against llama2.c's way of encoding.

Where gollm's answer is another one by intention (docs/tokenizers.md):
- control tokens and the unknown token are decoded as they are spelled; sentencepiece leaves them out or writes " ⁇ ";
- U+2581 in a text is a space for llama2.c's tokenizers as well, whose own program writes it as bytes.
"""

from __future__ import annotations

import random
import struct
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gollm import tokenizers
from gollm.tokenizers import SentencePieceTokenizer
from gollm.tokenizers.sentencepiece import PieceType
from horrors import TEXTS

sentencepiece = pytest.importorskip("sentencepiece")

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
TOK512 = DATA / "tok512.bin"
needs_tok512 = pytest.mark.skipif(not TOK512.exists(), reason="tok512.bin is not there")

CORPUS = [path.read_text() for path in sorted(Path(__file__).resolve().parents[2].glob("*.md"))] + [
    "Größe, naïve Café: 漢字かな交じり文 한국어 русский עברית العربية 🙂👩‍👩‍👧 ½ ﬁ Ⅷ e\u0301 a\u0323\u0307",
    "a  b   c    d\t\te\n\nf        g",
] * 3
MODELS: dict[str, dict[str, Any]] = {
    "plain": {"vocab_size": 600, "normalization_rule_name": "identity", "remove_extra_whitespaces": False},
    "bytes": {
        "vocab_size": 1200,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "character_coverage": 0.99,
    },
    "default": {"vocab_size": 700},
    "nfkc_cf": {"vocab_size": 900, "byte_fallback": True, "normalization_rule_name": "nmt_nfkc_cf"},
    "symbols": {
        "vocab_size": 800,
        "user_defined_symbols": ["<sep>", "ab", "abab", "\u2581\u2581", "ﬁ", "漢字"],
        "control_symbols": ["<pad>", "<cls>"],
        "add_dummy_prefix": False,
    },
    "spaces and tabs": {
        "vocab_size": 800,
        "user_defined_symbols": ["\t", "\t\t", "  ", "    ", "a b", " x", "x ", " ﬁ ½", "b\u2581c"],
        "normalization_rule_name": "nmt_nfkc",
    },
    "spaces kept": {
        "vocab_size": 900,
        "user_defined_symbols": ["\t", "  ", "a b", "\n"],
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "add_dummy_prefix": False,
    },
    "across words": {"vocab_size": 900, "split_by_whitespace": False, "remove_extra_whitespaces": False},
    "large": {"vocab_size": 3000, "allow_whitespace_only_pieces": True, "remove_extra_whitespaces": False},
}


@cache
def trained(name: str) -> bytes:
    import io

    out = io.BytesIO()
    lines = [line for text in CORPUS for line in text.split("\n")]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=out, model_type="bpe", minloglevel=2, **MODELS[name]
    )
    return out.getvalue()


@cache
def theirs(name: str) -> Any:
    return sentencepiece.SentencePieceProcessor(model_proto=trained(name))


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SentencePieceTokenizer]:
    folder, found = tmp_path_factory.mktemp("models"), {}
    for name in MODELS:
        (folder / f"{name}.model").write_bytes(trained(name))
        tokenizer = tokenizers.load(folder / f"{name}.model")
        assert isinstance(tokenizer, SentencePieceTokenizer)
        found[name] = tokenizer
    return found


@settings(max_examples=1000, deadline=None)
@given(TEXTS)
@example("")
@example(" ")
@example("\u2581")
@example("  a  ")
@example("\t\ta b  x   ﬁ ½ ﬁ  ½\tx b c")
@example("<sep>ab<sep> abab ababab\u2581\u2581\u2581 ﬁ")
def test_ids_are_theirs(ours: dict[str, SentencePieceTokenizer], text: str) -> None:
    for name, tokenizer in ours.items():
        assert tokenizer.encode(text).tolist() == theirs(name).encode(text), name


@pytest.mark.parametrize("name", MODELS)
def test_ids_of_long_texts_are_theirs(ours: dict[str, SentencePieceTokenizer], name: str) -> None:
    """A million characters without a space, a hundred thousand spaces, the corpus, and whatever comes at random."""
    generator = random.Random(1)
    alphabet = "aabbcd eé漢\u0301🙂 \n"
    for text in (
        "ab" * 100_000,
        "".join(generator.choice("abcdefg") for _ in range(50_000)),
        " " * 100_000,
        "a" + " " * 5_000 + "b",
        "\n".join(CORPUS),
        *("".join(generator.choice(alphabet) for _ in range(generator.randrange(300))) for _ in range(300)),
    ):
        assert ours[name].encode(text).tolist() == theirs(name).encode(text)


@pytest.mark.parametrize("name", MODELS)
def test_the_vocabulary_is_theirs(ours: dict[str, SentencePieceTokenizer], name: str) -> None:
    tokenizer, peer = ours[name], theirs(name)
    assert tokenizer.vocab_size == peer.vocab_size()
    assert tokenizer.prefix == (peer.bos_id(),)
    for i in range(peer.vocab_size()):
        assert (tokenizer.types[i] == PieceType.CONTROL) == peer.is_control(i)
        assert (tokenizer.types[i] == PieceType.BYTE) == peer.is_byte(i)
        assert tokenizer.scores is not None and tokenizer.scores[i] == np.float32(peer.get_score(i))
    assert {s for s, i in tokenizer.special_tokens.items() if peer.is_control(i) or peer.is_unknown(i)} == set(
        tokenizer.special_tokens
    )


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(MODELS)), st.data())
def test_decoding_is_theirs(ours: dict[str, SentencePieceTokenizer], name: str, data: st.DataObject) -> None:
    tokenizer, peer = ours[name], theirs(name)
    ordinary = [i for i in range(peer.vocab_size()) if not (peer.is_control(i) or peer.is_unknown(i))]
    ids = data.draw(st.lists(st.sampled_from(ordinary), max_size=12))
    if not any(peer.is_byte(i) for i in ids):  # they put one U+FFFD for each bad byte, Python one for each bad sequence
        assert tokenizer.decode(ids) == peer.decode(ids)
    decoder = tokenizer.decoder()
    assert "".join(map(decoder.push, ids)) + decoder.finish() == tokenizer.decode(ids)


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_decoding_what_was_encoded_is_theirs(ours: dict[str, SentencePieceTokenizer], text: str) -> None:
    for name, tokenizer in ours.items():
        ids = tokenizer.encode(text).tolist()
        if theirs(name).unk_id() not in ids:
            assert tokenizer.decode(ids) == theirs(name).decode(ids)


@pytest.mark.parametrize("name", MODELS)
def test_models_written_here_load_there(ours: dict[str, SentencePieceTokenizer], name: str, tmp_path: Path) -> None:
    tokenizers.save(ours[name], tmp_path / "again.model", "sentencepiece")
    again = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "again.model"))
    peer = theirs(name)
    assert [again.id_to_piece(i) for i in range(again.vocab_size())] == [
        peer.id_to_piece(i) for i in range(peer.vocab_size())
    ]
    assert (again.bos_id(), again.eos_id(), again.unk_id()) == (peer.bos_id(), peer.eos_id(), peer.unk_id())
    for text in [*CORPUS, "  a <sep> ab\u2581\u2581 ﬁ 漢字 <s> \n", ""]:
        assert again.encode(text) == peer.encode(text)
    loaded = tokenizers.load(tmp_path / "again.model")
    assert loaded.encode(CORPUS[0]).tolist() == peer.encode(CORPUS[0])


def llama2c_encode(text: str) -> list[int]:
    """As run.c does it: the best pair of all, again and again."""
    data, at = TOK512.read_bytes(), 4
    tokens: list[bytes] = []
    scores: list[float] = []
    while at < len(data):
        score, size = struct.unpack_from("<fi", data, at)
        tokens.append(data[at + 8 : at + 8 + size])
        scores.append(score)
        at += 8 + size
    lookup = {token: i for i, token in enumerate(tokens)}
    ids = [lookup[b" "]] if text else []
    for character in text:
        known = lookup.get(character.encode())
        ids += [byte + 3 for byte in character.encode()] if known is None else [known]
    while True:
        best, where = -1e10, -1
        for i in range(len(ids) - 1):
            joined = lookup.get(tokens[ids[i]] + tokens[ids[i + 1]])
            if joined is not None and scores[joined] > best:
                best, where, made = scores[joined], i, joined
        if where < 0:
            return ids
        ids[where : where + 2] = [made]


@needs_tok512
@settings(max_examples=200, deadline=None)
@given(TEXTS)
@example("Once upon a time, there was a little girl named Lily.")
def test_ids_are_those_of_llama2c(text: str) -> None:
    text = text.replace("\u2581", "")
    assert tokenizers.load(TOK512).encode(text).tolist() == llama2c_encode(text)


@needs_tok512
def test_llama2c_published_ids() -> None:
    tokenizer = tokenizers.load(TOK512)
    ids = tokenizer.encode("Once upon a time, there was", add_special_tokens=True).tolist()
    assert ids == [1, 403, 407, 261, 378, 432, 383, 286, 261, 376][: len(ids)]


@needs_tok512
def test_tokenizer_bin_is_written_as_it_was(tmp_path: Path) -> None:
    tokenizer = tokenizers.load(TOK512)
    assert isinstance(tokenizer, SentencePieceTokenizer)
    tokenizers.save(tokenizer, tmp_path / "tokenizer.bin", "llama2.c")
    assert (tmp_path / "tokenizer.bin").read_bytes()[4:] == TOK512.read_bytes()[4:]
    tokenizers.save(tokenizer, tmp_path / "tokenizer.model", "sentencepiece")
    peer = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    for text in CORPUS:
        assert tokenizer.encode(text).tolist() == peer.encode(text)


def test_user_defined_pieces_are_added_tokens_of_tokenizer_json(tmp_path: Path) -> None:
    import io

    peers = pytest.importorskip("tokenizers")
    out = io.BytesIO()
    rules = MODELS["spaces kept"] | {"user_defined_symbols": ["<sep>", "\t", "ab", "abab", "b\u2581c", "\n"]}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter("\n".join(CORPUS).split("\n")),
        model_writer=out,
        model_type="bpe",
        minloglevel=2,
        **rules,
    )
    (tmp_path / "a.model").write_bytes(out.getvalue())
    tokenizer = tokenizers.load(tmp_path / "a.model")
    assert isinstance(tokenizer, SentencePieceTokenizer)
    tokenizers.save(tokenizer, tmp_path / "tokenizer.json", "huggingface")
    peer = peers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    again = tokenizers.load(tmp_path / "tokenizer.json")
    generator = random.Random(3)
    for _ in range(500):
        atoms = ["<sep>", "\t", "ab", "b c", " ", "the ", "\n", "a", "b", "é", "漢"]
        text = "".join(generator.choice(atoms) for _ in range(generator.randrange(12)))
        ids = tokenizer.encode(text).tolist()
        assert peer.encode(text, add_special_tokens=False).ids == ids == again.encode(text).tolist()
        assert peer.decode(ids, skip_special_tokens=False) == text
