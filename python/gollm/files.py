"""Writing files so that a crash, a SIGKILL or a full disk never leaves half a file under its final name.

The bytes go to a temporary file in the same folder, are flushed to the disk, and only then take the final name; the
folder is flushed last, so that after a power failure either the old or the new file is there, whole.
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

from .errors import GollmError

_TEMPORARY = re.compile(r"\..+\.\d+-[0-9a-f]{8}\.tmp")


def temporary_name(path: Path) -> Path:
    """A new name beside `path` that `remove_leftovers` recognises: `.NAME.PID-RANDOM.tmp`."""
    return path.with_name(f".{path.name[:180]}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def reason(failure: OSError) -> str:
    """What the system said, in words: "No space left on device"."""
    return failure.strerror or str(failure)


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """A regular file, unbuffered. Raises OSError for anything else, and never waits for somebody to write to a pipe."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as failure:  # a NUL in the path
        raise OSError(errno.EINVAL, str(failure)) from None
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        return os.fdopen(descriptor, "rb", buffering=0)
    except OSError:
        os.close(descriptor)
        raise


def refuse_pointer(path: str | os.PathLike[str], beginning: bytes, error: type[GollmError]) -> None:
    """Raises `error` where a file's first bytes say that git-lfs has put a pointer in the place of the file."""
    if beginning.startswith(b"version https://git-lfs.github.com/spec/"):
        raise error(f"{path} is a pointer of git-lfs, and the file itself is not here; fetch it with: git lfs pull")


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
    OSError becomes `error` with the path and the reason. A symbolic link is followed: its target is replaced.
    """
    target = Path(os.path.realpath(path))
    temporary = temporary_name(target)
    try:
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
    except OSError as failure:
        kept = "; the file that was there before is untouched" if target.exists() else ""
        raise error(
            f"cannot write {path}: {reason(failure)}{kept}. Free some space, or write to another folder"
        ) from failure
    sync_folder(target.parent)


@contextlib.contextmanager
def replacing_folder(path: str | os.PathLike[str], error: type[GollmError]) -> Iterator[Path]:
    """A new, empty folder that becomes `path` when the block ends well; a folder that was there is then removed.

    When the block fails, the new folder is removed, and what was at `path` stays. An OSError becomes `error`.
    """
    target = Path(os.path.realpath(path))
    temporary, old = temporary_name(target), temporary_name(target)
    try:
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
    except OSError as failure:
        raise error(f"cannot write {path}: {reason(failure)}. Free some space, or write to another folder") from failure
    shutil.rmtree(old, ignore_errors=True)
    sync_folder(target.parent)


def remove_leftovers(folder: Path) -> list[Path]:
    """Remove the temporary files that a killed process left in `folder`; returns their names.

    Only for a folder that no other process writes to at this moment, such as a run folder that is locked by its
    trainer.
    """
    leftovers = [entry for entry in folder.iterdir() if _TEMPORARY.fullmatch(entry.name) and entry.is_file()]
    for entry in leftovers:
        entry.unlink(missing_ok=True)
    return leftovers
