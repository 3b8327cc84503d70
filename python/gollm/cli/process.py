"""What surrounds a command: each failure becomes one line and an exit status; streams, signals, warnings.

0 success · 1 something went wrong · 2 a mistake in the command line · 130 interrupted · 141 nobody reads the output ·
143 terminated
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from gollm.errors import ConfigError, DeviceError, GollmError, GollmWarning

FAILED, USAGE, INTERRUPTED, BROKEN_PIPE = 1, 2, 130, 141


class Usage(ConfigError):
    """A mistake in the command line."""


@contextlib.contextmanager
def of_the_words() -> Iterator[None]:
    """What is refused meanwhile is wrong by the words of the command line alone, whatever the files hold."""
    try:
        yield
    except GollmError as error:
        raise Usage(str(error)) from None


@contextlib.contextmanager
def of_the_options() -> Iterator[None]:
    """An option that does not go with the data or the machine is a mistake in the command line."""
    try:
        yield
    except (ConfigError, DeviceError) as error:
        raise Usage(str(error)) from None


@contextlib.contextmanager
def of_the_device() -> Iterator[None]:
    """A device that is not there is a mistake in the words that ask for it."""
    try:
        yield
    except DeviceError as error:
        raise Usage(str(error)) from None


def guarded(action: Callable[[], int], *, debug: bool = False) -> int:
    """Runs an action; a failure becomes one line on stderr and the status to exit with. `debug` adds the traceback."""
    try:
        with _warnings_in_words(), _ended_in_order():
            try:
                status = action()
            except SystemExit as stop:  # the end of --help, or SIGTERM
                status = stop.code if isinstance(stop.code, int) else 0
        _flush()
        return status
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _silence(sys.stdout)
        return BROKEN_PIPE
    except Exception as error:
        with contextlib.suppress(OSError):  # what could not be printed is not the failure to tell of
            _flush()
        if debug:
            traceback.print_exc()
        return _report(in_words(error), USAGE if isinstance(error, Usage) else FAILED)


def in_words(error: BaseException) -> str:
    """One line for an error, whoever raised it."""
    if isinstance(error, GollmError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"{str(error) or 'not enough memory'}; use a smaller model or batch"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return f"an error inside of gollm, {type(error).__name__}: {error}; --debug shows where it comes from"


def _report(message: str, status: int) -> int:
    try:
        print("gollm: " + " ".join(message.split()), file=sys.stderr, flush=True)
    except OSError:  # no room for the message: the status still says it
        _silence(sys.stderr)
    return status


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as failure:
        _silence(sys.stdout)
        raise OSError(failure.errno, failure.strerror, "standard output") from None


def _silence(stream: TextIO) -> None:
    """Python flushes its streams once more when it exits: what could not be written goes nowhere then."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def open_streams() -> None:
    """A standard stream that was closed (`>&-`) leads to the null device: a file that is opened later would get its
    number, and be written to by whatever prints. Characters that a terminal's encoding lacks are replaced."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            try:
                os.fstat(number)
            except OSError:
                nowhere = os.open(os.devnull, os.O_RDWR)
                if nowhere != number:
                    os.dup2(nowhere, number)
                    os.close(nowhere)
            stream = open(number, "w" if number else "r", encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
    for printer in (sys.stdout, sys.stderr):
        if reconfigure := getattr(printer, "reconfigure", None):
            reconfigure(errors="replace")


@contextlib.contextmanager
def _ended_in_order() -> Iterator[None]:
    """Meanwhile SIGTERM ends the program by an exception, so that locks and temporary files go; where it has a handler
    or is ignored, it stays so."""
    mine = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if mine:
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        if mine:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def _warnings_in_words() -> Iterator[None]:
    """Meanwhile each GollmWarning is one line on stderr; other warnings appear as Python shows them."""
    with warnings.catch_warnings():
        shown = warnings.showwarning

        def show(message: Any, category: type[Warning], *rest: Any, **more: Any) -> None:
            if issubclass(category, GollmWarning):
                _report(f"warning: {message}", 0)
            else:
                shown(message, category, *rest, **more)

        warnings.simplefilter("always", GollmWarning)
        warnings.showwarning = show
        yield
