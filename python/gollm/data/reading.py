"""From text to documents: pieces of plain text, and JSON Lines.

A document arrives in pieces of about a million characters, so a corpus larger than memory can be read. A piece may end
anywhere: where a document is cut to be encoded is the tokenizer's business (gollm.tokenizers.documents).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import BinaryIO

from gollm.errors import DataError
from gollm.system.plain_text import text_chunks
from gollm.system.strict_json import shorten
from gollm.tokenizers.documents import DocumentPiece

PIECE_CHARACTERS = 1 << 20
MAX_LINE_CHARACTERS = 64 << 20


def on_lines_of_their_own(pieces: Iterator[DocumentPiece]) -> Iterator[DocumentPiece]:
    """The documents, with a newline behind each that does not end with one, if another follows."""
    previous: DocumentPiece | None = None
    for piece in pieces:
        if previous is not None:
            ends = piece.first and not previous.text.endswith("\n")
            yield DocumentPiece(previous.text + "\n", previous.first) if ends else previous
        previous = piece
    if previous is not None:
        yield previous


def text_pieces(
    stream: BinaryIO, name: str, encoding: str, errors: str, on_read: Callable[[int], None]
) -> Iterator[DocumentPiece]:
    """One document: the whole stream, decoded as `text_chunks` does.

    `on_read` is called with the number of bytes of each read. Raises DataError where the bytes are not text in
    `encoding`.
    """
    rest, first = "", True
    for text in text_chunks(stream, name, DataError, encoding, errors, on_read, named=True):
        rest += text
        if len(rest) >= PIECE_CHARACTERS:
            yield DocumentPiece(rest, first)
            rest, first = "", False
    if rest:
        yield DocumentPiece(rest, first)


def json_line_pieces(
    stream: BinaryIO, name: str, field: str, encoding: str, errors: str, on_read: Callable[[int], None]
) -> Iterator[DocumentPiece]:
    """JSON Lines: each line an object whose `field` holds one document. Blank lines are skipped.

    Raises DataError with file and line for a line that is no such object.
    """
    chunks = text_chunks(stream, name, DataError, encoding, errors, on_read, named=True)
    for number, line in enumerate(_lines(chunks, name), 1):
        where = f"{name}, line {number}"
        line = line.removeprefix("\ufeff")
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except RecursionError:
            raise DataError(f"{where}: the JSON is nested too deeply; give one flat object per line") from None
        except ValueError as failure:
            raise DataError(
                f"{where}: not JSON ({failure}); every line must be an object such as {{{shorten(field)}: ...}}"
            ) from None
        if not isinstance(record, dict):
            raise DataError(
                f"{where}: a JSON {type(record).__name__} instead of an object with the field {shorten(field)}"
            )
        if field not in record:
            known = ", ".join(repr(key[:40]) for key in list(record)[:8]) or "none"
            raise DataError(
                f"{where}: no field {shorten(field)}; its fields are {known}. Name the "
                "one that holds the text with --field"
            )
        text = record[field]
        if not isinstance(text, str):
            raise DataError(f"{where}: the field {shorten(field)} holds a {type(text).__name__} instead of a string")
        if "\\u" in line:  # an escape can spell half of a surrogate pair, which is no character
            text = _whole_characters(text, where, errors)
        if text:
            yield from split_document(text)


def split_document(text: str) -> Iterator[DocumentPiece]:
    """A document that is in memory already, cut where it is long."""
    for start in range(0, len(text), PIECE_CHARACTERS):
        yield DocumentPiece(text[start : start + PIECE_CHARACTERS], first=start == 0)


def _whole_characters(text: str, where: str, errors: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as failure:
        if errors == "strict":
            raise DataError(
                f"{where}: the text holds half of a surrogate pair (\\u{ord(text[failure.start]):04x}), which is no "
                f"character; "
                "replace such halves with --decode-errors replace"
            ) from None
        return re.sub("[\ud800-\udfff]", "\ufffd" if errors == "replace" else "", text)
    return text


def _lines(chunks: Iterator[str], name: str) -> Iterator[str]:
    """The lines of a text without their ends."""
    number, rest = 1, ""
    for chunk in chunks:
        *lines, last = chunk.split("\n")
        for line in lines:
            yield rest + line
            number, rest = number + 1, ""
        rest += last
        if len(rest) > MAX_LINE_CHARACTERS:
            raise DataError(
                f"{name}, line {number}: longer than {MAX_LINE_CHARACTERS >> 20} million characters; JSON Lines holds "
                "one document per line"
            )
    if rest:
        yield rest
