"""Saving, loading, importing and exporting; and files and states that are not what they should be."""

import copy
import json
import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gollm import tokenizers
from gollm.errors import GollmWarning, TokenizerError
from gollm.tokenizers import BPETokenizer, CharacterTokenizer, Tokenizer, WordTokenizer
from gollm.tokenizers.alphabet import CHARACTER_OF_BYTE
from gollm.tokenizers.files.format import TokenizerFile
from gollm.tokenizers.files.huggingface import tokenizer_json

TEXT = "it's a text, 漢字 and 12 numbers;\n\n  a text it is é🙂" * 3
SPECIAL = ["<|endoftext|>", "<a b>", "é<é>"]


def bpe() -> BPETokenizer:
    return BPETokenizer.train(TEXT, 290, special_tokens=SPECIAL)


TRAINED = {
    "character": CharacterTokenizer.train(TEXT, special_tokens=SPECIAL),
    "character with unknown": CharacterTokenizer.train(TEXT, special_tokens=SPECIAL, unknown_token="<unk>"),
    "word": WordTokenizer.train(TEXT, special_tokens=SPECIAL),
    "bpe": bpe(),
}


def assert_same(a: Tokenizer, b: Tokenizer) -> None:
    (header, arrays), (other_header, other_arrays) = a.to_state(), b.to_state()
    assert header == other_header
    assert arrays.keys() == other_arrays.keys()
    for name, array in arrays.items():
        assert array.dtype == other_arrays[name].dtype
        assert np.array_equal(array, other_arrays[name])
    assert a.encode(TEXT, allowed_special="all").tolist() == b.encode(TEXT, allowed_special="all").tolist()


@pytest.mark.parametrize("name", TRAINED)
def test_save_and_load(name: str, tmp_path: Path) -> None:
    tokenizers.save(TRAINED[name], tmp_path / "t.json")
    assert_same(tokenizers.load(tmp_path / "t.json"), TRAINED[name])
    tokenizers.save(TRAINED[name], tmp_path / "tokenizer.json")
    assert_same(tokenizers.load(tmp_path), TRAINED[name])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.json", "tokenizer.json"]


@pytest.mark.parametrize("kind", [CharacterTokenizer, WordTokenizer, BPETokenizer])
def test_the_template_around_a_text(kind: Any, tmp_path: Path) -> None:
    """Put there when asked for, by every kind, and after every way of keeping a tokenizer."""
    header, arrays = kind.train(TEXT, 300, special_tokens=["<s>", "</s>"]).to_state()
    begin, end = header["special_tokens"]["<s>"], header["special_tokens"]["</s>"]
    tokenizer = kind.from_state({**header, "prefix": [begin, begin], "suffix": [end]}, arrays)
    tokenizers.save(tokenizer, tmp_path / "t.json")
    for same in (tokenizer, tokenizers.load(tmp_path / "t.json"), pickle.loads(pickle.dumps(tokenizer))):
        assert (same.prefix, same.suffix) == ((begin, begin), (end,))
        ids = same.encode(TEXT).tolist()
        assert not {begin, end} & set(ids)
        assert same.encode(TEXT, add_special_tokens=True).tolist() == [begin, begin, *ids, end]
        assert same.encode("", add_special_tokens=True).tolist() == [begin, begin, end]
        batch = same.encode_batch([TEXT, ""], add_special_tokens=True)
        assert [encoded.tolist() for encoded in batch] == [[begin, begin, *ids, end], [begin, begin, end]]
        with_special = same.encode("a<s>", allowed_special=["<s>"], add_special_tokens=True).tolist()
        assert with_special == [begin, begin, *same.encode("a").tolist(), begin, end]
    for wrong in ([len(tokenizer.vocabulary)], [-1], 3, "ab", [True], None):
        with pytest.raises(TokenizerError, match=r"suffix is .* must be a list of ids"):
            kind.from_state({**header, "suffix": wrong}, arrays)


