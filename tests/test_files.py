"""Only regular files are read and replaced, names may have the file system's length, and failures say what to do."""

from __future__ import annotations

import errno
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gollm.errors import DataError
from gollm.system import files
from gollm.system.files import open_regular, read_regular, remove_leftovers, replacing, replacing_folder, temporary_name

LONG_NAMES = ["a" * 255, "é" * 127, "語" * 85, "a" + "😀" * 63, "a\nb", os.fsdecode(b"\xff" * 255), "x" + "ab" * 91]


def write(path: Path | str, data: bytes = b"new") -> None:
    with replacing(path, DataError) as file:
        file.write(data)


@pytest.mark.parametrize("name", LONG_NAMES)
def test_a_name_may_have_as_many_bytes_as_the_file_system_takes(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    write(path)
    write(path, b"newer")
    assert path.read_bytes() == b"newer" and os.listdir(tmp_path) == [name]
    path.unlink()
    for content in ("one", "two"):
        with replacing_folder(path, DataError) as folder:
            (folder / content).touch()
    assert os.listdir(path) == ["two"] and os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", [*LONG_NAMES, "model.golm"])
def test_what_a_killed_process_leaves_is_recognised(name: str, tmp_path: Path) -> None:
    temporary_name(tmp_path / name).touch()
    (tmp_path / name).touch()
    assert len(remove_leftovers(tmp_path)) == 1
    assert os.listdir(tmp_path) == [name]


def test_only_what_is_cut_off_of_a_name_is_lost(tmp_path: Path) -> None:
    assert temporary_name(tmp_path / "model.golm").name.startswith(".model.golm.")
    cut = temporary_name(tmp_path / ("é" * 127)).name
    assert cut.startswith("." + "é" * 100) and len(os.fsencode(cut)) in (254, 255)


def specials(folder: Path) -> list[Path]:
    """Everything that is not a regular file, and links to it."""
    os.mkfifo(folder / "fifo")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.path.relpath(folder / "socket"))  # a socket's path has at most 108 bytes
    listener.close()
    (folder / "link").symlink_to("fifo")
    (folder / "device").symlink_to(os.devnull)
    (folder / "loop").symlink_to("loop")
    return [folder / "fifo", folder / "socket", folder / "link", folder / "device", folder / "loop", Path(os.devnull)]


def test_only_regular_files_and_folders_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("old")
    for path in specials(tmp_path):
        before = os.lstat(path)
        for attempt in (write, lambda path: replacing_folder(path, DataError).__enter__()):
            with pytest.raises(DataError, match=rf"cannot write {path}: (it is not a |Too many).*Choose another name"):
                attempt(path)
        assert os.lstat(path) == before
    with pytest.raises(DataError, match=r"it is a folder\. Name a file"):
        write(tmp_path / "folder")
    with pytest.raises(DataError, match="it is a folder"):
        write("")
    with pytest.raises(DataError, match=r"only a folder is replaced by one; the file that was there"):
        replacing_folder(tmp_path / "file", DataError).__enter__()
    assert sorted(os.listdir(tmp_path)) == ["device", "fifo", "file", "folder", "link", "loop", "socket"]


def test_the_shells_pipe_is_not_replaced() -> None:
    code = "from test_files import write; write('/dev/stdout')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent)
    assert "cannot write /dev/stdout: it is not a regular file" in done.stderr and done.stdout == ""


def test_a_link_to_nothing_becomes_a_link_to_the_new_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("target")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_bytes() == b"new"


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "Free some space"),
        (errno.EDQUOT, "Free some space"),
        (errno.EFBIG, r"Raise the limit \(ulimit -f\)"),
        (errno.EROFS, "Write to a folder where you may"),
        (errno.EACCES, "Write to a folder where you may"),
        (errno.EIO, "Write to another folder"),
    ],
)
def test_each_failure_has_its_advice(number: int, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("old")

    def fail(_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    words = rf"cannot write .*/a: {os.strerror(number)}; the file that was there before is untouched\. {advice}"
    with pytest.raises(DataError, match=words):
        write(tmp_path / "a")
    assert (tmp_path / "a").read_text() == "old" and os.listdir(tmp_path) == ["a"]


def test_paths_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, words in [
        (tmp_path / "no" / "deeper" / "a", f"the folder {tmp_path}/no/deeper does not exist. Create it"),
        (tmp_path / "file" / "a", "Not a directory. Write to another folder"),
        (tmp_path / ("x" * 256), "File name too long. Choose a shorter name"),
        ("a\0b", "embedded null byte. Choose another name"),
        ("a\ud800", "surrogates not allowed. Choose another name"),
    ]:
        for attempt in (write, lambda path: replacing_folder(path, DataError).__enter__()):
            with pytest.raises(DataError, match=re.escape(words)):
                attempt(path)


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    for path in [*specials(tmp_path), tmp_path, "a\0b", "a\ud800", "", tmp_path / "no"]:
        with pytest.raises(OSError):
            open_regular(path)
    (tmp_path / "file").write_bytes(b"12345")
    assert read_regular(tmp_path / "file", 3) == b"123"


def test_every_file_from_outside_is_opened_through_open_regular() -> None:
    """What else opens a path: files of the system, writers of new files, and benchmarks."""
    package = Path(files.__file__).parents[1]
    allowed = {
        "system/files.py",  # open_regular itself
        "system/threads.py",
        "system/memory.py",
        "cli/doctor.py",
        "benchmarks/worker.py",  # /proc and /sys
        "cli/process.py",  # the standard streams
    }
    opening = re.compile(
        r"(?<!def )(?<!Tokens\.)(?<!os\.)\bopen\(|\.read_(?:bytes|text)\(|np\.(?:load|fromfile|memmap)\("
    )
    found = []
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if name not in allowed and opening.search(line) and '"xb"' not in line and '"ab"' not in line:
                found.append(f"{name}:{number}: {line.strip()}")
    assert not found
