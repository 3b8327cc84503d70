"""What the benchmarks share: the machine's limits, measured in the same minutes, and turns with other libraries.

    pytest bench/test_matmul.py

pytest-benchmark prints the times; after its tables, a line for every comparison says what they mean: the rate, its
share of the machine's limit, and the ratio to each peer that is installed (above 1: gollm is faster). All of it is in
extra_info too, for --benchmark-json.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator

import pytest
from peers import Peer

import gollm
from gollm import _native, machine

LINES = pytest.StashKey[list[str]]()
PAUSE = 0.03  # seconds after which the threads of a library no longer spin


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LINES] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.stash[LINES]:
        terminalreporter.section("rates, shares of the machine's limit, ratios to peers")
        for line in config.stash[LINES]:
            terminalreporter.write_line(line)


@pytest.fixture(params=[isa for isa in _native.isa_supported() if isa != "v2"] or [_native.isa()])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each variant of the kernels that is meant to be fast and runs here."""
    before = _native.isa()
    _native.set_isa(request.param)
    yield request.param
    _native.set_isa(before)


class Limit:
    """fma_peak and read_bandwidth, measured when they are first needed and again when they are a minute old."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[float, float]] = {}

    def __call__(self, name: str) -> float:
        value, when = self._known.get((name, _native.isa()), (0.0, float("-inf")))
        if time.monotonic() - when > 60:
            value, when = getattr(machine, name)(0.3), time.monotonic()
            self._known[name, _native.isa()] = value, when
        return value


@pytest.fixture(scope="session")
def limit() -> Limit:
    return Limit()


class Peers:
    """Peers by the text of their setup, one process each."""

    def __init__(self) -> None:
        self._running: dict[str, Peer] = {}

    def __call__(self, setup: str) -> Peer:
        if setup not in self._running:
            self._running[setup] = Peer(setup, gollm.num_threads())
        return self._running[setup]

    def close(self) -> None:
        for peer in self._running.values():
            peer.close()


@pytest.fixture(scope="session")
def peers() -> Iterator[Peers]:
    running = Peers()
    yield running
    running.close()


Compare = Callable[..., None]


@pytest.fixture
def compare(benchmark, limit: Limit, peers: Peers, request: pytest.FixtureRequest) -> Compare:
    """compare(ours, work=2 * M * N * K, peers={"numpy": (setup, statement)}) times `ours` and the peers, turn by turn.

    work: what one call does: floating-point operations, or bytes read with limit_name="read_bandwidth".
    counts: what else one call does, such as {"tokens": 768}, given as a rate.
    peers: setup and statement of each, as Python source, by the library's name; left out where it is not installed.
    """

    def run(
        ours: Callable[[], object],
        work: float,
        peers_of: dict[str, tuple[str, str]] | None = None,
        limit_name: str = "fma_peak",
        rounds: int = 9,
        counts: dict[str, int] | None = None,
    ) -> None:
        present = {
            name: (peers(f"import {name}"), *code)
            for name, code in (peers_of or {}).items()
            if importlib.util.find_spec(name)
        }
        for peer, setup, _ in present.values():
            peer.run("", setup)
        times: dict[str, list[float]] = {name: [] for name in present}

        def take_turns() -> None:
            for name, (peer, _, statement) in present.items():
                times[name].append(peer.run(statement))
                time.sleep(PAUSE)
            ours()

        benchmark.pedantic(ours, setup=take_turns, rounds=rounds, iterations=1)
        if benchmark.stats is None:  # --benchmark-disable
            return
        seconds, top = benchmark.stats.stats.median, limit(limit_name)
        unit = "GFLOP/s" if limit_name == "fma_peak" else "GB/s"
        info = {unit: work / seconds / 1e9, f"% of {limit_name}": 100 * work / seconds / top}
        info |= {f"{what}/s": n / seconds for what, n in (counts or {}).items()}
        info |= {f"x {name}": statistics.median(times[name]) / seconds for name in present}
        benchmark.extra_info.update({key: round(value, 3) for key, value in info.items()})
        text = ", ".join(f"{value:.2f} {key}" if key[0] == "x" else f"{value:.0f} {key}" for key, value in info.items())
        request.config.stash[LINES].append(f"{request.node.name:55} {text}")
        time.sleep(PAUSE)

    return run