@pytest.mark.parametrize("name", TRAINED)
def test_state_from_a_memory_map(name: str, tmp_path: Path) -> None:
    header, arrays = TRAINED[name].to_state()
    header = json.loads(json.dumps(header))
    mapped = {}
    for array_name, array in arrays.items():
        array.tofile(tmp_path / array_name)
        mapped[array_name] = np.memmap(tmp_path / array_name, array.dtype, "r", shape=array.shape)
    again = tokenizers.from_state(header, mapped)
    assert_same(again, TRAINED[name])
    assert np.shares_memory(again.vocabulary.tokens, mapped["tokens"])  # nothing was copied


def test_saving_where_it_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"cannot write .*nowhere"):
        tokenizers.save(bpe(), tmp_path / "nowhere" / "t.json")


def test_saved_as_the_name_or_the_format_says(tmp_path: Path) -> None:
    tokenizer = BPETokenizer.train(TEXT, 290, special_tokens=["<|endoftext|>"])
    for name, to in (("a.tiktoken", "tiktoken"), ("gpt2_tokenizer.bin", "llm.c"), ("b.txt", "gollm"), ("c", "gollm")):
        tokenizers.save(tokenizer, tmp_path / name)
        tokenizers.save(tokenizer, tmp_path / "named", to)
        assert (tmp_path / name).read_bytes() == (tmp_path / "named").read_bytes()
    with pytest.raises(TokenizerError, match=r"\.model: sentencepiece has SentencePiece tokenizers only"):
        tokenizers.save(tokenizer, tmp_path / "tokenizer.model")
    with pytest.raises(TokenizerError, match="has byte-level BPE, SentencePiece, WordPiece tokenizers only"):
        tokenizers.save(CharacterTokenizer.train("abc"), tmp_path / "t.json", "huggingface")
    with pytest.raises(TokenizerError, match="the tokenizer's format is 'json'; it must be one of gpt2, tiktoken, "):
        tokenizers.save(tokenizer, tmp_path / "t.json", "json")
    with pytest.raises(TokenizerError, match=r"is no vocab\.txt of BERT"):
        tokenizers.load(tmp_path / "named", lowercase=True)
    assert not (tmp_path / "t.json").exists()


def test_gpt2_files(tmp_path: Path) -> None:
    tokenizer = bpe()
    tokenizers.save(tokenizer, tmp_path, "gpt2")
    for path in (tmp_path, tmp_path / "vocab.json", tmp_path / "merges.txt"):
        assert_same(tokenizers.load(path), tokenizer)
    assert_same(tokenizers.load(tmp_path / "vocab.json", tmp_path / "merges.txt"), tokenizer)
    (tmp_path / "vocab.json").rename(tmp_path / "my-encoder.json")
    (tmp_path / "merges.txt").rename(tmp_path / "my-vocab.bpe")
    for path in (tmp_path, tmp_path / "my-encoder.json", tmp_path / "my-vocab.bpe"):
        assert_same(tokenizers.load(path), tokenizer)
    assert_same(tokenizers.load(tmp_path / "my-encoder.json", tmp_path / "my-vocab.bpe"), tokenizer)


def test_merges_with_windows_line_ends_and_without_a_version(tmp_path: Path) -> None:
    tokenizer = bpe()
    tokenizers.save(tokenizer, tmp_path, "gpt2")
    lines = (tmp_path / "merges.txt").read_text().split("\n")
    (tmp_path / "merges.txt").write_bytes("\r\n".join(lines[1:]).encode())
    assert_same(tokenizers.load(tmp_path), tokenizer)


def test_a_merge_of_number_signs(tmp_path: Path) -> None:
    """ "# #" in the first line is a merge, not a comment."""
    tokenizer = BPETokenizer.train("## ##", 257)
    tokenizers.save(tokenizer, tmp_path, "gpt2")
    text = (tmp_path / "merges.txt").read_text()
    assert text.endswith("\n# #\n")
    (tmp_path / "merges.txt").write_text("# #\n")
    assert_same(tokenizers.load(tmp_path), tokenizer)


