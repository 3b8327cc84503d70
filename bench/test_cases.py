"""The cases of `gollm bench` as pytest benchmarks: the tables show the times of gollm's calls in its own process.

    pytest bench/test_cases.py -k 'training and 124M'

After the tables a line for every case gives the rate, its share of the machine's limit, and the ratio to each peer that
is installed (above 1: gollm is faster). All of it is in extra_info too, for --benchmark-json.
"""

import pytest

from gollm.benchmarks import report
from gollm.benchmarks.cases import GROUPS
from gollm.benchmarks.turns import Bench, Result, turn

TURNS = 7
CASES = [case for cases in GROUPS.values() for case in cases()]


class Clock:
    """A timer that runs only while gollm's process does its part."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


CLOCK = Clock()


@pytest.fixture(scope="session")
def processes():
    with Bench() as bench:
        yield bench


@pytest.mark.benchmark(timer=CLOCK)
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.group} {case.name}")
def test_case(benchmark, processes, say, case):
    workers, result = processes.prepare(case), Result(case)

    def others():
        for name, worker in workers.items():
            if name != "gollm":
                turn(result, name, worker)

    def ours():
        CLOCK.now += turn(result, "gollm", workers["gollm"])

    benchmark.pedantic(ours, setup=others, rounds=TURNS, iterations=1)
    if benchmark.stats is not None:  # not --benchmark-disable
        benchmark.extra_info.update(report.row(result))
        say(report.line(result))
