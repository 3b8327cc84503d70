"""Every command and function with every odd path: one sentence, and no waiting."""

from __future__ import annotations

import itertools
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import gollm
from gollm import data, formats, tokenizers
from gollm.cli import process
from gollm.errors import GollmError
from gollm.language_model import LanguageModel
from gollm.model.config import preset
from gollm.model.decoder import Decoder

from .conftest import Run

ODD = {
    "empty": "",
    "nul": "a\0b",
    "surrogate": "\ud800",
    "not UTF-8": os.fsdecode(b"\xff\xfe.json"),
    "missing": "missing",
    "missing parent": "missing/deeper/a.golm",
    "below a file": "file/a.golm",
    "folder": "folder",
    "root": "/",
    "loop": "loop",
    "fifo": "fifo",
    "fifo.json": "fifo.json",
    "socket": "socket",
    "null": "/dev/null",
    "zero": "/dev/zero",
    "memory": "/proc/self/mem",
    "long name": "é" * 200,
    "long path": "a/" * 3000,
    "newline": "a\nb",
}
# {} is the odd path; the other files are good.
COMMANDS = {
    "train data": "train --steps 1 --out new --data {}",
    "train validation": "train --steps 1 --out new --data text --validation-data {}",
    "train tokenizer": "train --steps 1 --out new --data text --tokenizer {}",
    "train config": "train --config {}",
    "train resume": "train --resume {}",
    "generate": "generate {}",
    "generate tokenizer": "generate model.golm --tokenizer {}",
    "tokenizer train": "tokenizer train --out new.json {}",
    "tokenizer train out": "tokenizer train text --kind character --overwrite --out {}",
    "encode": "tokenizer encode text --tokenizer {}",
    "decode": "tokenizer decode 1 --tokenizer {}",
    "convert": "convert {} new.gguf",
    "convert target": "convert model.golm {} --to golm --overwrite",
    "convert tokenizer": "convert model.golm new.gguf --tokenizer {}",
    "info": "info {}",
}
# A path at which something new can be written is no mistake.
GOOD = {(command, path) for command in ("tokenizer train out", "convert target") for path in ("missing", "newline")}
GOOD |= {("tokenizer train out", "not UTF-8"), ("convert target", "not UTF-8")}
GOOD |= {(command, "root") for command in ("train data", "train validation", "tokenizer train")}  # much text, maybe


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.golm"
    LanguageModel(Decoder(preset("tiny"))).save(path)
    return path


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Path) -> Iterator[Path]:
    """A folder with all kinds of things in it, and an alarm for commands that wait."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GOLLM_CACHE", str(tmp_path / "cache"))
    Path("model.golm").hardlink_to(model)
    Path("text").write_text("a text of some length, " * 40)
    Path("file").write_text("file")
    Path("folder").mkdir()
    Path("folder", "a").mkdir()
    Path("loop").symlink_to("loop")
    os.mkfifo("fifo")
    os.mkfifo("fifo.json")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")

    def late(*_: object) -> None:
        raise AssertionError("the command waits")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield tmp_path
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("command", COMMANDS)
def test_odd_paths(command: str, place: Path, run: Run) -> None:
    kinds = {name: os.lstat(name).st_mode for name in ("fifo", "fifo.json", "socket", "loop", "folder", "/dev/null")}
    faults = []
    for name, path in ODD.items():
        if (command, name) in GOOD:
            continue
        result = run(*(path if word == "{}" else word for word in COMMANDS[command].split()))
        if (
            result.status not in (process.FAILED, process.USAGE)
            or result.err.count("\n") != 1
            or result.out
            or "inside of gollm" in result.err
            or len(result.err) > 7000 + 500
        ):
            faults.append(f"{name}: {result.status} {result.err[:300]!r} {result.out[:80]!r}")
    assert not faults, "\n".join(faults)
    assert kinds == {name: os.lstat(name).st_mode for name in kinds}


FUNCTIONS: dict[str, Callable[[str], object]] = {
    "load": gollm.load,
    "load tokenizer": lambda path: gollm.load("model.golm", tokenizer=path),
    "save": lambda path: gollm.load("model.golm").save(path),
    "convert": lambda path: formats.convert(path, "new.gguf"),
    "convert target": lambda path: formats.convert("model.golm", path, overwrite=True),
    "tokenizers.load": tokenizers.load,
    "tokenizers.load merges": lambda path: tokenizers.load("file", path),
    "tokenizer.save": lambda path: tokenizers.save(tokenizers.CharacterTokenizer.train("abc"), path),
    "open_source": lambda path: list(data.open_source(path).pieces()),
    "Files": lambda path: list(data.Files([path]).pieces()),
    "open_shard": data.open_shard,
    "write_shard": lambda path: data.write_shard(path, [1, 2, 3]),
}
WRITES = {"save", "convert target", "tokenizer.save", "write_shard"}
NEW = ("missing", "newline", "not UTF-8", "empty")


@pytest.mark.parametrize("function", FUNCTIONS)
def test_odd_paths_in_python(function: str, place: Path) -> None:
    faults = []
    for name, path in ODD.items():
        if (function in WRITES and name in NEW) or path == "/":
            continue
        try:
            FUNCTIONS[function](path)
            faults.append(f"{name}: no error")
        except GollmError:
            pass
        except Exception as error:
            faults.append(f"{name}: {type(error).__name__}: {str(error)[:200]}")
    assert not faults, "\n".join(faults)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user")
def test_paths_without_permission(place: Path) -> None:
    for name in ("closed", "closed.golm", "closed.json"):
        Path(name).write_text("text")
        os.chmod(name, 0o600)
    Path("locked").mkdir(mode=0o700)
    Path("locked", "config.json").write_text("{}")
    for parent in (place, *place.parents):
        if parent.stat().st_mode & 0o011 != 0o011:
            os.chmod(parent, 0o755)
    faults = []
    os.seteuid(65534)
    try:
        for function, path in itertools.product(FUNCTIONS, ("closed", "closed.golm", "locked", "locked/a.golm")):
            try:
                FUNCTIONS[function](path)
                faults.append(f"{function} {path}: no error")
            except GollmError:
                pass
            except Exception as error:
                faults.append(f"{function} {path}: {type(error).__name__}: {error}")
    finally:
        os.seteuid(0)
    assert not faults, "\n".join(faults)
