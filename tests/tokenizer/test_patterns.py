"""The pre-tokenizer patterns: worked examples, regular expressions of one's own, cutting a long text safely."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gollm import _native
from gollm.data import open_source
from gollm.errors import TokenizerError
from gollm.tokenizers import BPETokenizer, patterns
from gollm.tokenizers.corpus import divide, safe_cut

TEXT = st.text(st.sampled_from("aB1'sſ \t\n\r/!_é漢ǅʰ\u0301\u3000\u2028²🙂"), max_size=80)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("it's 12345", {"gpt2": "it|'s| 12345", "llama3": "it|'s| |123|45", "o200k": "it's| |123|45"}),
        ("IT'S HTMLx", {"gpt2": "IT|'|S| HTMLx", "cl100k": "IT|'S| HTMLx", "o200k": "IT'S| HTMLx"}),
        ("a'ſb", {"gpt2": "a|'|ſb", "qwen2": "a|'ſ|b", "o200k": "a'ſ|b"}),
        ("(word) _word\tx", {"gpt2": "(|word|)| _|word|\t|x", "llama3": "(word|)| _|word|\tx"}),
        ("a  1 23", {"gpt2": "a| | 1| 23", "smollm": "a|  |1| |2|3", "qwen2": "a| | |1| |2|3"}),
        ("a.\n\n \nb", {"gpt2": "a|.|\n\n |\n|b", "llama3": "a|.\n\n| \n|b", "o200k": "a|.\n\n| \n|b"}),
        ("a\n  ", {"gpt2": "a|\n  ", "llama3": "a|\n|  ", "cl100k": "a|\n  "}),
        ("!\n/\n/", {"llama3": "!\n|/\n|/", "o200k": "!\n/\n/"}),
        ("camelCaseABc", {"llama3": "camelCaseABc", "o200k": "camel|Case|ABc"}),
        ("漢AB \u0301A", {"o200k": "漢|AB| \u0301|A", "llama3": "漢AB| \u0301|A"}),
    ],
)
def test_pieces(text: str, pieces: dict[str, str]) -> None:
    for name, expected in pieces.items():
        assert patterns.cut(text, name) == expected.split("|"), name


@given(TEXT, st.sampled_from(patterns.PATTERNS), st.integers(1, 20))
def test_a_text_is_cut_where_every_pattern_cuts_it(text: str, name: str, size: int) -> None:
    whole = _native.split_text(text, name)
    cut = safe_cut(text)
    for parts in ([text[:cut], text[cut:]], divide(text, size)):
        assert "".join(parts) == text
        assert [piece for part in parts for piece in _native.split_text(part, name)] == whole


@pytest.mark.parametrize("name", [*patterns.PATTERNS, ("llama3", r"[aeiou]")])
def test_train_and_encode(name: str, tmp_path: Path) -> None:
    text = Path(__file__).read_text()
    tokenizer = BPETokenizer.train(text, 400, pattern=name)
    pieces = {piece.encode() for piece in patterns.cut(text, name)}
    for token in list(tokenizer.vocabulary)[256:]:  # none goes across two pieces
        assert any(token in piece for piece in pieces)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    (tmp_path / "corpus.txt").write_text(text)
    from_files = BPETokenizer.train(open_source(tmp_path / "corpus.txt").iter_text(), 400, pattern=name)
    assert (from_files.merges == tokenizer.merges).all()


def test_threads_over_one_text() -> None:
    text = Path(__file__).read_text() * 40
    for name in patterns.PATTERNS:
        tokenizer = BPETokenizer.train(text[:20_000], 300, pattern=name)
        expected = tokenizer.encode(text, threads=1).tolist()
        assert tokenizer.encode(text, threads=3).tolist() == expected
        assert tokenizer.encode_batch([text, "", "a"], threads=2)[0].tolist() == expected


def test_a_regular_expression_of_ones_own() -> None:
    tokenizer = BPETokenizer.train("ab-ab-ab", 258, pattern=r"\w+")
    assert patterns.cut("ab--cd", r"\w+") == ["ab", "--", "cd"]  # what lies between is a piece too
    assert patterns.cut("aBcD", r"(?=[A-Z])") == ["a", "Bc", "D"]  # an empty match cuts
    assert patterns.cut("a1b", [r"\d", "gpt2"]) == ["a", "1", "b"]
    assert tokenizer.encode("ab-ab").tolist() == [256, ord("-"), 256]
    header, arrays = tokenizer.to_state()
    assert header["pattern"] == r"\w+"
    assert BPETokenizer.from_state(header, arrays).encode("ab-ab").tolist() == [256, ord("-"), 256]


def test_known_expressions_go_to_the_c_core() -> None:
    for name, expression in patterns.REGEXES.items():
        assert BPETokenizer.train("a", 256, pattern=expression).pattern == name


@pytest.mark.parametrize(
    ("pattern", "named"),
    [
        ("gpt-3", "unknown pre-tokenizer pattern 'gpt-3'; known are gpt2, cl100k"),
        ("", "unknown pre-tokenizer pattern ''"),
        ([], "must be a name"),
        ([1], "unknown pre-tokenizer pattern 1"),
        ("a(", r"'a\(' is no regular expression"),
        ("a?" * 9000, "a pattern of 18000 characters"),
    ],
)
def test_patterns_that_cannot_be(pattern: str, named: str) -> None:
    with pytest.raises(TokenizerError, match=named):
        BPETokenizer.train("a", 256, pattern=pattern)


def test_a_pattern_that_backtracks_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gollm.tokenizers.patterns._SECONDS", 0.05)
    with pytest.raises(TokenizerError, match="took longer than 0 s to cut a text of 41 characters"):
        patterns.cut("a" * 40 + "!", r"(a|a|aa)+$")


def test_without_the_regex_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "regex", None)
    patterns.compiled.cache_clear()
    with pytest.raises(TokenizerError, match=r"pip install 'gollm\[tokenizers\]'"):
        BPETokenizer.train("a", 256, pattern=r"\w+|\W")
    assert BPETokenizer.train("a", 256, pattern="o200k").pattern == "o200k"  # needs it not
