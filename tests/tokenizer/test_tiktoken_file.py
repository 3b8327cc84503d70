"""Rank files that are damaged or hostile, and tokenizers that tiktoken can't have; ids are compared in tests/oracle."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import pytest

from gollm import tokenizers
from gollm.errors import TokenizerError
from gollm.tokenizers import BPETokenizer
from gollm.tokenizers.added_tokens import AddedToken

BYTES = [bytes([byte]) for byte in range(256)]


def lines(tokens: list[bytes], first: int = 0) -> str:
    return "".join(f"{b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens, first))


def test_read_and_write(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_text(lines([*BYTES, b"ab", b"abc", b"bc"]).replace("\n", "\r\n") + "\r\n")
    special = {"<|begin|>": 300, "<|end|>": 259}
    tokenizer = tokenizers.load(tmp_path, pattern="llama3", special_tokens=special)
    assert isinstance(tokenizer, BPETokenizer)
    assert tokenizer.vocab_size == 301
    assert tokenizer.special_tokens == special
    assert tokenizer.encode("abc xbc").tolist() == [257, 32, ord("x"), 258]
    assert tokenizer.encode("ab<|end|>", allowed_special="all").tolist() == [256, 259]
    assert tokenizer.decode([299, 256]) == "ab"  # an id that stands for nothing
    tokenizers.save(tokenizer, tmp_path / "own.json")
    assert tokenizers.load(tmp_path / "own.json").encode("abc xbc").tolist() == [257, 32, ord("x"), 258]
    tokenizers.save(tokenizer, tmp_path / "again.tiktoken", "tiktoken")
    assert (tmp_path / "again.tiktoken").read_text() == lines([*BYTES, b"ab", b"abc", b"bc"])
    behind = tokenizers.load(tmp_path / "again.tiktoken", pattern="llama3", special_tokens=["<s>", "</s>"])
    assert behind.special_tokens == {"<s>": 259, "</s>": 260}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (lines(BYTES) + "a\n", "line 257: 'a' is not a token in base64"),
        (lines(BYTES) + "YQ= 256\n", "line 257"),
        (lines(BYTES) + "YWI= -1\n", "line 257"),
        (lines(BYTES) + "YWI= 9999999\n", "rank below 1048575"),
        (lines(BYTES) + "YWI= 99999999999999999999\n", "line 257"),
        (lines(BYTES) + "YWI= 3\n", "two tokens have the same rank"),
        (lines(BYTES) + "YQ== 256\n", "token b'a' has two ranks"),
        (lines(BYTES[:-1]), "no token for the byte 0xff"),
        (lines([*BYTES, b"a" * 70_000]), "too long for a vocabulary"),
    ],
)
def test_files_that_are_no_ranks(text: str, named: str, tmp_path: Path) -> None:
    (tmp_path / "x.tiktoken").write_text(text)
    with pytest.raises(TokenizerError, match=named):
        tokenizers.load(tmp_path / "x.tiktoken", pattern="cl100k")


def test_arguments(tmp_path: Path) -> None:
    path = tmp_path / "x.tiktoken"
    path.write_text(lines(BYTES))
    with pytest.raises(TokenizerError, match=r'does not say how text is cut.*pattern="cl100k"'):
        tokenizers.load(path)
    for special, named in (
        ({"<s>": 3}, "id 3, which is another token's"),
        ({"<s>": -1}, "must be text with an id"),
        ({"<s>": 1 << 30}, "must be text with an id"),
        ("<s>", "must be spellings"),
    ):
        with pytest.raises(TokenizerError, match=named):
            tokenizers.load(path, pattern="gpt2", special_tokens=special)  # type: ignore[arg-type]
    tokenizers.save(BPETokenizer.train("ab", 257), tmp_path / "t.json")
    with pytest.raises(TokenizerError, match="is no rank file of tiktoken"):
        tokenizers.load(tmp_path / "t.json", pattern="gpt2")


def test_what_tiktoken_cannot_have(tmp_path: Path) -> None:
    header, arrays = BPETokenizer.train("abcabcab", 259, min_frequency=1, special_tokens=["<s>"]).to_state()
    turned = arrays | {"merges": arrays["merges"][[1, 0]]}
    tool = AddedToken("<s>", 258, special=False).to_header()
    for changes, changed, named in (
        ({}, turned, "merge 0 makes token 257, the next one 256: its ranks are not in the order of its ids"),
        ({}, arrays | {"merges": arrays["merges"][:1]}, "token 257, b'cab', is made by no merges"),
        ({"normalizer": "NFC"}, arrays, "no normalizer, and this tokenizer's is 'NFC'"),
        ({"add_prefix_space": True}, arrays, "no add_prefix_space"),
        ({"unknown_token": "<s>"}, arrays, "no unknown_token"),
        ({"pattern": ["llama3", r"[ab]"]}, arrays, "one pattern, and this tokenizer 2"),
        ({"added_tokens": [tool], "special_tokens": {}}, arrays, "'<s>' is of another kind"),
    ):
        tokenizer = tokenizers.from_state(header | changes, changed)
        assert isinstance(tokenizer, BPETokenizer)
        with pytest.raises(TokenizerError, match=named):
            tokenizers.save(tokenizer, tmp_path / "x.tiktoken", "tiktoken")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"\xef\xbb\xbf" + data,
        lambda data: data.replace(b" ", b"\t"),
        lambda data: data.replace(b"\n", b" \t\n"),
        lambda data: data.replace(b"\n", b"\r\n"),
        lambda data: b"\n" + data.replace(b"\n", b"\n\n"),
        lambda data: data.rstrip(b"\n"),
    ],
)
def test_white_space_as_tiktokens_loader_takes_it(change: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "x.tiktoken"
    tokenizers.save(BPETokenizer.train("the theme of the thesis " * 9, 270), path, "tiktoken")
    expected = tokenizers.load(path, pattern="gpt2").to_state()
    path.write_bytes(change(path.read_bytes()))
    header, arrays = tokenizers.load(path, pattern="gpt2").to_state()
    assert header == expected[0]
    assert all((arrays[name] == expected[1][name]).all() for name in arrays)


def test_an_empty_token_has_an_id_and_no_text(tmp_path: Path) -> None:
    """Whisper's file ends so."""
    path = tmp_path / "x.tiktoken"
    plain = BPETokenizer.train("the theme of the thesis " * 9, 260)
    tokenizers.save(plain, path, "tiktoken")
    path.write_bytes(path.read_bytes() + b"= 300\n")
    tokenizer = tokenizers.load(path, pattern="gpt2", special_tokens=["<|end|>"])
    assert tokenizer.vocab_size == 302
    assert tokenizer.decode([300]) == ""
    assert tokenizer.special_tokens == {"<|end|>": 301}
    assert (tokenizer.encode("the thesis") == plain.encode("the thesis")).all()
