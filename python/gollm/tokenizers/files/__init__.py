"""Tokenizers in files: one module a format, each with a row of the registry."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gollm.errors import TokenizerError
from gollm.system.files import as_path, replacing
from gollm.system.strict_json import shorten
from gollm.tokenizers.base import Tokenizer
from gollm.tokenizers.files import bert, gpt2, llama2c, llmc, own, sentencepiece, tiktoken
from gollm.tokenizers.files.format import TokenizerFile, TokenizerFormat
from gollm.tokenizers.files.huggingface import tokenizer_json

# Looked at in this order: by name, by the first bytes, by the JSON value.
_FORMATS = {
    found.name: found
    for found in (
        gpt2.FORMAT,
        tiktoken.FORMAT,
        sentencepiece.FORMAT,
        llmc.FORMAT,
        llama2c.FORMAT,
        bert.FORMAT,
        own.FORMAT,
        tokenizer_json.FORMAT,
    )
}

_SINGLE_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer.bin", "vocab.txt")
"""The names of files that hold a tokenizer alone, in the order in which a folder is searched."""


def load(
    path: str | os.PathLike[str],
    merges: str | os.PathLike[str] | None = None,
    *,
    pattern: str | Sequence[str] | None = None,
    special_tokens: Mapping[str, int] | Iterable[str] | None = None,
    lowercase: bool | None = None,
) -> Tokenizer:
    """The tokenizer in a file or folder, whose format is detected from its content:

    - a file that `save` has written, or Hugging Face's tokenizer.json;
    - SentencePiece's tokenizer.model, llama2.c's tokenizer.bin, or llm.c's gpt2_tokenizer.bin;
    - BERT's vocab.txt; `lowercase` says whether text is made lower case and loses its accents, which the file does not
      (default: if no token has an upper-case letter);
    - tiktoken's rank file, or LLaMA-3's tokenizer.model; these need `pattern`, and `special_tokens` where there are
      any: spellings with their ids, or spellings that get the ids behind the last one;
    - GPT-2's vocab.json and merges.txt, or encoder.json and vocab.bpe, also behind a prefix: name either, or both;
    - a folder with one of these.

    Raises TokenizerError if there is no tokenizer, or one of a kind that is not supported.
    """
    path = as_path(path, TokenizerError)
    file = TokenizerFile(_in_folder(path) if merges is None and os.path.isdir(path) else path)
    ranks = {"pattern": pattern, "special_tokens": special_tokens}
    options: dict[str, Any] = {name: value for name, value in ranks.items() if value is not None}
    if options and (merges is not None or not tiktoken.recognises(file)):
        raise TokenizerError(
            f"{file.path} is no rank file of tiktoken: only these are read with a pattern or special tokens"
        )
    found = _recognised(file) if merges is None else gpt2.FORMAT
    if lowercase is not None:
        if found is not bert.FORMAT:
            raise TokenizerError(f"{file.path} is no vocab.txt of BERT: only these are read with lowercase")
        options["lowercase"] = lowercase
    return found.read(file, **options) if merges is None else gpt2.read(file, as_path(merges, TokenizerError))


def _recognised(file: TokenizerFile) -> TokenizerFormat:
    for found in _FORMATS.values():
        if found.recognises(file):
            return found
    raise TokenizerError(
        f"{file.path} is no tokenizer that gollm knows: it is neither a file that gollm saved, nor a tokenizer.json, "
        "tokenizer.model or tokenizer.bin, nor tiktoken's ranks, nor a vocab.json with its merges.txt beside it"
    )


def _in_folder(folder: Path) -> Path:
    """The file of a folder's tokenizer."""
    for name in _SINGLE_FILES:
        if os.path.isfile(folder / name):
            return folder / name
    for vocab_name, merges_name in gpt2.PAIRS:
        for merges in sorted(folder.glob(f"*{merges_name}")):
            if os.path.isfile(gpt2.sibling(merges, merges_name, vocab_name)):
                return merges
    for ranks in sorted(folder.glob("*.tiktoken")):
        return ranks
    names = ", ".join([*_SINGLE_FILES, *(" with ".join(pair) for pair in gpt2.PAIRS), "*.tiktoken"])
    raise TokenizerError(f"the folder {folder} has no tokenizer; looked for: {names}")


def save(tokenizer: Tokenizer, path: str | os.PathLike[str], to: str | None = None) -> None:
    """Writes a tokenizer to a file, whole or not at all; of GPT-2's two files `path` is the folder.

    `to` is the format: gollm, huggingface, tiktoken, gpt2, sentencepiece, llama2.c, llm.c or bert. By default the name
    of the file tells it, *.tiktoken, *.model, tokenizer.bin or vocab.txt; every other name is gollm's own format, JSON
    that a person can read. Raises TokenizerError if the file can't be written, or the format can't hold the tokenizer.
    """
    path = as_path(path, TokenizerError)
    found = own.FORMAT if to is None else _format_named(to)
    if to is None:
        found = next((found for found in _FORMATS.values() if path.name.endswith(found.endings)), found)
    for target, data in found.files_of(tokenizer, path).items():
        with replacing(target, TokenizerError) as file:
            file.write(data)


def _format_named(name: str) -> TokenizerFormat:
    if not isinstance(name, str) or name not in _FORMATS:
        raise TokenizerError(f"the tokenizer's format is {shorten(name)}; it must be one of {', '.join(_FORMATS)}")
    return _FORMATS[name]
