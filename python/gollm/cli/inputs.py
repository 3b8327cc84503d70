"""What commands read: text from an argument or standard input."""

from __future__ import annotations

from gollm.errors import DataError
from gollm.system.files import reason
from gollm.system.plain_text import standard_input, text_chunks


def text_or_stdin(text: str) -> str:
    """The text itself, or all of standard input where it is -. Raises DataError for input that is not text."""
    if text != "-":
        return text
    name = "standard input"
    try:
        return "".join(text_chunks(standard_input(DataError), name, DataError))
    except OSError as failure:
        raise DataError(f"cannot read {name}: {reason(failure)}") from None
