"""What commands read: text from an argument or standard input, a tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gollm.errors import CheckpointError, DataError
from gollm.files import reason
from gollm.plain_text import standard_input, text_chunks

if TYPE_CHECKING:
    from gollm.tokenizers import Tokenizer

CHECKPOINT_SUFFIX = ".golm"


def text_or_stdin(text: str) -> str:
    """The text itself, or all of standard input where it is -. Raises DataError for input that is not text."""
    if text != "-":
        return text
    name = "standard input"
    try:
        return "".join(text_chunks(standard_input(DataError), name, DataError))
    except OSError as failure:
        raise DataError(f"cannot read {name}: {reason(failure)}") from None


def open_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in a file or folder that gollm.tokenizers.load knows, or the one inside of a checkpoint."""
    from gollm import tokenizers

    if path.suffix != CHECKPOINT_SUFFIX:  # of a run folder too: it has a tokenizer.json
        return tokenizers.load(path)
    from gollm.checkpoint import open_checkpoint

    with open_checkpoint(path) as file:
        state = file.tokenizer_state()
        if state is None:
            raise CheckpointError(f"{path} has no tokenizer inside; name one with --tokenizer")
        return tokenizers.from_state(*state)
