"""From bytes to text: decoding in chunks, JSON Lines, and where a long document may be cut.

A document arrives in pieces of about a million characters, so a corpus larger than memory can be read. A piece ends in
front of a space that follows a letter or digit wherever there is one nearby: no tokenizer of the usual kinds
(characters, words, byte-level BPE behind the patterns of GPT-2 to LLaMA-3) forms a token across such a place, so the
ids are those of the uncut document.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

from ..errors import DataError

READ_BYTES = 1 << 20
PIECE_CHARACTERS = 1 << 20
CUT_WINDOW = 1 << 16  # how far back from a piece's end a good place to cut is looked for
MAX_LINE_BYTES = 64 << 20

_GOOD_CUT = re.compile(r"(?<=[^\W_])(?=[ \n])")
_FAIR_CUT = re.compile(
    r"(?<=\S)(?=[^\S\x1c-\x1f])"
)  # to Unicode, and to tokenizers, U+001C to U+001F are no white space


class Piece(NamedTuple):
    """Part of a document; `first` marks the beginning of one."""

    text: str
    first: bool


def cut_position(text: str) -> int:
    """Where to end a piece: near the end of `text`, in front of whitespace behind a letter or digit if there is any."""
    start = max(0, len(text) - CUT_WINDOW)
    for pattern in (_GOOD_CUT, _FAIR_CUT):
        places = [match.start() for match in pattern.finditer(text, start)]
        if places and places[-1] > 0:
            return places[-1]
    return len(text)


def text_pieces(
    stream: BinaryIO, name: str, encoding: str, errors: str, progress: Callable[[int], None]
) -> Iterator[Piece]:
    """One document: the whole stream, decoded; a leading byte order mark is dropped, line ends stay as they are.

    `progress` is told how many bytes were read each time. Raises DataError where the bytes are not text in `encoding`.
    """
    decoder = make_decoder(encoding, errors)
    rest, first, offset, line = "", True, 0, 1
    while True:
        data = stream.read(READ_BYTES)
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeDecodeError as failure:
            # The decoder prepends the bytes that it kept from the chunk before.
            at = offset - (len(failure.object) - len(data)) + failure.start
            line += failure.object[: failure.start].count(b"\n")
            raise undecodable(name, f"line {line}, byte {at:,}", failure) from None
        if offset == 0:
            text = text.removeprefix("\ufeff")
        offset += len(data)
        line += data.count(b"\n")
        progress(len(data))
        rest += text
        if not data:
            if rest:
                yield Piece(rest, first)
            return
        if len(rest) >= PIECE_CHARACTERS:
            cut = cut_position(rest)
            yield Piece(rest[:cut], first)
            rest, first = rest[cut:], False


def json_line_pieces(
    stream: BinaryIO, name: str, field: str, encoding: str, errors: str, progress: Callable[[int], None]
) -> Iterator[Piece]:
    """JSON Lines: each line an object whose `field` holds one document. Blank lines are skipped.

    Raises DataError with file and line for a line that is no such object.
    """
    for number, data in enumerate(_lines(stream, name), 1):
        progress(len(data))
        where = f"{name}, line {number}"
        try:
            line = make_decoder(encoding, errors).decode(data, final=True).removeprefix("\ufeff")
        except UnicodeDecodeError as failure:
            raise undecodable(name, f"line {number}, byte {failure.start:,} of the line", failure) from None
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except RecursionError:
            raise DataError(f"{where}: the JSON is nested too deeply; give one flat object per line") from None
        except ValueError as failure:
            raise DataError(
                f"{where}: not JSON ({failure}); every line must be an object such as {{{field!r}: ...}}"
            ) from None
        if not isinstance(record, dict):
            raise DataError(f"{where}: a JSON {type(record).__name__} instead of an object with the field {field!r}")
        if field not in record:
            known = ", ".join(repr(key[:40]) for key in list(record)[:8]) or "none"
            raise DataError(
                f"{where}: no field {field!r}; its fields are {known}. Name the one that holds the text with --field"
            )
        text = record[field]
        if not isinstance(text, str):
            raise DataError(f"{where}: the field {field!r} holds a {type(text).__name__} instead of a string")
        if "\\u" in line:  # an escape can spell half of a surrogate pair, which is no character
            text = _whole_characters(text, where, errors)
        if text:
            yield from split_document(text)


def split_document(text: str) -> Iterator[Piece]:
    """A document that is in memory already, cut where it is long."""
    first = True
    while len(text) > PIECE_CHARACTERS:
        cut = cut_position(text[:PIECE_CHARACTERS])
        yield Piece(text[:cut], first)
        text, first = text[cut:], False
    yield Piece(text, first)


def make_decoder(encoding: str, errors: str) -> codecs.IncrementalDecoder:
    """An incremental decoder of bytes to text. Raises DataError for an encoding that Python does not know."""
    if errors not in ("strict", "replace", "ignore"):
        raise DataError(f"decoding errors cannot be handled by {errors!r}; choose strict, replace or ignore")
    try:
        if not codecs.lookup(encoding)._is_text_encoding:
            raise LookupError
        return codecs.getincrementaldecoder(encoding)(errors)
    except LookupError:
        raise DataError(
            f"the encoding {encoding!r} is not known; usual ones are utf-8, latin-1, cp1252 and utf-16"
        ) from None


def undecodable(name: str, where: str, failure: UnicodeDecodeError) -> DataError:
    """The error for bytes that are no text."""
    bad = failure.object[failure.start : failure.start + 1].hex()
    return DataError(
        f"{name} is not {failure.encoding} text: byte 0x{bad} at {where}. Name its encoding (--encoding latin-1), "
        f"leave the file "
        "out with a pattern, or replace such bytes with --decode-errors replace"
    )


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


def _lines(stream: BinaryIO, name: str) -> Iterator[bytes]:
    number = 0
    while line := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise DataError(
                f"{name}, line {number}: longer than {MAX_LINE_BYTES >> 20} MiB; JSON Lines holds one document per line"
            )
        yield line