def test_huggingface_file(tmp_path: Path) -> None:
    tokenizer = bpe()
    tokenizers.save(tokenizer, tmp_path / "tokenizer.json", "huggingface")
    assert_same(tokenizers.load(tmp_path), tokenizer)
    document = json.loads((tmp_path / "tokenizer.json").read_text())
    document["model"]["merges"] = [
        merge.split(" ") for merge in document["model"]["merges"]
    ]  # as new versions write it
    del document["model"]["vocab"]["<|endoftext|>"]  # an added token that the model doesn't know
    (tmp_path / "new.json").write_text(json.dumps(document))
    assert_same(tokenizers.load(tmp_path / "new.json"), tokenizer)


def test_truncation_and_padding_are_left_out_with_one_warning(tmp_path: Path) -> None:
    tokenizer = bpe()
    tokenizers.save(tokenizer, tmp_path / "tokenizer.json", "huggingface")
    document = json.loads((tmp_path / "tokenizer.json").read_text())
    document |= {"truncation": {"max_length": 5, "strategy": "LongestFirst", "stride": 0}, "padding": {"pad_id": 0}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    with pytest.warns(GollmWarning, match="truncation and padding left out") as said:
        assert_same(tokenizers.load(tmp_path), tokenizer)
    assert len(said) == 1


@pytest.mark.parametrize(("spelling", "index"), [("x", 999), ("<c d>", 5)])
def test_an_added_token_whose_id_is_anothers_is_said(spelling: str, index: int, tmp_path: Path) -> None:
    tokenizers.save(bpe(), tmp_path / "t.json", "huggingface")
    document = json.loads((tmp_path / "t.json").read_text())
    document["added_tokens"].append({"content": spelling, "id": index, "special": True})
    (tmp_path / "t.json").write_text(json.dumps(document))
    with pytest.warns(GollmWarning, match=f"id {index}; Hugging Face's tokenizers take it as"):
        assert tokenizers.load(tmp_path / "t.json").special_tokens[spelling] != index


def test_a_special_token_that_looks_like_a_byte_cannot_be_exported(tmp_path: Path) -> None:
    tokenizer = BPETokenizer.train("abc", 257, special_tokens=["é"])  # "é" is how the alphabet writes the byte 0xE9
    with pytest.raises(TokenizerError, match="special token 'é' looks like an ordinary one"):
        tokenizers.save(tokenizer, tmp_path, "gpt2")
    tokenizers.save(tokenizer, tmp_path / "t.json")
    assert_same(tokenizers.load(tmp_path / "t.json"), tokenizer)


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False}
SPLIT = {"type": "Split", "pattern": {"Regex": "a"}, "behavior": "Isolated", "invert": False}


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


