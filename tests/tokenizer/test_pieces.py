"""SentencePiece and WordPiece by themselves: states, files, decoding, and input that is not what it should be.

That the ids are right is shown in tests/oracle, where the original libraries are.
"""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gollm import tokenizers
from gollm.errors import TokenizerError
from gollm.tokenizers import SentencePieceTokenizer, Tokenizer, Vocabulary, WordPieceTokenizer
from gollm.tokenizers.files import llama2c
from gollm.tokenizers.files.format import TokenizerFile
from gollm.tokenizers.sentencepiece import PieceType

TEXT = "It's a text, 漢字 and 12 numbers;\n\n  a text it is é🙂 naïve"


def sentencepiece(**settings: Any) -> SentencePieceTokenizer:
    """llama2.c's layout: <unk>, <s>, </s>, the bytes, pieces, characters."""
    pieces = [" t", "ex", "tex", " tex", " text", " a", "  ", "is", "xt", " is", "it"]
    characters = sorted(set(" ".join(pieces) + "Itsn;é"))
    tokens = [b"<unk>", b"<s>", b"</s>", *(bytes([i]) for i in range(256))]
    tokens += [text.encode() for text in [*pieces, *characters]]
    types = np.full(len(tokens), PieceType.NORMAL, np.uint8)
    types[0], types[1:3], types[3:259] = PieceType.UNKNOWN, PieceType.CONTROL, PieceType.BYTE
    scores = np.zeros(len(tokens), np.float32)
    scores[259:] = -np.arange(len(tokens) - 259)
    return SentencePieceTokenizer(Vocabulary.of(tokens), types, scores=scores, prefix=(1,), **settings)


def merging() -> SentencePieceTokenizer:
    scored = sentencepiece()
    ids = {token: i for i, token in enumerate(scored.vocabulary) if i > 258}
    merges = [(ids[left], ids[right], ids[left + right]) for left, right in [(b" ", b"t"), (b"e", b"x"), (b"i", b"t")]]
    return SentencePieceTokenizer(scored.vocabulary, scored.types, merges=np.array(merges, np.int32), split_spaces=True)


MADE: dict[str, Tokenizer] = {
    "scores": sentencepiece(),
    "merges": merging(),
    "spaces": sentencepiece(remove_extra_spaces=True, charsmap=np.frombuffer(b"\4\0\0\0\0\0\0\0a\0", np.uint8)),
    "first": sentencepiece(dummy_prefix="first"),
    "wordpiece": WordPieceTokenizer.train(TEXT * 3, 80),
    "wordpiece, cased": WordPieceTokenizer.train(TEXT * 3, 90, lowercase=False),
}


def assert_same(a: Tokenizer, b: Tokenizer) -> None:
    (header, arrays), (other_header, other_arrays) = a.to_state(), b.to_state()
    assert header == other_header
    assert arrays.keys() == other_arrays.keys()
    for name, array in arrays.items():
        assert array.dtype == other_arrays[name].dtype
        assert np.array_equal(array, other_arrays[name])
    text = TEXT + "".join(a.special_tokens)
    assert a.encode(text, allowed_special="all").tolist() == b.encode(text, allowed_special="all").tolist()


@pytest.mark.parametrize("name", MADE)
def test_save_load_and_pickle(name: str, tmp_path: Path) -> None:
    tokenizers.save(MADE[name], tmp_path / "t.json")
    assert_same(tokenizers.load(tmp_path / "t.json"), MADE[name])
    assert_same(pickle.loads(pickle.dumps(MADE[name])), MADE[name])
    header, arrays = MADE[name].to_state()
    assert_same(tokenizers.from_state(json.loads(json.dumps(header)), arrays), MADE[name])


