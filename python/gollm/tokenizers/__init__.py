"""Tokenizers: text to token ids and back.

    CharacterTokenizer      a token for every character
    WordTokenizer           a token for every word
    BPETokenizer            byte-pair encoding, as GPT-2's
    SentencePieceTokenizer  byte-pair encoding of characters by scores, as LLaMA-2's and llama2.c's
    WordPieceTokenizer      the longest tokens of words, as BERT's

Each learns from text (`train`; not SentencePiece's). `save` writes one to a file and `load` reads it back, in gollm's
own format and in those of others. In a checkpoint a tokenizer is the header and the arrays of `to_state`.
"""

from gollm.tokenizers.added_tokens import AddedToken
from gollm.tokenizers.base import AllowedSpecial, StreamDecoder, Tokenizer
from gollm.tokenizers.bpe import BPETokenizer
from gollm.tokenizers.character import CharacterTokenizer
from gollm.tokenizers.files import load, save
from gollm.tokenizers.kinds import from_state
from gollm.tokenizers.sentencepiece import SentencePieceTokenizer
from gollm.tokenizers.vocabulary import Vocabulary
from gollm.tokenizers.word import WordTokenizer
from gollm.tokenizers.wordpiece import WordPieceTokenizer

__all__ = [
    "AddedToken",
    "AllowedSpecial",
    "BPETokenizer",
    "CharacterTokenizer",
    "SentencePieceTokenizer",
    "StreamDecoder",
    "Tokenizer",
    "Vocabulary",
    "WordPieceTokenizer",
    "WordTokenizer",
    "from_state",
    "load",
    "save",
]
