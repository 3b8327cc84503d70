"""The pipeline with gollm's own tokenizers: cutting a document into pieces does not change its ids."""

import numpy as np
import pytest

from gollm.data import Sampler, Texts, open_source, prepare, reading
from gollm.system import plain_text
from gollm.tokenizers import BPETokenizer, CharacterTokenizer, WordTokenizer

TEXT = "".join(
    f"def f{i}(x):\n    '''It's the {i}th; naïve — don't.'''\n\treturn x ** {i * 7919} + [1,2][0]  \n\n\n"
    for i in range(400)
)


@pytest.mark.parametrize("kind", [BPETokenizer, CharacterTokenizer, WordTokenizer])
def test_ids_do_not_depend_on_the_pieces(kind, tmp_path, monkeypatch):
    size = None if kind is CharacterTokenizer else 600
    tokenizer = kind.train(Texts(TEXT).iter_text(), size, special_tokens=("<|endoftext|>",))
    whole = prepare(Texts(TEXT), tokenizer, cache_dir=tmp_path / "whole", validation_fraction=0).train[:]
    np.testing.assert_array_equal(whole, tokenizer.encode(TEXT))
    monkeypatch.setattr(reading, "PIECE_CHARACTERS", 199)
    monkeypatch.setattr(plain_text, "READ_BYTES", 61)
    assert len(list(Texts(TEXT).pieces())) > 100
    (tmp_path / "a.txt").write_text(TEXT)
    for name, source in (("memory", Texts(TEXT)), ("file", open_source(tmp_path / "a.txt"))):
        pieces = prepare(source, tokenizer, cache_dir=tmp_path / name, validation_fraction=0).train[:]
        np.testing.assert_array_equal(pieces, whole)
    again = kind.train(Texts(TEXT).iter_text(), size, special_tokens=("<|endoftext|>",))
    np.testing.assert_array_equal(again.encode(TEXT), whole)


def test_documents_are_separated_by_the_end_of_text_token(tmp_path):
    tokenizer = CharacterTokenizer.train("abc", None, special_tokens=("<|endoftext|>",))
    tokens = prepare(Texts(["ab", "c"]), tokenizer, cache_dir=tmp_path, validation_fraction=0).train[:]
    end = tokenizer.special_tokens["<|endoftext|>"]
    assert tokens.tolist() == [*tokenizer.encode("ab"), end, *tokenizer.encode("c")]


def test_batches_of_real_text(tmp_path):
    tokenizer = BPETokenizer.train(TEXT, 400)
    dataset = prepare(Texts(TEXT), tokenizer, cache_dir=tmp_path)
    inputs, targets = Sampler(dataset.train, batch_size=3, context=32, seed=0).next_batch()
    for row, target in zip(inputs, targets, strict=True):
        assert tokenizer.decode(row) in TEXT and tokenizer.decode(target) in TEXT
