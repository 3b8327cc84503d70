"""Hugging Face's tokenizer.json: its row in the registry."""

from __future__ import annotations

from pathlib import Path

from gollm.tokenizers.base import Tokenizer
from gollm.tokenizers.bpe import BPETokenizer
from gollm.tokenizers.files.format import TokenizerFile, TokenizerFormat
from gollm.tokenizers.files.huggingface import bpe, sentencepiece, wordpiece
from gollm.tokenizers.sentencepiece import SentencePieceTokenizer
from gollm.tokenizers.wordpiece import WordPieceTokenizer


def recognises(file: TokenizerFile) -> bool:
    return isinstance(file.document, dict) and isinstance(file.document.get("model"), dict)


def read(file: TokenizerFile) -> Tokenizer:
    if sentencepiece.recognises(file.document):
        return sentencepiece.parse(file.document, file.path)
    if wordpiece.recognises(file.document):
        return wordpiece.parse(file.document, file.path)
    return bpe.parse(file.document, file.path)


def to_files(tokenizer: Tokenizer, path: Path) -> dict[Path, bytes]:
    if isinstance(tokenizer, BPETokenizer):
        return bpe.to_files(tokenizer, path)
    if isinstance(tokenizer, SentencePieceTokenizer):
        return sentencepiece.to_files(tokenizer, path)
    assert isinstance(tokenizer, WordPieceTokenizer)
    return wordpiece.to_files(tokenizer, path)


FORMAT = TokenizerFormat(
    "huggingface", recognises, read, (BPETokenizer, SentencePieceTokenizer, WordPieceTokenizer), to_files
)
