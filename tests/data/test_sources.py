"""Text from every kind of source, and every way in which it can be wrong."""

import errno
import io
import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gollm.data import Files, StandardInput, Texts, files_below, open_source, reading, standard_library
from gollm.errors import DataError, GollmWarning
from gollm.system import plain_text


def text_of(source):
    return "".join(source.iter_text())


def test_a_file_is_its_text_without_the_byte_order_mark_and_with_its_line_ends(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\n\xe2\x82\xac")
    assert text_of(open_source(path)) == "one\r\ntwo\n€"
    assert text_of(open_source(str(path))) == "one\r\ntwo\n€"


def test_documents_begin_on_lines_of_their_own(tmp_path):
    for name, text in {"1": "no newline", "2": "", "3": "newline\n", "4": "end"}.items():
        (tmp_path / name).write_text(text)
    assert text_of(open_source([tmp_path / n for n in "1234"])) == "no newline\nnewline\nend"
    assert text_of(Texts(["a", "b\n", "", "c"])) == "a\nb\nc"


def test_a_folder_is_read_in_sorted_order_through_patterns(tmp_path):
    for name in (
        "b.txt",
        "a.txt",
        "sub/c.txt",
        "sub/d.py",
        ".hidden.txt",
        ".git/e.txt",
        "__pycache__/f.txt",
        "note.md",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)

    def names(*patterns):
        return [p.relative_to(tmp_path).as_posix() for p in files_below(tmp_path, patterns)]

    assert names() == ["a.txt", "b.txt", "note.md", "sub/c.txt", "sub/d.py"]
    assert names("*.txt") == ["a.txt", "b.txt", "sub/c.txt"]
    assert names("sub/*") == ["sub/c.txt", "sub/d.py"]
    assert names("*.txt", "!b*", "*.py") == ["a.txt", "sub/c.txt", "sub/d.py"]
    assert names("!*.md", "!sub/*") == ["a.txt", "b.txt"]
    assert text_of(open_source(tmp_path, patterns="*.md")) == "note.md"
    assert text_of(open_source(str(tmp_path / "*.txt"))) == "a.txt\nb.txt"


def test_json_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one", "n": 1}\n\n  \n{"text": "", "n": 1}\n{"n": 2, "text": "tw\\u00f6"}')
    assert text_of(open_source(path)) == "one\ntwö"
    other = tmp_path / "b.data"
    other.write_text('{"body": "x"}\r\n{"body": "y"}\r\n')
    assert text_of(open_source(other, field="body")) == "x\ny"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"body": "x", "id": 3}', ["line 2", "no field 'text'", "'body', 'id'", "--field"]),
        ("{}", ["line 2", "no field 'text'", "none"]),
        ('{"text": 3}', ["line 2", "holds a int"]),
        ('["text"]', ["line 2", "JSON list instead of an object"]),
        ('{"text": "x"', ["line 2", "not JSON"]),
        ('{"text": "\\ud800"}', ["line 2", "surrogate", "\\ud800", "--decode-errors replace"]),
        ('{"text": "x", "n": ' + "9" * 5000 + "}", ["line 2"]),
        ('{"text": ' + "[" * 100_000, ["line 2", "nested too deeply"]),
        (b'{"text": "\xff"}', ["line 2", "0xff", "byte 27", "--encoding"]),
    ],
)
def test_a_bad_json_line_is_named(tmp_path, line, words):
    path = tmp_path / "a.jsonl"
    data = line if isinstance(line, bytes) else line.encode()
    path.write_bytes(b'{"text": "good"}\n' + data + b"\n")
    if "9" * 5000 in str(line) and sys.version_info < (3, 11):
        return  # this Python reads such numbers
    with pytest.raises(DataError) as info:
        text_of(open_source(path))
    for word in [str(path), *words]:
        assert word in str(info.value)


def test_a_json_line_without_an_end_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_LINE_CHARACTERS", 1000)
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "' + "x" * 3000 + '"}')
    with pytest.raises(DataError, match="line 1: longer than"):
        text_of(open_source(path))