@pytest.mark.parametrize("name", ["scores", "merges", "first"])
@given(text=st.text(max_size=30).map(lambda text: text.replace("\u2581", "")))
def test_decoding_gives_the_text_back(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    if name == "first" and text.startswith(" "):  # its space is taken for the one that would be put there
        return
    tokenizer = MADE[name]
    ids = tokenizer.encode(text).tolist()
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(ids) == text.encode()
    decoder = tokenizer.decoder()
    assert "".join(map(decoder.push, ids)) + decoder.finish() == text


def test_a_continuation_keeps_its_space() -> None:
    tokenizer = sentencepiece()
    prompt, more = tokenizer.encode("it").tolist(), tokenizer.encode("text").tolist()
    decoder = tokenizer.decoder(after=prompt)
    assert "".join(map(decoder.push, more)) == " text"
    assert tokenizer.decode(prompt + more) == "it text"
    assert tokenizer.decode([1, *more]) == "<s>text"
    decoder = tokenizer.decoder(after=[1])
    assert "".join(map(decoder.push, more)) == "text"


def test_a_character_of_byte_tokens_is_never_split() -> None:
    tokenizer = sentencepiece()
    decoder = tokenizer.decoder()
    pushed = [decoder.push(i) for i in tokenizer.encode("🙂a").tolist()]
    assert pushed == ["", "", "", "", "🙂", "a"]
    decoder = tokenizer.decoder()
    assert decoder.push(3 + 0xF0) + decoder.finish() == "\ufffd"


@pytest.mark.parametrize("name", MADE)
def test_special_tokens_in_text_are_text(name: str) -> None:
    tokenizer = MADE[name]
    unknown = tokenizer.special_tokens.get("<unk>", tokenizer.special_tokens.get("[UNK]"))
    for spelling, token in tokenizer.special_tokens.items():
        ids = tokenizer.encode(f"a{spelling} {spelling}").tolist()
        assert token not in ids or token == unknown
        assert token in tokenizer.encode(f"a{spelling}", allowed_special=[spelling]).tolist()


def test_what_is_no_text() -> None:
    for tokenizer in MADE.values():
        with pytest.raises(TokenizerError, match=r"lone surrogate U\+D800 at position 1"):
            tokenizer.encode("a\ud800")


MUTATIONS = st.one_of(
    st.tuples(st.just("value"), st.integers(0, 10_000), st.integers(-(2**31), 2**31 - 1) | st.integers(-2, 400)),
    st.tuples(st.just("cut"), st.integers(0, 10_000), st.just(0)),
    st.tuples(st.just("dtype"), st.sampled_from(["f4", "i8", "u1", "i4", "O", "U1"]), st.just(0)),
    st.tuples(st.just("shape"), st.sampled_from([(-1, 1), (1, -1), (-1,)]), st.just(0)),
    st.tuples(st.just("drop"), st.just(0), st.just(0)),
)


@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from(sorted(MADE)),
    st.sampled_from(["tokens", "offsets", "merges", "types", "scores", "charsmap"]),
    MUTATIONS,
)
def test_mutated_arrays(name: str, array: str, mutation: tuple[str, Any, int]) -> None:
    header, arrays = MADE[name].to_state()
    if array not in arrays:
        return
    kind, how, value = mutation
    if kind == "value":
        changed = arrays[array].copy()
        flat = changed.reshape(-1)
        flat[how % flat.size] = value % 256 if changed.dtype == np.uint8 else value
        arrays[array] = changed
    elif kind == "cut":
        arrays[array] = arrays[array][: how % (len(arrays[array]) + 1)]
    elif kind == "dtype":
        arrays[array] = arrays[array].astype(how)
    elif kind == "shape":
        arrays[array] = arrays[array].reshape(how)
    else:
        del arrays[array]
    try:
        tokenizer = tokenizers.from_state(header, arrays)
        ids = tokenizer.encode(TEXT)
    except TokenizerError:
        return
    assert ids.min() >= 0
    assert ids.max() < tokenizer.vocab_size
    tokenizer.decode(ids)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=12), values, max_size=3),
    max_leaves=6,
)


@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from(sorted(MADE)),
    st.sampled_from(sorted({key for made in MADE.values() for key in made.to_state()[0]} | {"added_tokens"})),
    JSON_VALUES | st.sampled_from(["bpe", "word", "sentencepiece", "wordpiece", "never", "always"]),
)
def test_mutated_headers(name: str, key: str, value: Any) -> None:
    header, arrays = MADE[name].to_state()
    header = copy.deepcopy(header)
    header[key] = value
    try:
        tokenizer = tokenizers.from_state(header, arrays)
        ids = tokenizer.encode(TEXT)
    except TokenizerError:
        return
    assert tokenizer.decode(ids)


def files(folder: Path) -> dict[str, bytes]:
    """One of each format that is read."""
    scored, words = sentencepiece(), WordPieceTokenizer.train(TEXT * 3, 80)
    tokenizers.save(scored, folder / "tokenizer.model", "sentencepiece")
    tokenizers.save(scored, folder / "tokenizer.bin", "llama2.c")
    tokenizers.save(scored, folder / "llama.json", "huggingface")
    tokenizers.save(words, folder / "bert.json", "huggingface")
    tokenizers.save(words, folder / "vocab.txt", "bert")
    tokenizers.save(scored, folder / "gollm.json")
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return files(tmp_path_factory.mktemp("files"))


