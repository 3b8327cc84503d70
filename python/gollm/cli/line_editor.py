"""A line from a person at a terminal, with line editing and a history."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Iterator

_PERIOD = 0.05  # seconds


def read_line(prompt: str) -> str:
    """Raises EOFError at the end of the input, and what the handlers of signals raise, at once."""
    try:
        import readline  # noqa: F401  # input() uses it from now on
    except ImportError:  # Windows
        return input(prompt)
    with _signals_are_heard():
        return input(prompt)


@contextlib.contextmanager
def _signals_are_heard() -> Iterator[None]:
    """While readline waits for a key, a signal's handler runs only if the signal interrupts that wait. One that comes
    just before it would be heard at the next key; so from a signal on, a thread interrupts until the line ends."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    waiting, ended = threading.get_ident(), threading.Event()

    def interrupt() -> None:
        while numbers := reader.recv(64):
            if set(numbers) == {signal.SIGURG}:
                continue
            while not ended.wait(_PERIOD):
                signal.pthread_kill(waiting, signal.SIGURG)

    thread = threading.Thread(target=interrupt, name="signals", daemon=True)
    handler = signal.signal(signal.SIGURG, lambda number, frame: None)  # a signal without a handler interrupts nothing
    descriptor = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(descriptor)
        ended.set()
        writer.close()
        thread.join()
        reader.close()
        signal.signal(signal.SIGURG, handler)
