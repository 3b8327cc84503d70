"""gollm tokenizer train"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from gollm.cli.process import of_the_words
from gollm.errors import ConfigError
from gollm.options import Positional, PositiveInt


@dataclass(frozen=True)
class Options:
    """Train a tokenizer from text and save it as a JSON file."""

    # files, folders, wildcards, or - for standard input (default: the Python standard library's source)
    corpus: Annotated[tuple[str, ...], Positional] = ()
    pattern: tuple[str, ...] = ()  # patterns of the files to read, for example '*.py'; '!*.min.js' excludes files
    field: str | None = None  # JSON Lines field with the text
    encoding: str = "utf-8"  # encoding of text files: any Python codec
    decode_errors: Literal["strict", "replace", "ignore"] = "strict"  # how to handle invalid bytes
    # byte-level BPE, one token per character or word, or WordPiece as in BERT (lower case, BERT's special tokens)
    kind: Literal["bpe", "character", "word", "wordpiece"] = "bpe"
    # pre-tokenization of bpe: gpt2, cl100k, o200k, llama3, qwen2, smollm, or a regular expression
    split: str = "gpt2"
    # vocabulary size, special tokens included (default: 4096 for bpe and wordpiece, all of the text for the others)
    vocab_size: PositiveInt | None = None
    special_tokens: tuple[str, ...] = ("<|endoftext|>",)  # special tokens (never produced from plain text)
    out: Path = Path("tokenizer.json")  # output file
    overwrite: bool = False  # overwrite an existing file
    json: bool = False  # print one JSON document about the result

    ALIASES: ClassVar[Mapping[str, str]] = {"data": "corpus", "output": "out"}

    def __post_init__(self) -> None:
        if self.kind != "bpe" and self.split != "gpt2":
            raise ConfigError(f"--split is {self.split!r}, and --kind {self.kind}; only bpe has a choice of patterns")


VOCAB_SIZE = 4096


def run(options: Options) -> None:
    from tqdm import tqdm

    from gollm.data import open_source
    from gollm.tokenizers import BPETokenizer, CharacterTokenizer, Tokenizer, WordPieceTokenizer, WordTokenizer, save
    from gollm.tokenizers.patterns import PATTERNS, checked
    from gollm.tokenizers.vocabulary import check_vocab_size
    from gollm.tokenizers.wordpiece import SPECIAL_TOKENS

    with of_the_words():
        checked(options.split)
        if options.vocab_size is not None and options.kind != "wordpiece":
            check_vocab_size(options.kind, options.vocab_size, len(options.special_tokens))
    if os.path.exists(options.out) and not options.overwrite:
        raise ConfigError(f"{options.out} is there already; choose another file with --out, or --overwrite it")
    source = open_source(
        list(options.corpus) or None,
        patterns=options.pattern,
        field=options.field,
        encoding=options.encoding,
        errors=options.decode_errors,
    )
    tokenizer: Tokenizer
    # disable=None: no bar where standard error is no terminal
    with tqdm(total=source.size_bytes, unit="B", unit_scale=True, desc="reading", leave=False, disable=None) as bar:

        def show(n_bytes: int) -> None:
            bar.update(n_bytes)

        texts = source.iter_text(show, whole=options.kind == "bpe" and options.split not in PATTERNS)
        if options.kind == "bpe":
            size = options.vocab_size or VOCAB_SIZE
            tokenizer = BPETokenizer.train(texts, size, pattern=options.split, special_tokens=options.special_tokens)
        elif options.kind == "wordpiece":
            special = [*SPECIAL_TOKENS, *(token for token in options.special_tokens if token not in SPECIAL_TOKENS)]
            tokenizer = WordPieceTokenizer.train(texts, options.vocab_size or VOCAB_SIZE, special_tokens=special)
        else:
            learner = CharacterTokenizer if options.kind == "character" else WordTokenizer
            tokenizer = learner.train(texts, options.vocab_size, special_tokens=options.special_tokens)
    save(tokenizer, options.out, "gollm")
    if options.json:
        found = {"kind": tokenizer.kind, "vocab_size": tokenizer.vocab_size, "special_tokens": tokenizer.special_tokens}
        print(json.dumps({"path": str(options.out), **found, "corpus": source.name, "corpus_bytes": source.size_bytes}))
    else:
        print(f"{options.out}: {tokenizer.kind} with {tokenizer.vocab_size:,} tokens, learned from {source.name}")