def template(*pieces: dict[str, Any]) -> dict[str, Any]:
    return {"type": "TemplateProcessing", "single": list(pieces), "special_tokens": {"<s>": {"ids": [999]}}}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"normalizer": {"type": "NFKC"}}, "normalizer is .*NFKC"),
        ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}}, "Lowercase"),
        ({"normalizer": {"type": "Sequence", "normalizers": 3}}, "normalizers"),
        ({"pre_tokenizer": None}, "pre_tokenizer"),
        ({"pre_tokenizer": {"type": "Metaspace"}}, "Metaspace"),
        ({"pre_tokenizer": BYTE_LEVEL | {"use_regex": 1}}, "use_regex"),
        ({"pre_tokenizer": sequence({"type": "Digits"}, {"type": "ByteLevel"})}, "add_prefix_space behind other steps"),
        ({"pre_tokenizer": sequence(BYTE_LEVEL, {"type": "Digits"})}, "ByteLevel as its only or last step"),
        ({"pre_tokenizer": sequence({"type": "Punctuation"}, BYTE_LEVEL)}, "Punctuation"),
        ({"pre_tokenizer": sequence(SPLIT | {"behavior": "MergedWithNext"}, BYTE_LEVEL)}, "MergedWithNext"),
        ({"pre_tokenizer": sequence(SPLIT | {"behavior": "Removed"}, BYTE_LEVEL)}, "Removed"),
        ({"pre_tokenizer": sequence(SPLIT | {"pattern": {"Regex": "a("}}, BYTE_LEVEL)}, "no regular expression"),
        ({"pre_tokenizer": sequence(SPLIT | {"pattern": {"Regex": r"\s+$"}}, BYTE_LEVEL)}, r"with \$ in it"),
        ({"pre_tokenizer": sequence(SPLIT | {"pattern": {"Regex": r"\d{1,3}+"}}, BYTE_LEVEL)}, r"with \{1,3\}\+ in it"),
        ({"pre_tokenizer": sequence(SPLIT | {"pattern": "a"}, BYTE_LEVEL)}, "a Regex or a String"),
        ({"post_processor": {"type": "TemplateProcessing"}}, "the template is null"),
        ({"post_processor": {"type": "PairProcessing"}}, "PairProcessing"),
        ({"post_processor": template({"Sequence": {"id": "B"}})}, "a piece of the template"),
        ({"post_processor": template({"SpecialToken": {"id": "<x>"}})}, "a piece of the template"),
        ({"post_processor": template({"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}})}, "prefix is .999"),
        ({"post_processor": {"type": "RobertaProcessing", "cls": 3}}, "a token of the post_processor"),
        ({"decoder": {"type": "WordPiece"}}, "WordPiece"),
        ({"model": {"type": "WordPiece"}}, "WordPiece"),
        ({"model": {"type": "Unigram"}}, "Unigram"),
        ({"model": {"dropout": 0.1}}, "dropout"),
        ({"model": {"continuing_subword_prefix": "##"}}, "continuing_subword_prefix"),
        ({"model": {"end_of_word_suffix": "</w>"}}, "end_of_word_suffix"),
        ({"model": {"vocab": []}}, "vocabulary"),
        ({"model": {"vocab": {"a": 0}, "byte_fallback": True}}, "byte_fallback"),
        ({"model": {"vocab": {"a": 0}, "unk_token": "<unk>"}}, "unk_token"),
        ({"model": {"vocab": {"a": 0}}}, "needs the token 'Ġ'"),
        ({"model": {"vocab": {"a": 1 << 30}}}, "0 to 1048574 are possible"),
        ({"model": {"vocab": {"a": -1}}}, "ids from -1"),
        ({"model": {"vocab": {"a": "0"}}}, "vocabulary"),
        ({"model": {"merges": None}}, "no list of merges"),
        ({"model": {"merges": ["a"]}}, "merge 0"),
        ({"model": {"merges": [["a", 1]]}}, "merge 0"),
        ({"added_tokens": {}}, "not written in GPT-2's byte alphabet"),
        ({"added_tokens": [3]}, "added token"),
        ({"added_tokens": [{"content": "<a b>", "id": 288, "special": 1}]}, "neither true nor false"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(change: dict[str, Any], named: str, tmp_path: Path) -> None:
    tokenizers.save(bpe(), tmp_path / "t.json", "huggingface")
    document = json.loads((tmp_path / "t.json").read_text())
    for key, value in change.items():
        document[key] = document[key] | value if key == "model" else value
    (tmp_path / "t.json").write_text(json.dumps(document))
    with pytest.raises(TokenizerError, match=named):
        tokenizers.load(tmp_path / "t.json")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[1, 2]", "no tokenizer that gollm knows"),
        (b'{"a": 0}', "no tokenizer that gollm knows"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"1" * 10_000, "not JSON"),
        (b'{"format": "gollm-tokenizer"}', "tokens must be a list"),
        (b'{"format": "gollm-tokenizer", "tokens": ["a"]}', "kind is None"),
        (b'{"format": "gollm-tokenizer", "tokens": [1]}', "token 0 is 1"),
        (b'{"format": "gollm-tokenizer", "tokens": [{"hex": "zz"}]}', "token 0"),
        (b'{"format": "gollm-tokenizer", "tokens": ["\\ud800"]}', "token 0"),
        (b'{"format": "gollm-tokenizer", "tokens": [""]}', "kind is None"),
        (b'{"format": "gollm-tokenizer", "tokens": []}', "vocabulary of 0 tokens"),
        (b'{"format": "gollm-tokenizer", "tokens": ["a"], "merges": [[1, 2]]}', "merges must be"),
        (b'{"format": "gollm-tokenizer", "tokens": ["a"], "merges": [[1, 2, 4294967296]]}', "merges must be"),
        (b'{"format": "gollm-tokenizer", "tokens": ["a"], "merges": 7}', "merges must be"),
        (b'{"format": "gollm-tokenizer", "tokens": ["a"], "kind": "bpe", "version": 2}', "version 2"),
        (b'{"format": "gollm-tokenizer", "tokens": ["ab"], "kind": "character", "version": 1, "vocab_size": 1, '
         b'"special_tokens": {}}', "not one character"),
    ],
)  # fmt: skip
def test_files_that_are_no_tokenizer(content: bytes, named: str, tmp_path: Path) -> None:
    (tmp_path / "t.json").write_bytes(content)
    with pytest.raises(TokenizerError, match=named):
        tokenizers.load(tmp_path / "t.json")


def test_missing_files_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(
        TokenizerError,
        match=r"looked for: tokenizer.json, tokenizer.model, tokenizer.bin, vocab.txt, vocab.json with",
    ):
        tokenizers.load(tmp_path)
    with pytest.raises(TokenizerError, match=r"cannot read .*none.json: No such file"):
        tokenizers.load(tmp_path / "none.json")
    tokenizers.save(bpe(), tmp_path, "gpt2")
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b c\n")
    with pytest.raises(TokenizerError, match="line 2: 'a b c' is no merge"):
        tokenizers.load(tmp_path)
    (tmp_path / "merges.txt").write_text("#version: 0.2\nq q\n")
    with pytest.raises(TokenizerError, match="merge 0, 'q' and 'q', needs the token 'qq'"):
        tokenizers.load(tmp_path)


def test_a_vocabulary_without_all_bytes(tmp_path: Path) -> None:
    """What has no token is left out, as in Hugging Face's tokenizers, or becomes the unknown token."""
    vocab = {character: i for i, character in enumerate(CHARACTER_OF_BYTE.values()) if character not in "bz"}
    vocab = {token: i for i, token in enumerate([*vocab, "ac", "<unk>"])}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_text("a c")
    tokenizer = tokenizers.load(tmp_path)
    assert tokenizer.decode(tokenizer.encode("abc zz abba")) == "ac  aa"
    assert tokenizer.encode("abc").tolist() == [vocab["ac"]]  # they are neighbours then
    assert tokenizer.encode("bz").tolist() == []
    assert tokenizer.decode(tokenizer.encode("b" * 100 + "ac")) == "ac"
    header, arrays = tokenizer.to_state()
    unknown = tokenizers.from_state({**header, "unknown_token": "<unk>"}, arrays)
    assert unknown.decode(unknown.encode("abc")) == "a<unk>c"


# Hostile states: whatever is changed, the answer is a TokenizerError or a tokenizer that works.


def set_at(array: np.ndarray, index: int, value: int) -> np.ndarray:
    array = array.copy()
    array.reshape(-1)[index % max(1, array.size)] = value
    return array


MUTATIONS = st.one_of(
    st.tuples(st.just("value"), st.integers(0, 10_000), st.integers(-(2**31), 2**31 - 1) | st.integers(-2, 400)),
    st.tuples(st.just("cut"), st.integers(0, 10_000), st.just(0)),
    st.tuples(st.just("dtype"), st.sampled_from(["f4", "i8", "u1", "i4", "O", "U1"]), st.just(0)),
    st.tuples(st.just("shape"), st.sampled_from([(-1, 1), (1, -1), (-1,)]), st.just(0)),
    st.tuples(st.just("drop"), st.just(0), st.just(0)),
)


@settings(max_examples=400)
@given(st.sampled_from(sorted(TRAINED)), st.sampled_from(["tokens", "offsets", "merges"]), MUTATIONS)
def test_mutated_arrays(name: str, array: str, mutation: tuple[str, Any, int]) -> None:
    header, arrays = TRAINED[name].to_state()
    if array not in arrays:
        return
    kind, how, value = mutation
    if kind == "value":
        if array == "tokens":
            value %= 256
        arrays[array] = set_at(arrays[array], how, value)
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


MORE_KEYS = [
    "unknown_token",
    "prefix",
    "added_tokens",
    "normalizer",
    "add_prefix_space",
    "ignore_merges",
    "lowest_id_first",
]
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=12), values, max_size=3),
    max_leaves=6,
)