def read_or_refuse(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        tokenizer = tokenizers.load(path)
        tokenizer.decode(tokenizer.encode(TEXT))
    except TokenizerError as error:
        assert len(str(error)) < 600


def test_every_format_comes_back(written: dict[str, bytes], tmp_path: Path) -> None:
    for name, content in written.items():
        (tmp_path / name).write_bytes(content)
        tokenizer = tokenizers.load(tmp_path / name)
        expected = MADE["wordpiece" if name in ("bert.json", "vocab.txt") else "scores"]
        assert (
            tokenizer.encode(TEXT, add_special_tokens=True).tolist()
            == expected.encode(TEXT, add_special_tokens=True).tolist()
        )


@pytest.mark.parametrize(
    "name", ["tokenizer.model", "tokenizer.bin", "llama.json", "bert.json", "vocab.txt", "gollm.json"]
)
@settings(max_examples=120, deadline=None)
@given(cut=st.floats(0, 1), changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=4))
def test_damaged_files(
    written: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory, name: str, cut: float, changes: list[Any]
) -> None:
    content = bytearray(written[name])
    for place, byte in changes:
        content[int(place * (len(content) - 1))] = byte
    if cut < 0.7:
        content = content[: int(cut * len(content))]
    read_or_refuse(tmp_path_factory.getbasetemp() / f"damaged-{name}", bytes(content))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([b"", b"\x0a\x0e\x0a\x05<unk>", b"\7\0\0\0"]), st.binary(max_size=200))
def test_random_files(tmp_path_factory: pytest.TempPathFactory, head: bytes, content: bytes) -> None:
    read_or_refuse(tmp_path_factory.getbasetemp() / "random.model", head + content)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"\x0a\xff\x0a\x05<unk>", "bytes are left"),
        (b"\x0a\x09\x0a\x07" + b"<" * 7 + b"\x0b", "wire type 3"),
        (b"\x0a\x09\x0a\x07" + b"<" * 7, "type unigram"),
        (b"\x0a\x09\x0a\x07" + b"<" * 7 + b"\x12\x02\x18\x03", "type word"),
        (b"\x0a\x09\x0a\x07" + b"<" * 7 + b"\x12\x02\x18\x02" + b"\x1a\x02\x28\x00", "escape_whitespaces"),
        (b"\x0a\x09\x0a\x07" + b"<" * 7 + b"\x12\x05\x18\x02\xc0\x01\x01", "treat_whitespace_as_suffix"),
        (b"\x0a\x0b\x0a\x07" + b"<" * 7 + b"\x18\x05", "unused"),
        (b"\x0a\x09\x0a\x07" + b"<" * 7 + b"\x12\x02\x18\x02", "no unknown token"),
        (b"\7\0\0\0" + b"\0" * 4 + b"\xff\xff\xff\x7f", "token 0 is 2147483647 bytes long"),
        (b"\7\0\0\0" + b"\0" * 4 + b"\xff\xff\xff\xff", "token 0 is -1 bytes long"),
        (b"\7\0\0\0" + b"\0" * 4 + b"\1\0\0\0a", "must be b'<unk>'"),
        (b"\7\0\0\0" + b"\0" * 5, "ends inside token 0"),
    ],
)
def test_files_that_are_refused(content: bytes, named: str, tmp_path: Path) -> None:
    (tmp_path / "t.model").write_bytes(content)
    with pytest.raises(TokenizerError, match=named):
        tokenizers.load(tmp_path / "t.model")


def test_llama2c_vocabulary_size(tmp_path: Path) -> None:
    made = sentencepiece()
    tokenizers.save(made, tmp_path / "t.bin", "llama2.c")
    file = TokenizerFile(tmp_path / "t.bin")
    assert llama2c.read(file, made.vocab_size).vocab_size == made.vocab_size
    with pytest.raises(TokenizerError, match="281 tokens, but 7 are wanted"):
        llama2c.read(file, 7)


def test_training_wordpiece() -> None:
    made = WordPieceTokenizer.train("aab aab ab", 100, special_tokens=["[UNK]"], min_frequency=1)
    assert list(made.vocabulary) == [b"[UNK]", b"a", b"b", b"##a", b"##b", b"aa", b"aab", b"ab"]
    assert made.prefix == () and made.suffix == ()
    with pytest.raises(TokenizerError, match="vocab_size is 5; with 5 special tokens"):
        WordPieceTokenizer.train("abc", 5)
    with pytest.raises(TokenizerError, match="no text"):
        WordPieceTokenizer.train(" ", 100)
    with pytest.raises(TokenizerError, match="unknown token"):
        WordPieceTokenizer.train("a", 100, special_tokens=[])


def test_vocab_txt_says_what_it_is(tmp_path: Path) -> None:
    tokenizers.save(MADE["wordpiece, cased"], tmp_path / "vocab.txt", "bert")
    assert not tokenizers.load(tmp_path).lowercase  # type: ignore[attr-defined]
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(TokenizerError, match=r"no line \[UNK\]"):
        tokenizers.load(tmp_path)
    (tmp_path / "vocab.txt").write_text("[UNK]\na\na\n")
    with pytest.raises(TokenizerError, match="token 2 is spelled like one before it"):
        tokenizers.load(tmp_path)
