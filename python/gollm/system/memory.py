"""The memory of this process: what it has, and what it could still get from the machine."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from gollm import _native


def release_free_memory() -> None:
    """Gives back to the system what this process holds but does not use: the free blocks of the pool and of malloc."""
    _native.release_pool()
    with contextlib.suppress(AttributeError, OSError):  # glibc's
        ctypes.CDLL(None).malloc_trim(0)


def resident_bytes() -> tuple[int, int]:
    """What the process has in memory now, and the most that it had."""
    try:
        status = Path("/proc/self/status").read_text()
        found = dict(line.split(":", 1) for line in status.splitlines())
        return int(found["VmRSS"].split()[0]) * 1024, int(found["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError):  # not Linux: the peak so far is the best that there is
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak = peak if sys.platform == "darwin" else peak * 1024
        return peak, peak


def available_bytes() -> int | None:
    """What this process could still get, from the machine and within its cgroup's limit, or None where nobody says."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        try:
            free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (AttributeError, OSError, ValueError):
            return None
    return min([free, *_cgroup_rooms()])


def _cgroup_rooms(root: str = "/sys/fs/cgroup", own: str = "/proc/self/cgroup") -> Iterator[int]:
    """Bytes that the process' cgroups (versions 2 and 1) and those above them still allow, where they have a limit."""
    try:
        lines = [line.split(":", 2) for line in Path(own).read_text().splitlines()]
    except OSError:
        lines = []
    # A container often sees its own group as the root, under a path that only the host has.
    own_v2 = next((line[2] for line in lines if line[:2] == ["0", ""]), "/")
    own_v1 = next((line[2] for line in lines if line[1:2] == ["memory"]), "/")
    yield from _rooms(Path(root), own_v2, "memory.max", "memory.current", "inactive_file")
    yield from _rooms(
        Path(root) / "memory", own_v1, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
    )


def _rooms(root: Path, own: str, limit: str, usage: str, cache: str) -> Iterator[int]:
    """Of one hierarchy; cached files that nobody has used lately count as used, but make room when asked."""
    folder = Path(own.strip("/"))
    for level in (folder, *folder.parents):
        try:
            allowed, used = (int((root / level / name).read_text()) for name in (limit, usage))
        except (OSError, ValueError):  # "max" is no limit
            continue
        with contextlib.suppress(OSError, ValueError, IndexError):
            stat = (line.split() for line in (root / level / "memory.stat").read_text().splitlines())
            used -= next((int(words[1]) for words in stat if words[0] == cache), 0)
        yield max(0, allowed - used)
