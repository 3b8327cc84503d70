"""Hostile files: a script that tries them runs in a process of its own, where memory and each case's time are limited.

The script imports limit_memory and attempt from here, and run() starts it: a crash, a MemoryError, a hang, or an
exception of another kind than the expected one fails the test.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SECONDS = 2.0  # of CPU time, for a case

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory and CPU time as Linux does")


class TooSlow(BaseException):
    pass


def limit_memory(n_bytes: int = 768 << 20) -> None:
    """From here on the process gets so many more bytes of address space."""
    import resource

    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + n_bytes, now + n_bytes))


def attempt(label: object, action: Callable[[], object], refusal: type[Exception], longest: int = 500) -> str:
    """What a case is refused for, in one line of at most `longest` characters, or nothing if `action` went well."""

    def too_slow(*_: object) -> None:
        raise TooSlow

    signal.signal(signal.SIGPROF, too_slow)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        action()
        return ""
    except refusal as error:
        said = str(error)
        assert 0 < len(said) < longest and "\n" not in said, (label, said[:2000])
        return said
    except BaseException as error:
        print("FAILED", label, type(error), str(error)[:300], flush=True)
        raise
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def run(script: str, *arguments: object) -> str:
    """What the script prints."""
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)},
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout
