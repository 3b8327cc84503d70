"""Ctrl-C and SIGTERM as a wish to stop, which the training loop grants between two steps, and evaluation and samples
between two batches or tokens."""

from __future__ import annotations

import signal
import threading
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """A signal has asked to stop."""


class Interruption:
    """In a `with` block the first SIGINT or SIGTERM only leaves its number in `signal`; a second Ctrl-C stops at once.

    Python hands signals to the main thread alone; in other threads the block does nothing."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        self.signal = None
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            # None: a handler that C code has set, which Python cannot set again.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def check(self) -> None:
        """Raises Stopped after a signal."""
        if self.signal is not None:
            raise Stopped

    def _receive(self, number: int, _frame: object) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
