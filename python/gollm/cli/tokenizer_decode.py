"""gollm tokenizer decode"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from gollm.cli.inputs import text_or_stdin
from gollm.cli.process import of_the_words
from gollm.errors import DataError
from gollm.options import Positional


@dataclass(frozen=True)
class Options:
    """Convert token ids to text. The output is byte-exact."""

    # tokenizer file or folder (gollm's, GPT-2's vocab.json with merges.txt, tokenizer.json), or any model
    tokenizer: Path
    ids: Annotated[tuple[str, ...], Positional]  # token ids, or - for standard input
    json: bool = False  # print one JSON document; invalid UTF-8 becomes U+FFFD

    ALIASES: ClassVar[Mapping[str, str]] = {"model": "tokenizer"}


def run(options: Options) -> None:
    if options.ids == ("-",):
        ids = [_id(word) for word in text_or_stdin("-").split()]
    else:
        with of_the_words():
            ids = [_id(word) for word in options.ids]
    from gollm.formats import open_tokenizer

    tokenizer = open_tokenizer(options.tokenizer)
    if options.json:
        print(json.dumps({"ids": ids, "text": tokenizer.decode(ids)}))
        return
    sys.stdout.flush()
    sys.stdout.buffer.write(tokenizer.decode_bytes(ids))
    if sys.stdout.isatty():
        sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()


def _id(word: str) -> int:
    if not (word.isascii() and word.isdigit() and len(word) <= 10):
        raise DataError(f"{word[:40]!r} is no token id; ids are whole numbers, separated by spaces")
    return int(word)
