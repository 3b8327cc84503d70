"""Opening files from outside, and writing files so that a crash or a full disk never leaves half a file.

Only regular files are read and replaced: opening a FIFO would wait for its other end, and a device is no place for a
file. What is written goes to a temporary file in the same folder, is flushed to the disk, and only then takes the final
name; the folder is flushed last, so that after a power failure either the old or the new file is there, whole.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from gollm.errors import GollmError
from gollm.system.strict_json import shorten

StrPath = str | os.PathLike[str]

_TEMPORARY = re.compile(r"\..*\.\d+-[0-9a-f]{8}\.tmp", re.DOTALL)

_SPACE = "Free some space, or write to another folder"
_PERMISSION = "Write to a folder where you may create files"
_ADVICE = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: "Raise the limit (ulimit -f), or write to another file system",
    errno.EACCES: _PERMISSION,
    errno.EPERM: _PERMISSION,
    errno.EROFS: _PERMISSION,
    errno.ENAMETOOLONG: "Choose a shorter name",
    errno.EISDIR: "Name a file",
    errno.EINVAL: "Choose another name",
    errno.ELOOP: "Choose another name",
}


def as_path(path: object, error: type[GollmError]) -> Path:
    """A path that a caller names. Raises `error` for what cannot be one."""
    if isinstance(path, str | os.PathLike):
        with contextlib.suppress(TypeError):  # os.PathLike of bytes
            return Path(path)
    raise error(f"the path is {shorten(path)}; it must be a str or a pathlib.Path")


def fitting_name(path: Path, before: str, after: str) -> Path:
    """`path` with its name between `before` and `after`, cut where the file system takes no name of that many bytes."""
    try:
        limit = os.pathconf(path.parent, "PC_NAME_MAX")
    except (AttributeError, OSError, ValueError):  # Windows; a folder that is not there
        limit = 255
    room = limit - len(before) - len(after)
    name = os.fsencode(path.name)
    kept = path.name if len(name) <= room else name[: max(0, room)].decode(errors="ignore")
    return path.with_name(f"{before}{kept}{after}")


def temporary_name(path: Path) -> Path:
    """A new name beside `path` that `remove_leftovers` recognises: `.NAME.PID-RANDOM.tmp`."""
    return fitting_name(path, ".", f".{os.getpid()}-{secrets.token_hex(4)}.tmp")


def reason(failure: OSError) -> str:
    """What the system said, in words: "No space left on device"."""
    return failure.strerror or str(failure)


def cache_folder(cache_dir: StrPath | None = None) -> Path:
    """Where caches live: `cache_dir`, else $GOLLM_CACHE, else gollm in $XDG_CACHE_HOME or ~/.cache."""
    if cache_dir is not None:
        return Path(cache_dir)
    if os.environ.get("GOLLM_CACHE"):
        return Path(os.environ["GOLLM_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "gollm"


def open_regular(path: str | os.PathLike[str], buffering: int = 0) -> BinaryIO:
    """A regular file, unbuffered unless told otherwise.

    Raises OSError for anything else, and never waits for somebody to write to a pipe.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as failure:  # a NUL in the path
        raise OSError(errno.EINVAL, str(failure)) from None
    except OSError as failure:
        if failure.errno == errno.ENXIO:  # a socket
            raise OSError(errno.EINVAL, "it is not a regular file") from None
        raise
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        return os.fdopen(descriptor, "rb", buffering=buffering)
    except OSError:
        os.close(descriptor)
        raise


def refuse_pointer(path: str | os.PathLike[str], beginning: bytes, error: type[GollmError]) -> None:
    """Raises `error` where a file's first bytes say that git-lfs has put a pointer in the place of the file."""
    if beginning.startswith(b"version https://git-lfs.github.com/spec/"):
        raise error(f"{path} is a pointer of git-lfs, and the file itself is not here; fetch it with: git lfs pull")


