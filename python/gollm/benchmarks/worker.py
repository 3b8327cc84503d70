"""A process that takes turns with others, blocked on a pipe in between. Reads a JSON request a line, answers with one.

    {"make": [file, function, arguments]}   imports the file, and calls its function for as many sets of operands as
                                            it takes to go through more than 128 MB, so that they come from memory
    {"turn": seconds}                       calls what was made, set by set, for at least so long and at least once

A function returns what to call and how many bytes it works on. What is called may return how much it did, as a float.
Nothing else is imported here, gollm least of all: the process is the contestant's alone.
"""

from __future__ import annotations

import gc
import importlib.util
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

ROTATED_BYTES = 128 << 20  # more than the caches hold

Call = Callable[[], Any]


def make(file: str, function: str, arguments: dict[str, Any]) -> Iterator[Call]:
    """The calls of all sets of operands, again and again. The first has been called once: all is warm but them."""
    spec = importlib.util.spec_from_file_location("contestant", file)
    assert spec is not None and spec.loader is not None
    if "contestant" not in sys.modules:
        module = sys.modules["contestant"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    prepare = getattr(sys.modules["contestant"], function)
    call, n_bytes = prepare(**arguments)
    calls = [call, *(prepare(**arguments)[0] for _ in range(ROTATED_BYTES // n_bytes))]
    call()
    return itertools.cycle(calls)


def take_turn(calls: Iterator[Call], seconds: float) -> dict[str, Any]:
    """seconds and amount of work of one call, the mean of all in this turn; the most memory that the process had."""
    begin, n_calls, work = time.perf_counter(), 0, 0.0
    while True:
        done = next(calls)()
        n_calls += 1
        if isinstance(done, float):
            work += done
        elapsed = time.perf_counter() - begin
        if elapsed >= seconds:
            return {"seconds": elapsed / n_calls, "work": work / n_calls, "peak_bytes": peak_bytes()}


def peak_bytes() -> int | None:
    """VmHWM, where there is one."""
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return None


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr
    sys.path.pop(0)  # this folder, whose files are not to be imported by their short names
    calls: Iterator[Call] = iter(())
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "make" in request:
                calls = iter(())
                gc.collect()
                calls = make(*request["make"])
                answer = {}
            else:
                answer = take_turn(calls, request["turn"])
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
