"""A tokenizer small enough to predict: one id per UTF-8 byte, and special tokens behind them."""

import numpy as np
import pytest

from gollm.tokenizers.base import Framing


class ByteTokenizer:
    def __init__(self, special=()):
        self.special_tokens = {name: 256 + i for i, name in enumerate(special)}
        ids = {name: (self.special_tokens[name],) if name in special else () for name in ("<s>", "<|endoftext|>")}
        self.framing = Framing(begin=ids["<s>"], end=ids["<|endoftext|>"])
        self.vocab_size = 256 + len(special)
        self.calls = 0

    def encode(self, text):
        return np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int32)

    def encode_pieces(self, pieces):
        for text, first in pieces:
            self.calls += 1
            yield self.encode(text), first

    def to_state(self):
        return {"kind": "bytes", "special": self.special_tokens}, {"alphabet": np.arange(256, dtype=np.uint8)}


@pytest.fixture
def tokenizer():
    return ByteTokenizer()


@pytest.fixture
def make_tokenizer():
    return ByteTokenizer
