"""Bytes as text: byte order marks, compressed files, and what is refused because it is not text."""

from __future__ import annotations

import array
import bz2
import gzip
import importlib
import io
import lzma
import pickle
import sqlite3
import struct
import sys
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gollm.data import open_shard, open_source, write_shard
from gollm.errors import DataError
from gollm.system import plain_text
from gollm.system.plain_text import text_chunks
from gollm.tokenizers import BPETokenizer, CharacterTokenizer, WordPieceTokenizer, WordTokenizer

CASES = Path(__file__).parents[2] / "shared" / "cases"
TEXT = "Grüße, 漢字 und 😀!\r\nZweite Zeile\u00a0– hier.\n"
CHARACTERS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
zstd = importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda data: zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1}),  # as `zstd` does
}


def read(data: bytes, encoding: str = "utf-8", errors: str = "strict", name: str = "FILE") -> str:
    return "".join(text_chunks(io.BytesIO(data), name, DataError, encoding, errors, named=True))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@given(CHARACTERS, st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_byte_order_marks_are_honoured_and_dropped(encoding: str, text: str, chunk: int) -> None:
    data = ("\ufeff" + text).encode(encoding)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain_text, "READ_BYTES", chunk)
        assert read(data) == text
        if encoding != "utf-8":
            assert read(data, encoding) == text
    seen: list[int] = []
    list(text_chunks(io.BytesIO(data), "FILE", DataError, on_read=seen.append))
    assert sum(seen) == len(data)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_what_looks_like_utf_16_without_a_mark_is_named(encoding: str) -> None:
    for text in (TEXT, "plain ASCII\n", "漢字かな混じり文。" * 40 + "\n", "a"):
        data = text.encode(encoding)
        words = rf"FILE is not UTF-8 text: it looks like {encoding.upper()} .* \(--encoding {encoding}\)"
        for errors in ("strict", "replace"):
            with pytest.raises(DataError, match=words):
                read(data, errors=errors)
        assert read(data, encoding) == text


def test_utf_16_without_a_mark_needs_its_byte_order() -> None:
    with pytest.raises(DataError, match=r"FILE is not UTF-16 text: .*BOM\. Name its encoding, such as utf-16-le"):
        read("abc".encode("utf-16-le"), "utf-16")


def test_text_with_a_nul_is_not_text() -> None:
    data = b"one\ntwo\n" * 600 + b"three\0\n"
    with pytest.raises(DataError, match=r"FILE is not text: there is a NUL in line 1201\. Leave it out, or replace"):
        read(data)
    with pytest.raises(DataError, match="NUL in line 1201"):
        read(("\ufeff" + data.decode()).encode("utf-16-le"))
    assert read(data, errors="replace").endswith("three\ufffd\n")
    assert read(data, errors="ignore").endswith("three\n")
    with pytest.raises(DataError, match=r"is not text: 50 of its first 100 bytes are zero\. Leave it out"):
        read(b"\x01\0" * 50, errors="replace")


def test_the_place_of_bad_bytes_counts_decoded_lines() -> None:
    good = "\ufeff" + "ਊ\n" * 3000  # U+0A0A: two line feeds, if bytes were counted
    with pytest.raises(DataError, match=r"FILE is not UTF-16-LE text: byte 0x00 at line 3001, byte 12,002"):
        read(good.encode("utf-16-le") + b"\x00\xdc")


