"""Parquet files as a corpus: against pyarrow's own reading, with odd columns, damage and batches."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from gollm.data import open_source
from gollm.data.parquet import MAGIC
from gollm.data.sources import StandardInput
from gollm.errors import DataError

ROWS = st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=40), max_size=700)


def documents(path: Path, field: str | None = None) -> list[str]:
    found: list[str] = []
    for text, first in open_source(path, field=field).pieces():
        found += [text] if first else [found.pop() + text]
    return found


@given(rows=ROWS, group=st.integers(1, 800), compression=st.sampled_from(["none", "snappy", "gzip", "zstd"]))
@settings(max_examples=30, deadline=None)
def test_each_row_is_a_document(tmp_path_factory, rows, group, compression):
    path = tmp_path_factory.mktemp("parquet") / "data"
    table = pa.table({"n": pa.array(range(len(rows))), "text": pa.array(rows, pa.string())})
    parquet.write_table(table, path, row_group_size=group, compression=compression)
    assert documents(path) == [row for row in rows if row]
    seen: list[int] = []
    list(open_source(path).pieces(seen.append))
    assert sum(seen) == (path.stat().st_size if rows else 0)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_long_rows_other_columns_and_text_beside_it(tmp_path, kind):
    long = "äb\n" * 800_000  # cut into pieces of a million characters
    parquet.write_table(pa.table({"body": pa.array(["one", long], kind)}), tmp_path / "a.parquet")
    assert documents(tmp_path / "a.parquet", "body") == ["one", long]


@pytest.mark.parametrize("rows", [["a" * (16 << 20)], ["a" * (1 << 20)] * 16], ids=["one value", "one for many rows"])
def test_a_decompression_bomb_is_refused(tmp_path, rows, monkeypatch):
    monkeypatch.setattr("gollm.data.parquet.MAX_RATIO_FROM", 8 << 20)
    parquet.write_table(pa.table({"text": rows}), tmp_path / "a.parquet", compression="zstd")
    assert (tmp_path / "a.parquet").stat().st_size < 10_000
    with pytest.raises(DataError, match=r"a\.parquet is a Parquet file that unpacks to more than 200 times its size"):
        documents(tmp_path / "a.parquet")


def test_a_folder_may_mix_kinds(tmp_path):
    parquet.write_table(pa.table({"text": ["row"]}), tmp_path / "b.parquet")
    (tmp_path / "a.txt").write_text("PAR1 is a word")
    assert documents(tmp_path) == ["PAR1 is a word", "row"]


def test_what_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"id": [1, 2], "body": ["one", "two"]}), path)
    with pytest.raises(DataError, match=r"a\.parquet: no column 'text'; its columns are 'id', 'body'\. .*--field"):
        documents(path)
    with pytest.raises(DataError, match="the column 'id' holds int64 instead of strings"):
        documents(path, "id")
    data = path.read_bytes()
    with pytest.raises(DataError, match="cannot be read from a pipe; pass the file"):
        list(StandardInput(stream=io.BytesIO(data)).pieces())
    parquet.write_table(pa.table({"text": pa.array([b"\xff"]).cast(pa.binary()).view(pa.string())}), path)
    with pytest.raises(DataError, match="damaged Parquet file"):
        documents(path)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_damaged_files_end_in_one_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("parquet") / "a.parquet"
    parquet.write_table(pa.table({"text": [f"row {i}" for i in range(300)]}), path)
    damaged = bytearray(path.read_bytes())
    cut = data.draw(st.integers(len(MAGIC), len(damaged)))
    for _ in range(data.draw(st.integers(0, 4))):
        damaged[data.draw(st.integers(len(MAGIC), len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(damaged[:cut])
    try:
        documents(path)
    except DataError as error:
        assert "Parquet" in str(error) or "column" in str(error)


def test_a_damaged_footer_ends_no_process(tmp_path):
    """Each byte of the metadata, one after the other."""
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"text": ["a", None, "bc"] * 20}), path, row_group_size=30)
    whole = path.read_bytes()
    for place in range(len(whole) - 8 - int.from_bytes(whole[-8:-4], "little"), len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x16]) + whole[place + 1 :])
        with contextlib.suppress(DataError):
            documents(path)
