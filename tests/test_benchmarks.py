"""What `gollm bench` measures: every group's functions run, at small sizes, and figures mean what they say."""

import dataclasses
import json

import numpy as np
import pytest

from gollm.benchmarks import report, turns, with_gollm, with_numpy
from gollm.benchmarks.cases import GROUPS, HAS_TORCH, STEP
from gollm.benchmarks.turns import Bench, Case, Contestant, Result
from gollm.cli.main import main
from gollm.errors import GollmError

SMALL = {  # arguments of every function of with_gollm.py that a case names
    "matmul": {"M": 8, "N": 7, "K": 5},
    "head": {"N": 8, "C": 16, "V": 11},
    "head_products": {"N": 300, "C": 16, "V": 11},
    "attention": {"B": 1, "T": 9, "H": 2, "G": 1, "D": 8},
    "decode": {"H": 2, "G": 1, "D": 8, "tokens": 128},
    "training": {"batch_size": 2, "n_layers": 1, "n_heads": 1, "d_model": 16, "vocab_size": 11, "context": 8},
    "layernorm": {"N": 3, "C": 16},
    "gelu": {"n": 33},
    "add": {"n": 33},
    "dropout": {"n": 33},
    "embedding": {"B": 2, "T": 4, "C": 16, "V": 11},
    "softmax": {"N": 3, "V": 11},
    "gradient_norm": {"n": 33},
    "adamw": {"n": 33},
    "fma": {},
    "stream": {"rows": 3, "n": 64, "reads": 2, "writes": 1},
}
CASES = [case for cases in GROUPS.values() for case in cases()]


def result(case, gollm, **others):
    found = Result(case)
    for name, seconds in {"gollm": gollm, **others}.items():
        found.seconds[name], found.work[name], found.peak_bytes[name] = seconds, 100.0, None
    return found


