"""The word tokenizer: vocabulary, unknown words, losslessness."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gollm import _native
from gollm.errors import TokenizerError
from gollm.tokenizers import WordTokenizer

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def test_words_are_ordered_by_frequency_then_bytes() -> None:
    tokenizer = WordTokenizer.train("the cat, the dog and the bird", special_tokens=["<|endoftext|>"])
    assert [token.decode() for token in tokenizer.vocabulary] == [
        " the", " and", " bird", " cat", " dog", ",", "the", " ", "<unk>", "<|endoftext|>",
    ]  # fmt: skip
    assert tokenizer.special_tokens == {"<unk>": 8, "<|endoftext|>": 9}


@given(TEXT.filter(bool))
def test_known_text_comes_back(text: str) -> None:
    tokenizer = WordTokenizer.train(text)
    ids = tokenizer.encode(text)
    assert len(ids) == len(_native.split_text(text, "gpt2"))
    assert tokenizer.decode(ids) == text


def test_unknown_words() -> None:
    tokenizer = WordTokenizer.train("to be or not to be")
    assert tokenizer.decode(tokenizer.encode("to dream or not")) == "to <unk> or not"
    # "or" is known with a space only; " to" without one as well
    assert tokenizer.decode(tokenizer.encode("or to")) == "<unk> to"
    assert tokenizer.decode(tokenizer.encode("to  to")) == "to  to"


def test_a_long_word() -> None:
    words = ["x" * 16, "x" * 17, "y" * 5000]
    tokenizer = WordTokenizer.train(words)
    for word in words:
        assert tokenizer.decode(tokenizer.encode(word)) == word
    assert tokenizer.decode(tokenizer.encode("x" * 18)) == "<unk>"


def test_vocab_size_keeps_the_most_frequent_and_the_space() -> None:
    tokenizer = WordTokenizer.train("a b b c c c", vocab_size=4)
    assert [token.decode() for token in tokenizer.vocabulary] == [" c", " b", " ", "<unk>"]
    with pytest.raises(TokenizerError, match="vocab_size is 1"):
        WordTokenizer.train("a b", vocab_size=1)


def test_no_word_goes_across_two_texts() -> None:
    assert b"ab" not in list(WordTokenizer.train(["a", "b"]).vocabulary)
    assert b"ab" in list(WordTokenizer.train("ab").vocabulary)


def test_special_tokens_in_text_are_words_unless_allowed() -> None:
    tokenizer = WordTokenizer.train("<unk>", special_tokens=["<unk>", "<s>"])
    assert tokenizer.encode("<s>", allowed_special="all").tolist() == [tokenizer.special_tokens["<s>"]]
    assert tokenizer.special_tokens["<s>"] not in tokenizer.encode("<s>")