@pytest.mark.parametrize("packer", PACKERS)
@given(CHARACTERS, st.integers(1, 99), st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_compressed_text_is_unpacked(packer: str, text: str, chunk: int, split: int) -> None:
    data = ("t" + text).encode()
    packed = PACKERS[packer](data[:split]) + PACKERS[packer](data[split:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain_text, "READ_BYTES", chunk + 10)  # a read at least reaches the magic number's end
        patch.setattr(plain_text, "HEAD_BYTES", 8)
        assert read(packed) == "t" + text
    seen: list[int] = []
    list(text_chunks(io.BytesIO(packed), "FILE", DataError, on_read=seen.append))
    assert sum(seen) == len(packed)


@pytest.mark.parametrize("packer", PACKERS)
def test_damaged_compressed_files_are_refused(packer: str) -> None:
    packed = PACKERS[packer](TEXT.encode() * 50)
    for cut in range(len(packed) // 4, len(packed), 7):
        with pytest.raises(DataError, match=r"FILE is compressed with .*cut off before its end"):
            read(packed[:cut])
    with pytest.raises(DataError, match="something else follows its end"):
        read(packed + b"and more text behind it")
    assert read(packed + b"\0" * 512) == TEXT * 50
    for place in range(20, len(packed) - 10, 11):
        damaged = bytearray(packed)
        damaged[place] ^= 0x55
        try:
            assert read(bytes(damaged)) == TEXT * 50  # some bits of bzip2's tables mean nothing
        except DataError as error:
            assert "damaged" in str(error) or "cut off" in str(error)


@pytest.mark.parametrize("packer", PACKERS)
def test_a_decompression_bomb_is_refused_in_little_memory(packer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_text, "MAX_RATIO_FROM", 8 << 20)
    packed = PACKERS[packer](b"a" * (32 << 20))
    tracemalloc.start()
    with pytest.raises(DataError, match=r"FILE is compressed with .* more than 200 times as long"):
        for _ in text_chunks(io.BytesIO(packed), "FILE", DataError):
            pass
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


def test_xz_that_wants_much_memory_is_refused() -> None:
    # The header of a stream whose dictionary has 1.5 GiB (`xz -vv --lzma2=dict=1536MiB`).
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20}]
    packed = bytearray(lzma.compress(b"text", filters=filters))
    assert packed[16] == 16  # the dictionary's size: (2 | bit 0) << (11 + bits / 2)
    packed[16] = 37
    header = bytes(packed[12:20])
    packed[20:24] = struct.pack("<I", __import__("zlib").crc32(header))
    with pytest.raises(DataError, match="Memory usage limit"):
        read(bytes(packed))


def binary_files(folder: Path) -> dict[str, bytes]:
    """Real files of other kinds, by what their error says."""
    connection = sqlite3.connect(folder / "a.sqlite")
    connection.execute("create table t (text)")
    connection.commit()
    connection.close()
    archive, tar, npy = io.BytesIO(), io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.txt", "text")
    with tarfile.open(fileobj=tar, mode="w") as tarred:
        tarred.add(__file__, "a.txt")
    np.save(npy, np.zeros(3))
    return {
        "LZ4": b"\x04\x22\x4d\x18text",
        "zip": archive.getvalue(),
        "archive": tar.getvalue(),
        "compressed twice": gzip.compress(gzip.compress(b"text")),
        "twice .Zstandard": gzip.compress(zstd.compress(b"text")),
        "Parquet": b"PAR1\x15\x04\x15",
        "Arrow": b"ARROW1\0\0\xff\xff\xff\xff",
        "Arrow ": b"\xff\xff\xff\xff\x78\x02\0\0\x10\0\0\0",
        "pickle": pickle.dumps({"stoi": {"a": 0}, "itos": ["a"]}),
        "PDF": b"%PDF-1.7\n%abc\n",
        "image": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        "image ": b"\xff\xd8\xff\xe0\0\x10JFIF",
        "SQLite": (folder / "a.sqlite").read_bytes(),
        "program": b"\x7fELF\x02\x01\x01",
        "weights": b"GGUF\x03\0\0\0",
        "weights ": struct.pack("<Q", 90) + b'{"wte":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        "NumPy": npy.getvalue(),
    }


def test_other_kinds_of_files_are_named(tmp_path: Path) -> None:
    for word, data in binary_files(tmp_path).items():
        for errors, encoding in [("strict", "utf-8"), ("replace", "utf-8"), ("ignore", "latin-1")]:
            with pytest.raises(DataError, match=rf"FILE is .*{word.strip()}.*, not text; "):
                read(data, encoding, errors)
    with pytest.raises(DataError, match="FILE is a pointer of git-lfs"):
        read(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(DataError, match="FILE is a program, not text"):
        read(gzip.compress(Path(sys.executable).read_bytes()[:100_000]))
    for text in ("BM", "PARENTS", "PK", "MZ", "RIFFRAFF", "GIF", "Obj", "ORC", "ID3", "GGUF", "BZh", "%PDF", "ustar"):
        assert read(text.encode()) == text


@pytest.mark.parametrize("learn", [BPETokenizer, WordPieceTokenizer, WordTokenizer, CharacterTokenizer])
def test_tokenizers_learn_from_the_same_files(learn: type[BPETokenizer], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(TEXT.encode("utf-16"))
    (tmp_path / "b.gz").write_bytes(gzip.compress(b"packed text"))
    from_files = learn.train(open_source([tmp_path / "a.txt", tmp_path / "b.gz"]).iter_text(), 400)
    assert list(from_files.vocabulary) == list(learn.train([TEXT, "packed text"], 400).vocabulary)
    (tmp_path / "c.txt").write_bytes("no mark".encode("utf-16-le"))
    with pytest.raises(DataError, match=r"looks like UTF-16-LE .* or convert it to UTF-8$"):
        learn.train(open_source(tmp_path / "c.txt").iter_text(), 400)


def test_json_lines_may_be_compressed_and_utf_16(tmp_path: Path) -> None:
    lines = '{"text": "einß"}\r\n\r\n{"text": "ਊzwei"}\n'
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "b.NDJSON").write_bytes(lines.encode("utf-16"))
    source = open_source(tmp_path)
    assert [piece.text for piece in source.pieces()] == ["einß", "ਊzwei"] * 2


def test_nanogpts_ids_are_named_and_become_a_shard(tmp_path: Path) -> None:
    for ids in (np.arange(3000) % 65, np.random.default_rng(0).integers(0, 50257, 3000)):
        path = tmp_path / "train.bin"
        array.array("H", ids.tolist()).tofile(path.open("wb"))
        with pytest.raises(DataError, match=r"train\.bin is not .*write_shard\('shard\.bin', numpy\.fromfile"):
            list(open_source(path).pieces())
        write_shard(tmp_path / "shard.bin", np.fromfile(path, "uint16"))
        assert open_shard(tmp_path / "shard.bin").tolist() == ids.tolist()


@pytest.mark.skipif(not CASES.is_dir(), reason="the collected cases are not here")
def test_the_collected_files() -> None:
    texts = {}
    for path in sorted(CASES.glob("20-*")):
        try:
            texts[path.name] = "".join(open_source(path).iter_text())
        except DataError as error:
            texts[path.name] = str(error)
    assert "To be, or not to be" in texts["20-text.txt.gz"][:40]
    assert len({texts[f"20-{name}"] for name in ("text.txt.gz", "text.txt.xz", "utf16le-bom.txt")}) == 1
    assert "--encoding utf-16-le" in texts["20-utf16le-nobom.txt"]
    assert texts["20-rows.parquet"].startswith("hello world")
    assert all("write_shard" in texts[name] for name in ("20-nanogpt-train.bin", "20-nanogpt-gpt2-train.bin"))
