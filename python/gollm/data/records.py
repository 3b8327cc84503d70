"""Records: the objects of JSON Lines, of a JSON array, or the rows of a CSV file, each with the place it comes from."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from gollm.data.sources import Files, StandardInput, open_source
from gollm.errors import DataError
from gollm.system.files import StrPath
from gollm.system.plain_text import text_chunks
from gollm.system.strict_json import parse_object, shorten

_SEPARATORS = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class Record:
    """values by field, and where: "chats.jsonl, line 3" """

    values: dict[str, Any]
    where: str


def read_records(data: StrPath | Sequence[StrPath]) -> list[Record]:
    """The records of files, folders, wildcards, or of standard input for "-".

    Files that end in .csv or .tsv have a row of names first; others are JSON Lines or, where the first character is
    "[", a JSON array of objects. Raises DataError with file and line for a record that cannot be read, for a field
    "id" that two records share, and where there are none."""
    source = open_source(data)
    if not isinstance(source, Files | StandardInput):
        raise DataError(f"{source.name} holds token ids, not records; use JSON Lines or CSV")
    found: list[Record] = []
    for name, _, stream in source._streams():
        text = _text(stream, name)
        separator = next((sign for end, sign in _SEPARATORS.items() if name.lower().endswith(end)), None)
        if separator is not None:
            found += _rows(text, name, separator)
        elif text.lstrip()[:1] == "[":
            found += _entries(text, name)
        else:
            found += _lines(text, name)
    if not found:
        raise DataError(f"{source.name} has no records; write one JSON object a line")
    _refuse_double_ids(found)
    return found


def _text(stream: BinaryIO, name: str) -> str:
    return "".join(text_chunks(stream, name, DataError)).removeprefix("\ufeff")


def _lines(text: str, name: str) -> Iterator[Record]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            where = f"{name}, line {number}"
            yield Record(parse_object(line.encode("utf-8", "surrogatepass"), where, DataError), where)


def _entries(text: str, name: str) -> Iterator[Record]:
    """The objects of an array, one at a time, so that each has its line."""
    decoder = json.JSONDecoder()
    at, line, counted = text.index("[") + 1, 1, 0
    first = True
    while True:
        at = _skip(text, at)
        if text[at : at + 1] == "]":
            if rest := text[at + 1 :].strip():
                raise DataError(f"{name}: {shorten(rest)} stands behind the JSON array; one array fills a file")
            return
        comma = not first and text[at : at + 1] == ","
        at = _skip(text, at + 1) if comma else at
        line, counted = line + text.count("\n", counted, at), at
        where = f"{name}, line {line}"
        if not (first or comma):
            raise DataError(f"{where} is not JSON (a comma is missing between two entries)")
        try:
            _, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as failure:
            raise DataError(f"{where} is not JSON ({failure})") from None
        yield Record(parse_object(text[at:end].encode("utf-8", "surrogatepass"), where, DataError), where)
        at, first = end, False


def _skip(text: str, at: int) -> int:
    while text[at : at + 1] in (" ", "\t", "\r", "\n"):
        at += 1
    return at


def _rows(text: str, name: str, separator: str) -> Iterator[Record]:
    reader = csv.reader(text.splitlines(keepends=True), delimiter=separator, strict=True)
    try:
        names = next(reader, [])
        line = reader.line_num + 1
        for row in reader:
            where = f"{name}, line {line}"
            line = reader.line_num + 1
            if not row:
                continue
            if len(row) != len(names):
                raise DataError(f"{where} has {len(row)} values, and the first line has {len(names)} names")
            yield Record(dict(zip(names, row, strict=True)), where)
    except csv.Error as failure:
        raise DataError(f"{name}, line {reader.line_num} is not CSV: {failure}") from None


def _refuse_double_ids(records: Sequence[Record]) -> None:
    seen: dict[object, str] = {}
    for record in records:
        key = record.values.get("id")
        if isinstance(key, str | int) and (before := seen.setdefault(key, record.where)) != record.where:
            raise DataError(f"{record.where} has the id {shorten(key)}, as {before} has; remove one of them")
