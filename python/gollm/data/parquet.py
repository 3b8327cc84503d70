"""Parquet files, read with pyarrow: each row of a text column is a document."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from gollm.data.reading import split_document
from gollm.errors import DataError
from gollm.system.plain_text import MAX_RATIO, MAX_RATIO_FROM
from gollm.system.strict_json import shorten
from gollm.tokenizers.documents import DocumentPiece

MAGIC = b"PAR1\x15"  # and a number, the first field of a page or of an empty file's footer
BATCH_ROWS = 256


def is_parquet(stream: BinaryIO) -> bool:
    """Whether a buffered stream begins like a Parquet file; its position stays."""
    return bool(stream.peek(len(MAGIC))[: len(MAGIC)] == MAGIC)  # type: ignore[attr-defined]


def parquet_pieces(stream: BinaryIO, name: str, column: str, on_read: Callable[[int], None]) -> Iterator[DocumentPiece]:
    """The documents of a column of strings, a few rows in memory at a time. Empty rows and nulls are skipped.

    `on_read` is called with each batch's part of the file's size. Raises DataError for a file that is damaged, has no
    such column or unpacks to far more than its size, and where pyarrow is not installed.
    """
    try:
        pa, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise DataError(
            f"{name} is a Parquet file, which needs the package pyarrow: pip install 'gollm[data]'"
        ) from None
    if not stream.seekable():
        raise DataError(f"{name} is a Parquet file, which cannot be read from a pipe; pass the file itself")
    size = stream.seek(0, 2)
    try:
        file = parquet.ParquetFile(stream)
        _check_column(pa, file.schema_arrow, name, column)
        n_rows, done = max(1, file.metadata.num_rows), 0
        _refuse_bomb(_unpacked_bytes(file.metadata), size, name)
        n_text = 0
        for batch in file.iter_batches(BATCH_ROWS, columns=[column], use_threads=False):
            n_text += batch.nbytes  # beyond what the metadata say where rows share a value
            _refuse_bomb(n_text, size, name)
            before, done = size * done // n_rows, done + batch.num_rows
            on_read(size * done // n_rows - before)
            for text in filter(None, batch.column(0).to_pylist()):
                yield from split_document(text)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as failure:
        reason = " ".join(str(failure).split())[:200]
        raise DataError(f"{name} is a damaged Parquet file ({reason}); fetch or write it again") from None


def _unpacked_bytes(metadata: Any) -> int:
    """The size of all columns' pages, as the file has it. That of one column cannot be asked for: where the file is
    damaged there, pyarrow ends the process."""
    return sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))


def _refuse_bomb(n_unpacked: int, size: int, name: str) -> None:
    if n_unpacked > max(MAX_RATIO_FROM, MAX_RATIO * size):
        raise DataError(
            f"{name} is a Parquet file that unpacks to more than {MAX_RATIO} times its size, as a bomb does; write its "
            "text as plain text if it is none"
        )


def _check_column(pa: Any, schema: Any, name: str, column: str) -> None:
    if schema.names.count(column) != 1:
        known = ", ".join(repr(key[:40]) for key in schema.names[:8]) or "none"
        raise DataError(
            f"{name}: no column {shorten(column)}; its columns are {known}. Name the one that holds the text with "
            "--field"
        )
    kind = schema.field(column).type
    if not any(kind.equals(string) for string in (pa.string(), pa.large_string(), pa.string_view())):
        raise DataError(
            f"{name}: the column {shorten(column)} holds {kind} instead of strings; name another with --field"
        )