def test_half_characters_of_json_lines_can_be_replaced(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a\\ud800b\\ud83d\\ude00"}\n')
    assert text_of(open_source(path, errors="replace")) == "a\ufffdb😀"
    assert text_of(open_source(path, errors="ignore")) == "ab😀"


@pytest.mark.parametrize("before", [0, 5, (1 << 20) - 1, (1 << 20) + 17])
def test_undecodable_bytes_are_named_by_file_line_and_byte(tmp_path, before):
    path = tmp_path / "bad.txt"
    path.write_bytes(b"\n" * before + b"a\xe2\x82")  # a character that is cut off, also across two reads
    with pytest.raises(DataError) as info:
        text_of(open_source(path))
    message = str(info.value)
    assert f"line {before + 1:d}," in message and f"byte {before + 1:,}" in message and "0xe2" in message
    assert str(path) in message and "--encoding" in message and "--decode-errors replace" in message
    assert text_of(open_source(path, errors="replace")).endswith("a\ufffd")
    assert text_of(open_source(path, encoding="latin-1")).endswith("a\xe2\x82")


def test_other_encodings(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("Grüße\n".encode("utf-16"))
    assert text_of(open_source(path, encoding="utf-16")) == "Grüße\n"
    for bad in ("klingon", "rot13", "base64"):
        with pytest.raises(DataError, match=f"the encoding '{bad}' is not known"):
            open_source(path, encoding=bad)
    with pytest.raises(DataError, match="strict, replace or ignore"):
        open_source(path, errors="hope")


def test_what_is_missing_or_matches_nothing(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    for data, options, words in [
        (tmp_path / "no.txt", {}, ["no.txt", "No such file"]),
        (tmp_path / "no*.txt", {}, ["no file matches", "no*.txt"]),
        (tmp_path, {"patterns": ["*.md", "*.py"]}, ["no file below", "*.md *.py", "there are 1"]),
        (tmp_path / "empty", {}, ["holds no files (hidden ones are left out)"]),
        ([], {}, ["no files were given"]),
        (["-", tmp_path / "a.txt"], {}, ["cannot be mixed"]),
        (tmp_path / "a.txt", {"patterns": ["*.py"]}, ["'*.py'", "no folder"]),
        (None, {"patterns": ["*.py"]}, ["no folder"]),
        ("a\0b", {}, ["cannot read"]),
        (os.devnull, {}, ["no regular file", "standard input"]),
    ]:
        with pytest.raises(DataError) as info:
            open_source(data, **options)
        for word in words:
            assert word in str(info.value), info.value
    with pytest.raises(DataError, match="is a folder"):
        Files([tmp_path])
    with pytest.raises(DataError, match="document 1 of the given text is a bytes"):
        Texts(["a", b"b"])


def test_a_file_that_vanishes_while_it_is_used(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("x")
    source = open_source(path)
    path.unlink()
    for use in (source.fingerprint, source.signature, lambda: text_of(source)):
        with pytest.raises(DataError, match="cannot read"):
            use()


def test_standard_input_can_be_read_twice_and_at_once():
    source = StandardInput(stream=io.BytesIO(b"one\n" * 100_000))
    assert source.size_bytes == 400_000
    for a, b in zip(source.iter_text(), source.iter_text(), strict=True):
        assert a == b
    assert text_of(source) == "one\n" * 100_000
    assert source.fingerprint() == source.fingerprint()


def test_standard_input_through_open_source(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"t": "x"}\n{"t": "y"}\n')))
    assert text_of(open_source("-", field="t")) == "x\ny"


def test_what_a_shell_gives_for_a_command_is_read_like_standard_input():
    code = "import sys, gollm.data as d; s = d.open_source(sys.argv[1]); print(*s.iter_text(), *s.iter_text())"
    for script, words in [
        ("<(echo one)", "one\n one\n\n"),
        ("/dev/stdin < <(echo two)", "two\n two\n\n"),
        (f"/dev/stdin < {__file__}", None),
    ]:
        command = ["bash", "-c", f'"$0" -c "$1" {script}', sys.executable, code]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0 and (done.stdout == words or words is None), done.stderr
    reading, writing = os.pipe()
    os.close(writing)
    for data, words in [
        ([f"/dev/fd/{reading}", __file__], "cannot be mixed"),
        ("/dev/fd/99999", "cannot read /dev/fd/99999: Bad file descriptor"),
    ]:
        with pytest.raises(DataError, match=words):
            open_source(data)
    os.close(reading)


def test_standard_input_that_cannot_be_read(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(DataError, match="standard input is closed"):
        open_source("-")

    class Broken(io.RawIOBase):
        def read(self, _size):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with pytest.raises(DataError, match="cannot read standard input: Input/output error"):
        StandardInput(stream=Broken())


def test_fingerprints_follow_the_content_and_how_it_is_read(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("same")
    two.write_text("same")
    assert open_source(one).fingerprint() == open_source(two).fingerprint()
    assert open_source(one).fingerprint() != open_source([one, two]).fingerprint()
    assert open_source(one).fingerprint() != open_source(one, encoding="latin-1").fingerprint()
    assert open_source(one).fingerprint() != open_source(one, field="text").fingerprint()
    assert open_source(one).signature() != open_source(two).signature()
    two.write_text("diff")
    assert open_source(one).fingerprint() != open_source(two).fingerprint()
    assert Texts(["ab", "c"]).fingerprint() != Texts(["a", "bc"]).fingerprint()
    assert Texts(["ab"]).fingerprint() == Texts("ab").fingerprint()


def test_the_standard_library_is_a_corpus():
    source = open_source()
    assert source.name == "the Python standard library"
    below = [path.as_posix() for path in source.paths]
    assert below == [path.as_posix() for path in standard_library().paths]
    assert 1_000_000 < source.size_bytes <= 8 << 20
    assert not any("/test/" in p or "/tests/" in p or "site-packages" in p or "dist-packages" in p for p in below)
    assert any(p.endswith("/argparse.py") for p in below)
    text = text_of(source)
    assert "class ArgumentParser" in text and len(text) > 0.9 * source.size_bytes
    assert standard_library(200_000).size_bytes <= 200_000


def test_long_documents_come_in_pieces():
    text = "".join(f"word{i}, and\n  more " for i in range(150_000))
    assert len(text) > 2 * reading.PIECE_CHARACTERS
    pieces = list(reading.split_document(text))
    assert "".join(piece.text for piece in pieces) == text
    assert [piece.first for piece in pieces] == [True] + [False] * (len(pieces) - 1)
    assert all(len(piece.text) <= reading.PIECE_CHARACTERS for piece in pieces)


def test_text_to_train_on_is_cut_between_words_or_not_at_all(monkeypatch):
    monkeypatch.setattr(reading, "PIECE_CHARACTERS", 1000)
    documents = ["".join(f"word{i}, and\n  more " for i in range(500)), "short", "x" * 5000]
    chunks = list(Texts(documents).iter_text())
    assert "".join(chunks) == "\n".join(documents)
    assert len(chunks) > 5 and max(map(len, chunks[:-2])) < 2200 and chunks[-2:] == ["short\n", "x" * 5000]
    for chunk, after in itertools.pairwise(chunks[:-2]):
        assert after[0] in " \n" and (chunk[-1].isalnum() or chunk[-1] == ",")
    assert list(Texts(documents).iter_text(whole=True)) == [documents[0] + "\n", "short\n", "x" * 5000]


@given(st.binary(max_size=400), st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=200, deadline=None)
def test_pieces_make_up_the_text_whatever_the_chunks(data, read_bytes, piece_characters):
    data = b"text " + data.replace(b"\0", b"")  # other beginnings, and NULs, have tests of their own
    text = data.decode("utf-8", "replace")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plain_text, "READ_BYTES", read_bytes)
        patch.setattr(reading, "PIECE_CHARACTERS", piece_characters)
        seen = []
        pieces = list(reading.text_pieces(io.BytesIO(data), "x", "utf-8", "replace", seen.append))
        assert "".join(p.text for p in pieces) == text
        assert sum(seen) == len(data)
        assert [p.first for p in pieces] == [i == 0 for i in range(len(pieces))]
        assert all(p.text for p in pieces)
        assert "".join(p.text for p in reading.split_document(text)) == text


@pytest.fixture
def mixed(tmp_path):
    """A source tree as there are: text, and what lies beside it."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "sub" / "b.txt").write_text("more text")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "c.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    (tmp_path / "d.pdf").write_bytes(b"%PDF-1.7\n")
    (tmp_path / "e.zip").write_bytes(b"PK\x03\x04")
    (tmp_path / "f.bin").write_bytes(np.arange(1000, dtype="<f4").tobytes())
    (tmp_path / "g.txt").write_bytes(("plain " * 100_000).encode() + "olé".encode("latin-1"))
    return tmp_path


def test_files_of_a_folder_that_are_no_text_are_left_out_and_named(mixed):
    with pytest.warns(GollmWarning) as found:
        source = open_source(mixed)
    assert [path.name for path in source.paths] == ["a.txt", "empty.txt", "b.txt"]
    assert [piece.text for piece in source.pieces()] == ["text", "more text"]
    (message,) = [str(one.message) for one in found]
    assert message == (
        f"5 of 8 files below {mixed} are not text and are left out: c.png (an image), d.pdf (a PDF document), e.zip (a "
        "zip archive (as .docx, .npz and PyTorch's files are)), f.bin (not text), g.txt (not UTF-8 text). Name a file "
        "itself to see why"
    )
    assert len(open_source(mixed, errors="replace", patterns="g.txt").paths) == 1


@pytest.mark.parametrize("name", ["c.png", "d.pdf", "e.zip", "f.bin", "g.txt"])
def test_a_file_that_is_named_is_never_left_out(name, mixed):
    with pytest.raises(DataError, match=rf"{name} is"):
        list(open_source(mixed / name).pieces())
    with pytest.raises(DataError, match=rf"none of the 1 files below .* is text: {name} \("):
        open_source(mixed, patterns=name)