def test_names_are_unique():
    names = [(case.group, case.name) for case in CASES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("function", SMALL)
def test_every_function_runs(function):
    named = [c for case in CASES for c in case.contestants.values() if c.function == function]
    named = [c for c in named if c.file == "with_gollm"]
    assert named, "no case names it"
    tried = {}
    for contestant in named:  # the layouts and passes that cases use
        kinds = {key: value for key, value in contestant.arguments.items() if isinstance(value, (str, bool))}
        tried[str(kinds)] = {**kinds, **SMALL[function]}
    for arguments in tried.values():
        call, n_bytes = getattr(with_gollm, function)(**arguments)
        done = call()
        assert n_bytes > 0 and (done is None or done > 0)


def test_every_case_names_a_function_that_is_tested():
    used = {c.function for case in CASES for c in case.contestants.values() if c.file == "with_gollm"}
    assert used == SMALL.keys()


@pytest.mark.parametrize("layout", ["NT", "NN", "TN"])
def test_products_are_those_of_the_peer(layout, monkeypatch):
    """The same operands in both: the same c."""
    monkeypatch.setattr(with_gollm, "RNG", np.random.default_rng(0))
    made = {}
    monkeypatch.setattr(with_gollm, "filled", lambda *shape: made.setdefault("c", np.ones(shape, np.float32)))
    with_gollm.matmul(layout, 6, 7, 5)[0]()
    rng = np.random.default_rng(0)
    a = rng.random((5, 6) if layout == "TN" else (6, 5), np.float32) - 0.5
    b = rng.random((7, 5) if layout == "NT" else (5, 7), np.float32) - 0.5
    want = (a.T if layout == "TN" else a) @ (b.T if layout == "NT" else b)
    np.testing.assert_allclose(made["c"], want, rtol=1e-5, atol=1e-6)
    assert with_numpy.matmul(layout, 6, 7, 5)[0]().shape == want.shape


def test_the_plain_loop_says_how_many_bytes_it_moved():
    assert with_gollm.stream(rows=3, n=64, reads=2, writes=1)[0]() == 3 * 64 * 4


def test_processes_take_turns():
    arguments = {"layout": "NN", "M": 300, "N": 200, "K": 100}
    contestants = {
        "gollm": Contestant("with_gollm", "matmul", arguments),
        "numpy": Contestant("with_numpy", "matmul", arguments),
        "limit": Contestant("with_gollm", "fma", {}),
    }
    case = Case("matmul", "small", contestants, 2.0 * 300 * 200 * 100)
    with Bench() as bench:
        found = bench.measure(case, turns=2)
        alone = bench.measure(dataclasses.replace(case, alone=True), turns=1)
    assert {name: len(seconds) for name, seconds in found.seconds.items()} == {"gollm": 2, "numpy": 2, "limit": 2}
    assert found.work["limit"] > 0 and found.work["gollm"] == 0
    assert not found.memory_ratios and set(alone.memory_ratios) <= {"numpy"}
    assert "small" in report.line(found) and "x numpy" in report.line(found)


def test_what_a_contestant_cannot_do_is_an_error():
    case = Case("matmul", "wrong", {"gollm": Contestant("with_gollm", "nothing", {})}, 1.0)
    with Bench() as bench, pytest.raises(GollmError, match="has no attribute 'nothing'"):
        bench.measure(case, turns=1)


def test_rates_shares_and_ratios():
    case = Case("matmul", "one", {}, work=200.0)
    found = result(case, [1.0, 2.0, 9.0], torch=[3.0, 3.0, 4.0], limit=[0.5, 0.5, 0.5])
    assert found.rate == 100 and found.ratios == {"torch": 1.5}
    assert found.share == 0.5  # of 100 in half a second
    other = result(case, [1.0], torch=[6.0])
    assert report.summary([found, other]) == [
        "matmul: 3.00 x torch in the geometric mean of 2, at least 1.50",
    ]
    assert json.loads(json.dumps(report.document([found, other])))["geometric_means"][0]["ratio"] == pytest.approx(3)


def test_memory_is_compared_where_processes_are_the_cases_own():
    found = result(Case("training", "one", {}, 1.0, tokens=10, alone=True), [0.5], torch=[1.0])
    found.peak_bytes.update(gollm=3 << 30, torch=4 << 30)
    assert found.memory_ratios == {"torch": 0.75}
    assert "20 tokens/s" in report.line(found) and "peak 3.22 GB" in report.line(found)


def test_the_share_of_a_step():
    step = result(Case("memory-bound", STEP, {}, 1.0), [10.0])
    norms = result(Case("memory-bound", "norm", {}, 1.0, "GB/s", steps=4), [0.25])
    head = result(Case("memory-bound", "head", {}, 1.0, steps=1), [3.0])
    products = result(Case("memory-bound", "products", {}, 1.0, steps=-1), [2.5])
    assert report.share_of_step([step, norms, head, products]) == {"norm": 0.1, "head": 0.3, "products": -0.25}
    assert report.share_of_step([norms]) == {}


def test_torch_takes_part_where_it_is_installed():
    with_torch = {case.group for case in CASES if "torch" in case.contestants}
    assert with_torch == ({"matmul", "attention", "training", "bfloat16"} if HAS_TORCH else set())


def test_the_command_lists_and_measures(capsys, monkeypatch):
    assert main(["bench", "training", "--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 8
    monkeypatch.setattr(turns, "TURN", 0.001)
    assert main(["bench", "matmul", "--filter", "NT 768 tokens, 128 x 128", "--turns", "1", "--json"]) == 0
    out = capsys.readouterr()
    [case] = json.loads(out.out)["cases"]
    assert case["name"] in out.err and case["rate"] > 0 and case["share_of_limit"] > 0


def test_a_filter_that_finds_nothing(capsys):
    assert main(["bench", "matmul", "--filter", "cube"]) == 2
    assert "no case has 'cube' in its name" in capsys.readouterr().err
