"""The character tokenizer: vocabulary, unknown characters, special tokens."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gollm.data import open_source
from gollm.errors import TokenizerError
from gollm.tokenizers import CharacterTokenizer

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


def test_vocabulary_is_sorted_by_code_point() -> None:
    tokenizer = CharacterTokenizer.train(["zebra", "écru 🙂"], special_tokens=["<|endoftext|>"])
    characters = sorted(set("zebraécru 🙂"))
    assert [token.decode() for token in tokenizer.vocabulary] == [*characters, "<|endoftext|>"]
    assert tokenizer.special_tokens == {"<|endoftext|>": len(characters)}
    assert tokenizer.vocab_size == len(characters) + 1


@given(TEXT.filter(bool))
def test_round_trip(text: str) -> None:
    tokenizer = CharacterTokenizer.train(text)
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32
    assert ids.tolist() == [sorted(set(text)).index(character) for character in text]
    assert tokenizer.decode(ids) == text


@given(TEXT.filter(bool), TEXT)
def test_one_text_with_the_vocabulary_of_another(learned: str, text: str) -> None:
    """Plain text with characters far beyond it in the vocabulary, and the other way round."""
    tokenizer = CharacterTokenizer.train(learned, unknown_token="<unk>")
    ids = {character: i for i, character in enumerate(sorted(set(learned)))}
    assert tokenizer.encode(text).tolist() == [ids.get(character, len(ids)) for character in text]


@pytest.mark.parametrize("text", ["abcz", "abc🙂", "abc\x00"])
def test_an_unknown_character_is_named(text: str) -> None:
    tokenizer = CharacterTokenizer.train("abc")
    with pytest.raises(TokenizerError, match=rf"U\+{ord(text[3]):04X}\) at position 3 is not in .* 3 characters"):
        tokenizer.encode(text)


def test_unknown_token_stands_for_unknown_characters() -> None:
    tokenizer = CharacterTokenizer.train("abc", unknown_token="<unk>")
    assert tokenizer.encode("azb\uffffc").tolist() == [0, 3, 1, 3, 2]
    assert tokenizer.decode([0, 3, 1]) == "a<unk>b"


def test_vocab_size_keeps_the_most_frequent() -> None:
    tokenizer = CharacterTokenizer.train("aaabbcccd", vocab_size=3)
    assert [token.decode() for token in tokenizer.vocabulary] == ["a", "c", "<unk>"]
    assert tokenizer.encode("abcd").tolist() == [0, 2, 1, 2]
    assert CharacterTokenizer.train("abc", vocab_size=3).unknown_token is None
    with pytest.raises(TokenizerError, match="vocab_size is 1; with 1 special tokens it must be > 1"):
        CharacterTokenizer.train("abc", vocab_size=1)


def test_texts_files_and_iterators_agree(tmp_path) -> None:
    texts = ["one\r\n", "two\n", "three"]
    paths = [tmp_path / f"{i}.txt" for i in range(3)]
    for path, text in zip(paths, texts, strict=True):
        path.write_bytes(text.encode())
    expected = CharacterTokenizer.train("".join(texts)).to_state()
    for tokenizer in (CharacterTokenizer.train(iter(texts)), CharacterTokenizer.train(open_source(paths).iter_text())):
        header, arrays = tokenizer.to_state()
        assert header == expected[0]
        assert all(np.array_equal(arrays[name], expected[1][name]) for name in expected[1])


def test_nothing_to_learn() -> None:
    for texts in ("", [], ["", ""]):
        with pytest.raises(TokenizerError, match="no text to learn"):
            CharacterTokenizer.train(texts)


def test_lone_surrogate() -> None:
    tokenizer = CharacterTokenizer.train("abc")
    with pytest.raises(TokenizerError, match=r"lone surrogate U\+D800 at position 1"):
        tokenizer.encode("a\ud800")
