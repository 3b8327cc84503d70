"""The entry point: finds the command, and turns each kind of failure into one line and an exit status.

0 success · 1 something went wrong · 2 a mistake in the command line · 130 interrupted · 141 nobody reads the output ·
143 terminated
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any, TextIO

import gollm
from gollm.errors import ConfigError, GollmError, GollmWarning

FAILED, USAGE, INTERRUPTED, BROKEN_PIPE = 1, 2, 130, 141

# command -> its module, what it does
COMMANDS = {
    "train": ("train", "train a model from raw text, or go on with a run"),
    "pretrain": ("train", "the same as train"),
    "generate": ("generate", "continue a prompt with a trained model"),
    "tokenizer train": ("tokenizer_train", "train a tokenizer from text"),
    "tokenizer encode": ("encode", "turn text into token ids"),
    "tokenizer decode": ("tokenizer_decode", "turn token ids into text"),
    "encode": ("encode", "the same as tokenizer encode"),
    "pull": ("pull", "fetch a model from the Hugging Face hub"),
    "convert": ("convert", "turn a model into another format"),
    "info": ("info", "show what is inside of a model's file or folder"),
    "gradcheck": ("gradcheck", "compare a model's gradients with finite differences"),
    "bench": ("bench", "measure gollm's speed beside PyTorch's and the machine's limits"),
    "doctor": ("doctor", "show how gollm was built and what this machine can do"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line (without the program's name) and returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    _open_streams()
    _make_printable(sys.stdout, sys.stderr)
    return guarded(lambda: _dispatch(words), debug="--debug" in words)


def command_main(name: str, argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """main() of a single command: `python -m gollm.train` is command_main("train")."""
    words = list(sys.argv[1:] if argv is None else argv)
    _open_streams()
    _make_printable(sys.stdout, sys.stderr)
    return guarded(lambda: _run(name, words, prog or f"gollm {name}"), debug="--debug" in words)


def load_command(name: str) -> ModuleType:
    """The module of a command: `Options` and `run`."""
    return importlib.import_module(f"gollm.cli.{COMMANDS[name][0]}")


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


class Usage(ConfigError):
    """A mistake in the command line."""


def in_words(error: BaseException) -> str:
    """One line for an error, whoever raised it."""
    if isinstance(error, GollmError):
        return str(error)
    if isinstance(error, MemoryError):
        return "not enough memory; use a smaller model or batch"
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


def _open_streams() -> None:
    """A standard stream that was closed (`>&-`) leads to the null device: a file that is opened later would get its
    number, and be written to by whatever prints."""
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


def _dispatch(words: list[str]) -> int:
    if not words:
        print(overview(), end="", file=sys.stderr)
        return USAGE
    if words[0] in ("-h", "--help", "help"):
        print(overview(), end="")
        return 0
    if words[0] in ("--version", "-V"):
        print(f"gollm {gollm.__version__}")
        return 0
    groups = {name.split()[0] for name in COMMANDS if " " in name}
    if words[0] in groups:
        members = [name for name in COMMANDS if name.startswith(words[0] + " ")]
        if len(words) > 1 and words[1] in ("-h", "--help"):
            print(overview(members), end="")
            return 0
        name = " ".join(words[:2])
        if name not in COMMANDS:
            given = f"{words[1]!r} is no command of gollm {words[0]}" if len(words) > 1 else f"gollm {words[0]} what"
            raise Usage(f"{given}; use {_listed([member.split()[1] for member in members])}")
        return _run(name, words[2:], f"gollm {name}")
    if words[0] not in COMMANDS:
        from gollm.options import nearest

        near = nearest(words[0], [*COMMANDS, *groups])
        hint = f"did you mean gollm {near}?" if near else "gollm --help lists the commands"
        raise Usage(f"{words[0]!r} is no command; {hint}")
    return _run(words[0], words[1:], f"gollm {words[0]}")


def _run(name: str, words: list[str], prog: str) -> int:
    from gollm.cli.flags import parse

    module = load_command(name)
    try:
        options: Any = parse(module.Options, words, prog=prog, description=inspect.getdoc(module.Options) or "")
    except ConfigError as error:
        raise Usage(str(error)).with_traceback(error.__traceback__) from None
    return module.run(options) or 0


def overview(names: Sequence[str] = tuple(COMMANDS)) -> str:
    """The list of commands."""
    width = max(map(len, names))
    lines = [f"  {name:{width}}  {COMMANDS[name][1]}" for name in names]
    return "\n".join(
        [
            "usage: gollm COMMAND [OPTIONS]",
            "",
            "Train and run small language models on the machine you have.",
            "",
            *lines,
            "",
            "gollm COMMAND --help lists the options of a command; gollm --version shows the version.",
            "",
        ]
    )


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " or " + words[-1]


def _make_printable(*streams: TextIO) -> None:
    """Text that a terminal's encoding lacks is replaced rather than a reason to fail."""
    for stream in streams:
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")


if __name__ == "__main__":
    sys.exit(main())
