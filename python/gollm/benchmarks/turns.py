"""Processes that take turns, and what they measure."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gollm
from gollm.errors import GollmError

HERE = Path(__file__).parent
PAUSE = 0.15  # seconds after which the threads of a library no longer spin; OpenBLAS' do so for a tenth of one
TURN = 0.05  # seconds that a turn takes at least


@dataclass(frozen=True)
class Contestant:
    """A function of one of the with_*.py files, and what it is called with; threads: None for gollm's own number."""

    file: str
    function: str
    arguments: Mapping[str, Any]
    threads: int | None = None


@dataclass(frozen=True)
class Case:
    """What is measured: "gollm" against "limit", if there is one, and against every other contestant.

    work     what one call of gollm's does, in `unit`s times 1e9: floating-point operations, or bytes moved
    tokens   how many tokens that is, for a rate
    alone    each contestant has a process for this case alone, so that its peak memory is that of the case
    steps    how often a training step of GPT-2 124M, 4 x 256, does it; -1: its time is to be taken off that of others
    """

    group: str
    name: str
    contestants: Mapping[str, Contestant]
    work: float
    unit: str = "GFLOP/s"
    tokens: int = 0
    alone: bool = False
    steps: int = 0


@dataclass
class Result:
    """Seconds of one call, by contestant and turn; the limit's are of its own amount of work."""

    case: Case
    seconds: dict[str, list[float]] = field(default_factory=dict)
    work: dict[str, float] = field(default_factory=dict)
    peak_bytes: dict[str, int | None] = field(default_factory=dict)

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    @property
    def rate(self) -> float:
        """Operations or bytes a second."""
        return self.case.work / self.median("gollm")

    @property
    def share(self) -> float | None:
        """Of the limit, from 0 to 1."""
        return self.rate * self.median("limit") / self.work["limit"] if "limit" in self.seconds else None

    @property
    def ratios(self) -> dict[str, float]:
        """How many times as fast as each other contestant gollm is."""
        ours = self.median("gollm")
        return {name: self.median(name) / ours for name in self.seconds if name not in ("gollm", "limit")}

    @property
    def memory_ratios(self) -> dict[str, float]:
        """gollm's peak as a part of each other contestant's; only where the processes are the case's alone."""
        ours = self.peak_bytes.get("gollm")
        peers = {name: self.peak_bytes[name] for name in self.ratios} if self.case.alone else {}
        return {name: ours / theirs for name, theirs in peers.items() if ours and theirs}


class Worker:
    """A process that runs worker.py with so many threads."""

    def __init__(self, threads: int) -> None:
        names = ("OMP", "OPENBLAS", "MKL", "BLIS", "VECLIB", "GOLLM")
        environment = os.environ | {f"{name}_NUM_THREADS": str(threads) for name in names}
        command = [sys.executable, str(HERE / "worker.py")]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer to a request. Raises GollmError where it is one."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise GollmError(f"{request} failed: its process ended; is there enough memory?") from None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline() or '{"error": "its process ended"}')
        if "error" in answer:
            raise GollmError(f"{request} failed: {answer['error']}")
        return answer

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class Bench:
    """Measures cases, one after the other; keeps processes from one to the next where they may be shared.

    >>> with Bench() as bench: bench.measure(case, turns=7)         # doctest: +SKIP
    """

    def __init__(self) -> None:
        self._shared: dict[tuple[str, str, int], Worker] = {}

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self._close(self._shared)

    def prepare(self, case: Case) -> dict[str, Worker]:
        """The processes of all contestants, ready for their turns."""
        if case.alone:
            self._close(self._shared)
        workers = {}
        for name, contestant in case.contestants.items():
            threads = contestant.threads or gollm.num_threads()
            key = (name, contestant.file, threads)
            if key not in self._shared:
                self._shared[key] = Worker(threads)
            workers[name] = self._shared[key]
            file = str(HERE / f"{contestant.file}.py")
            workers[name].ask(make=[file, contestant.function, dict(contestant.arguments)])
        return workers

    def measure(self, case: Case, turns: int) -> Result:
        """Raises GollmError where a contestant cannot do its part."""
        workers, result = self.prepare(case), Result(case)
        for _ in range(turns):
            for name, worker in workers.items():
                turn(result, name, worker)
        if case.alone:
            self._close(self._shared)
        return result

    @staticmethod
    def _close(workers: dict[Any, Worker]) -> None:
        while workers:
            workers.popitem()[1].close()


def turn(result: Result, name: str, worker: Worker) -> float:
    """Gives a contestant its turn, and returns the seconds of one call."""
    time.sleep(PAUSE)
    answer = worker.ask(turn=TURN)
    result.seconds.setdefault(name, []).append(answer["seconds"])
    result.work[name] = answer["work"]
    result.peak_bytes[name] = answer["peak_bytes"]
    return float(answer["seconds"])
