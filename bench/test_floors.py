"""Floors that keep a change from making products or the training step slower unnoticed; CI runs them.

    pytest bench/test_floors.py

Ratios only, of the best turns, with a generous margin: 1024^3 against NumPy's OpenBLAS, and a small model's step
against the FMA peak. Machines are noisy, so a floor that is missed is tried again, ATTEMPTS times in all.
"""

from dataclasses import replace

import pytest

from gollm.benchmarks.cases import FMA, MODELS, product, training_step
from gollm.benchmarks.turns import Bench, Contestant, Result

ATTEMPTS, TURNS = 4, 15
STEP = "10.7M, 12 x 256"


@pytest.fixture
def bench():
    with Bench() as running:
        yield running


def ratio(result: Result) -> float:
    """Of gollm's best turn to the limit's, or to NumPy's."""
    best = {name: min(seconds) for name, seconds in result.seconds.items()}
    if "limit" not in best:
        return best["numpy"] / best["gollm"]
    return result.case.work / best["gollm"] / (result.work["limit"] / best["limit"])


def check(bench, case, floor):
    """Measures until the floor is reached."""
    found = []
    while len(found) < ATTEMPTS and max(found, default=0.0) < floor:
        found.append(ratio(bench.measure(case, TURNS)))
    print(f"\n{case.name}: {max(found):.2f}, at least {floor} is wanted")
    assert max(found) >= floor, f"{case.name}: {found}"


@pytest.mark.parametrize("layout", ["NT", "NN", "TN"])
def test_products(bench, layout):
    """Measured: 0.94 to 1.00 with AVX-512 on two cores of an AMD EPYC."""
    case = product(layout, 1024, 1024, 1024, "1024^3")
    ours = case.contestants["gollm"]
    contestants = {"gollm": ours, "numpy": Contestant("with_numpy", "matmul", ours.arguments)}
    check(bench, replace(case, contestants=contestants), floor=0.7)


def test_a_step(bench):
    """Measured: 0.82."""
    shape, batch_size, context = MODELS[STEP]
    case = training_step("training", STEP, batch_size, {**shape, "context": context})
    check(bench, replace(case, contestants={"gollm": case.contestants["gollm"], "limit": FMA}), floor=0.5)