@settings(max_examples=400)
@given(
    st.sampled_from(sorted(TRAINED)),
    st.sampled_from(["kind", "version", "vocab_size", "special_tokens", "pattern", *MORE_KEYS]),
    JSON_VALUES | st.sampled_from(["bpe", "word", "character"]),
)
def test_mutated_headers(name: str, key: str, value: Any) -> None:
    header, arrays = TRAINED[name].to_state()
    header = copy.deepcopy(header)
    header[key] = value
    try:
        tokenizer = tokenizers.from_state(header, arrays)
        ids = tokenizer.encode(TEXT)
    except TokenizerError:
        return
    assert tokenizer.decode(ids).replace("<unk>", "")


@pytest.mark.parametrize("header", [None, [], 3, {}, {"kind": []}, {"kind": {"a": 1}}, {"kind": "bpe"}])
def test_headers_that_are_none(header: Any) -> None:
    with pytest.raises(TokenizerError):
        tokenizers.from_state(header, {})


def test_states_that_lie() -> None:
    tokenizer = bpe()
    header, arrays = tokenizer.to_state()
    for row, named in (
        ([0, 0, 0], "is not tokens 0 and 0 joined"),
        ([0, 0, 290], "names token 290; the vocabulary has 0 to 289"),
        ([-1, 0, 256], "names token -1"),
        (arrays["merges"][0].tolist(), "join the same pair"),
    ):
        merges = arrays["merges"].copy()
        merges[1] = row
        with pytest.raises(TokenizerError, match=named):
            tokenizers.from_state(header, {**arrays, "merges": merges}).encode("a")
    with pytest.raises(TokenizerError, match="are the same byte 0x61"):
        tokenizers.from_state(header, {**arrays, "tokens": set_at(arrays["tokens"], ord("b"), ord("a"))}).encode("a")