def read_regular(path: str | os.PathLike[str], limit: int) -> bytes:
    """At most `limit` bytes from the beginning of a regular file. Raises OSError as `open_regular` does."""
    with open_regular(path, buffering=-1) as file:
        return file.read(limit)


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable, where the system can flush a folder (not on Windows and some mounts)."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], error: type[GollmError]) -> Iterator[BinaryIO]:
    """Open a temporary file for writing that becomes `path` when the block ends well.

    When the block fails, or the disk does, the temporary file is removed and what was at `path` before is untouched; an
    OSError becomes `error` with the path and the reason. A symbolic link is followed: its target is replaced. Only a
    regular file is ever replaced.
    """
    with _failures_named(path, error):
        target = _target(path, folder=False)
        temporary = temporary_name(target)
        try:
            with open(temporary, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
    sync_folder(target.parent)


@contextlib.contextmanager
def replacing_folder(path: str | os.PathLike[str], error: type[GollmError]) -> Iterator[Path]:
    """A new, empty folder that becomes `path` when the block ends well; a folder that was there is then removed.

    When the block fails, the new folder is removed, and what was at `path` stays. An OSError becomes `error`.
    """
    with _failures_named(path, error):
        target = _target(path, folder=True)
        temporary, old = temporary_name(target), temporary_name(target)
        try:
            temporary.mkdir()
            yield temporary
            sync_folder(temporary)
            if target.is_dir():
                os.replace(target, old)
            os.replace(temporary, target)
        except BaseException:
            if old.is_dir() and not target.exists():
                os.replace(old, target)
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    shutil.rmtree(old, ignore_errors=True)
    sync_folder(target.parent)


def check_folder_of(path: str | os.PathLike[str], error: type[GollmError]) -> None:
    """Raises `error` where there is no folder to write `path` into, before anything long is computed for it."""
    with _failures_named(path, error):
        os.stat(os.path.dirname(os.path.realpath(path)))


def _target(path: str | os.PathLike[str], *, folder: bool) -> Path:
    """Where `path` leads. Raises OSError unless there is nothing yet, or a regular file (with `folder`: a folder)."""
    try:
        # Not of the resolved path: /dev/stdout leads to a pipe that has no name.
        mode = os.stat(os.fspath(path) or os.curdir).st_mode
    except FileNotFoundError:
        mode = None
    except ValueError as failure:  # a NUL in the path
        raise OSError(errno.EINVAL, str(failure)) from None
    if mode is not None and not folder and stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    if mode is not None and not (stat.S_ISDIR if folder else stat.S_ISREG)(mode):
        what = "not a folder, and only a folder" if folder else "not a regular file, and only a regular file"
        raise OSError(errno.EINVAL, f"it is {what} is replaced by one")
    return Path(os.path.realpath(path))


@contextlib.contextmanager
def _failures_named(path: str | os.PathLike[str], error: type[GollmError]) -> Iterator[None]:
    """An OSError from within becomes `error`: what could not be written, why, and what to do."""
    try:
        yield
    except OSError as failure:
        why, advice = reason(failure), _ADVICE.get(failure.errno or 0, "Write to another folder")
        if failure.errno == errno.ENOENT and not os.path.isdir(folder := os.path.dirname(os.path.realpath(path))):
            why, advice = f"the folder {folder} does not exist", "Create it, or write to another folder"
        kept = "; the file that was there before is untouched" if os.path.isfile(path) else ""
        raise error(f"cannot write {path}: {why}{kept}. {advice}") from failure


def remove_leftovers(folder: Path) -> list[Path]:
    """Remove the temporary files that a killed process left in `folder`; returns their names.

    Only for a folder that no other process writes to at this moment, such as a run folder that is locked by its
    trainer.
    """
    leftovers = [entry for entry in folder.iterdir() if _TEMPORARY.fullmatch(entry.name) and entry.is_file()]
    for entry in leftovers:
        entry.unlink(missing_ok=True)
    return leftovers
