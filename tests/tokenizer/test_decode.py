"""Decoding: invalid ids, bytes that are no text, and ids that come one at a time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gollm import _native
from gollm.errors import TokenizerError
from gollm.tokenizers import BPETokenizer, CharacterTokenizer

BYTES = BPETokenizer.train("ab ab", 258, special_tokens=["<s>"])


@given(st.binary(max_size=40))
def test_streaming_gives_the_same_text(data: bytes) -> None:
    decoder = BYTES.decoder()
    pieces = [decoder.push(byte) for byte in data]
    assert "".join(pieces) + decoder.finish() == BYTES.decode(list(data)) == data.decode("utf-8", "replace")
    assert BYTES.decode_bytes(list(data)) == data


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_streaming_never_splits_a_character(text: str) -> None:
    decoder = BYTES.decoder()
    pieces = [decoder.push(byte) for byte in text.encode()]
    assert [piece for piece in pieces if piece] == list(text)
    assert decoder.finish() == ""


def test_an_unfinished_character() -> None:
    decoder = BYTES.decoder()
    assert [decoder.push(byte) for byte in "🙂".encode()[:3]] == ["", "", ""]
    assert decoder.finish() == "\ufffd"
    assert BYTES.decode(np.frombuffer("🙂".encode()[:3], np.uint8)) == "\ufffd"


@pytest.mark.parametrize("kind", [list, tuple, np.array])
@pytest.mark.parametrize("bad", [-1, 258, 2**31, -(2**31) - 1, 2**62])
def test_an_invalid_id_is_named(kind: type, bad: int) -> None:
    for ids in (kind([bad]), kind([1, bad, 3])):
        with pytest.raises(TokenizerError, match=rf"token id {bad} .*ids go from 0 to 257"):
            BYTES.decode(ids)
    with pytest.raises(TokenizerError, match=rf"token id {bad} .*ids go from 0 to 257"):
        BYTES.decoder().push(bad)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.int64, np.uint64])
def test_any_integer_dtype(dtype: type) -> None:
    assert BYTES.decode(np.array([104, 105], dtype)) == "hi"
    assert BYTES.decode(np.array([104, 0, 105, 0], dtype)[::2]) == "hi"


@pytest.mark.parametrize("ids", [[1.5], ["a"], [[1, 2]], 3, [None]])
def test_what_is_no_id(ids: object) -> None:
    with pytest.raises(TokenizerError, match="flat sequence of integers"):
        BYTES.decode(ids)  # type: ignore[arg-type]


def test_nothing_is_decoded_to_nothing() -> None:
    for tokenizer in (BYTES, CharacterTokenizer.train("a")):
        assert tokenizer.decode([]) == ""
        assert tokenizer.decode_bytes(np.zeros(0, np.int32)) == b""
        assert tokenizer.encode("").tolist() == []
        assert tokenizer.encode("").dtype == np.int32


@pytest.mark.parametrize("offsets", [[0, 2**30, 3], [0, -5, 3], [-(2**31), 2, 3], [2, 1, 0], [0, 1, 2**31 - 1]])
def test_offsets_outside_of_the_bytes_are_refused_where_ids_reach_them(offsets):
    tokens = np.frombuffer(b"abc", np.uint8)
    with pytest.raises(TokenizerError, match=r"broken vocabulary: token [01] lies outside"):
        _native.decode_tokens(tokens, np.array(offsets, np.int32), np.array([0, 1], np.int32))
