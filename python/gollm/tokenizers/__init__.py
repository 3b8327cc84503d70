"""Tokenizers: text to token ids and back.

    CharacterTokenizer      a token for every character
    WordTokenizer           a token for every word
    BPETokenizer            byte-pair encoding, as GPT-2's
    SentencePieceTokenizer  byte-pair encoding of characters by scores, as LLaMA-2's and llama2.c's
    WordPieceTokenizer      the longest tokens of words, as BERT's

Each learns from text (`train`, `train_from_files`), is saved to one JSON file (`save`), and comes back with `load`,
which reads the files of GPT-2 and Hugging Face's tokenizer.json as well. In a checkpoint a tokenizer is the header and
the arrays of `to_state`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from gollm.errors import TokenizerError
from gollm.system.files import as_path
from gollm.system.strict_json import shorten
from gollm.tokenizers.added_tokens import AddedToken
from gollm.tokenizers.base import AllowedSpecial, StreamDecoder, Tokenizer
from gollm.tokenizers.bpe import BPETokenizer
from gollm.tokenizers.character import CharacterTokenizer
from gollm.tokenizers.files import bert as bert_vocab
from gollm.tokenizers.files import gpt2 as gpt2_files
from gollm.tokenizers.files import llama2c as llama2c_tokenizer
from gollm.tokenizers.files import llmc as llmc_tokenizer
from gollm.tokenizers.files import own as json_file
from gollm.tokenizers.files import sentencepiece as sentencepiece_model
from gollm.tokenizers.files import tiktoken as tiktoken_file
from gollm.tokenizers.files.huggingface import bpe as huggingface
from gollm.tokenizers.files.huggingface import sentencepiece as huggingface_sentencepiece
from gollm.tokenizers.files.huggingface import wordpiece as huggingface_wordpiece
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
]

_KINDS: dict[str, type[Tokenizer]] = {
    kind.kind: kind
    for kind in (CharacterTokenizer, WordTokenizer, BPETokenizer, SentencePieceTokenizer, WordPieceTokenizer)
}

_SINGLE_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer.bin", "vocab.txt")
"""How the files are called that hold a tokenizer alone, in the order in which a folder is searched."""


def from_state(header: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> Tokenizer:
    """The tokenizer whose `to_state` returned these. Raises TokenizerError for anything else."""
    kind = header.get("kind") if isinstance(header, Mapping) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        raise TokenizerError(f"tokenizer state: kind is {shorten(kind)}; known are {', '.join(_KINDS)}")
    return _KINDS[kind].from_state(header, arrays)


def load(
    path: str | os.PathLike[str],
    merges: str | os.PathLike[str] | None = None,
    *,
    pattern: str | Sequence[str] | None = None,
    special_tokens: Mapping[str, int] | Iterable[str] | None = None,
) -> Tokenizer:
    """The tokenizer in a file or folder, told by its content:

    - a file that `save` has written, or Hugging Face's tokenizer.json;
    - SentencePiece's tokenizer.model, llama2.c's tokenizer.bin, llm.c's gpt2_tokenizer.bin, or BERT's vocab.txt;
    - tiktoken's rank file, or LLaMA-3's tokenizer.model; these need `pattern`, and `special_tokens` where there are any
      (gollm.tokenizers.BPETokenizer.from_tiktoken);
    - GPT-2's vocab.json and merges.txt, or encoder.json and vocab.bpe, also behind a prefix: name either, or both;
    - a folder with one of these.

    Raises TokenizerError if there is no tokenizer, or one of a kind that is not supported.
    """
    path = as_path(path, TokenizerError)
    if merges is None and os.path.isdir(path):
        return load(_in_folder(path), pattern=pattern, special_tokens=special_tokens)
    vocab_name, merges_name = next((pair for pair in gpt2_files.PAIRS if path.name.endswith(pair[1])), ("", ""))
    head = b"" if merges is not None or merges_name else json_file.read_head(path)
    if tiktoken_file.recognises(head):
        return tiktoken_file.read(path, pattern, special_tokens or ())
    if pattern is not None or special_tokens is not None:
        raise TokenizerError(
            f"{path} is no rank file of tiktoken: only these are read with a pattern or special tokens"
        )
    if merges is not None:
        return gpt2_files.read(path, Path(merges))
    if merges_name:
        return gpt2_files.read(_sibling(path, merges_name, vocab_name), path)
    if sentencepiece_model.recognises(head):
        return sentencepiece_model.read(path)
    if llmc_tokenizer.recognises(head):
        return llmc_tokenizer.read(path)
    if llama2c_tokenizer.recognises(head):
        return llama2c_tokenizer.read(path)
    if path.suffix == ".txt":
        return bert_vocab.read(path)
    document = json_file.read_json(path)
    if isinstance(document, dict) and document.get("format") == json_file.FORMAT:
        return json_file.parse(document, path)
    if isinstance(document, dict) and isinstance(document.get("model"), dict):
        if huggingface_sentencepiece.recognises(document):
            return huggingface_sentencepiece.parse(document, path)
        if huggingface_wordpiece.recognises(document):
            return huggingface_wordpiece.parse(document, path)
        return huggingface.parse(document, path)
    for vocab_name, merges_name in gpt2_files.PAIRS:
        if path.name.endswith(vocab_name) and os.path.isfile(_sibling(path, vocab_name, merges_name)):
            return gpt2_files.read(path, _sibling(path, vocab_name, merges_name))
    raise TokenizerError(
        f"{path} is no tokenizer that gollm knows: it is neither a file that gollm saved, nor a tokenizer.json, "
        "tokenizer.model or tokenizer.bin, nor tiktoken's ranks, nor a vocab.json with its merges.txt beside it"
    )


def _in_folder(folder: Path) -> Path:
    """The file of a folder's tokenizer."""
    for name in _SINGLE_FILES:
        if os.path.isfile(folder / name):
            return folder / name
    for vocab_name, merges_name in gpt2_files.PAIRS:
        for merges in sorted(folder.glob(f"*{merges_name}")):
            if os.path.isfile(_sibling(merges, merges_name, vocab_name)):
                return merges
    for ranks in sorted(folder.glob("*.tiktoken")):
        return ranks
    names = ", ".join([*_SINGLE_FILES, *(" with ".join(pair) for pair in gpt2_files.PAIRS), "*.tiktoken"])
    raise TokenizerError(f"the folder {folder} has no tokenizer; looked for: {names}")


def _sibling(path: Path, ending: str, other: str) -> Path:
    """gpt2-vocab.bpe -> gpt2-encoder.json"""
    return path.with_name(path.name[: -len(ending)] + other)
