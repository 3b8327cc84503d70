"""gollm encode, gollm tokenizer encode"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from gollm.cli.inputs import text_or_stdin
from gollm.options import Positional


@dataclass(frozen=True)
class Options:
    """Convert text to token ids, separated by spaces."""

    # tokenizer file or folder (gollm's, GPT-2's vocab.json with merges.txt, tokenizer.json), or any model
    tokenizer: Path
    text: Annotated[str, Positional]  # text, or - for standard input
    special: bool = False  # recognise special tokens, such as <|endoftext|>, in the text
    json: bool = False  # print one JSON document with the token ids and the text of each token

    ALIASES: ClassVar[Mapping[str, str]] = {"model": "tokenizer"}


def run(options: Options) -> None:
    from gollm.formats import open_tokenizer

    tokenizer = open_tokenizer(options.tokenizer)
    ids = tokenizer.encode(text_or_stdin(options.text), allowed_special="all" if options.special else "none").tolist()
    if options.json:
        pieces = [tokenizer.decode([token]) for token in ids]
        print(json.dumps({"ids": ids, "pieces": pieces, "vocab_size": tokenizer.vocab_size}))
    else:
        print(*ids)