def mutated(value: Any, data: st.DataObject) -> Any:
    """The value with one thing in it replaced."""
    if isinstance(value, dict | list) and value and data.draw(st.integers(0, 9)):
        keys = sorted(value)[:40] if isinstance(value, dict) else range(min(len(value), 40))
        key = data.draw(st.sampled_from(keys))
        copied = copy.copy(value)
        copied[key] = mutated(value[key], data)
        return copied
    return data.draw(JSON_VALUES | st.sampled_from(["ByteLevel", "Sequence", "A", "(a", "<s>", 0, 1, 290, 1 << 40, ""]))


@settings(max_examples=600)
@given(st.data())
def test_mutated_huggingface_files(data: st.DataObject) -> None:
    """Whatever stands in a tokenizer.json, it is refused by a TokenizerError or it encodes."""
    file = TokenizerFile(Path("tokenizer.json"))
    file.document = mutated(HUGGINGFACE, data)
    if not tokenizer_json.recognises(file):
        return
    try:
        tokenizer = tokenizer_json.read(file)
        ids = tokenizer.encode(TEXT + "<é> #", allowed_special="all", add_special_tokens=True)
    except TokenizerError:
        return
    assert len(ids) == 0 or (ids.min() >= 0 and ids.max() < tokenizer.vocab_size)
    tokenizer.decode(ids)


def huggingface_document() -> dict[str, Any]:
    header, arrays = BPETokenizer.train(TEXT, 262, special_tokens=["<s>"], pattern="llama3").to_state()
    tokens = [
        {"spelling": "<s>", "id": 261, "special": True, "lstrip": True},
        {"spelling": "#", "id": ord("#"), "rstrip": True, "single_word": True, "normalized": True},
    ]
    rules = {"added_tokens": tokens, "prefix": [261], "normalizer": "NFC", "ignore_merges": True}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        tokenizers.save(BPETokenizer.from_state(header | rules, arrays), path, "huggingface")
        found: dict[str, Any] = json.loads(path.read_text())
    return found


HUGGINGFACE = huggingface_document()
