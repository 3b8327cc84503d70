"""The numbers of a report, against the formulas."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gollm.cli.compare import in_table as compare_table
from gollm.cli.runs import in_table as runs_table
from gollm.errors import PictureError, TrainingError
from gollm.pictures.parameter_sizes import recorded_sizes
from gollm.pictures.report import report_page
from gollm.pictures.run_curves import MOST_POINTS, all_curves, different_options, run_curves, smoothed, thinned
from gollm.training.comparison import compare
from gollm.training.run import Run
from gollm.training.run_list import list_runs
from gollm.training.state import BITS_PER_BYTE, METRICS, RESOURCES

NUMBERS = st.lists(st.floats(-100, 100), min_size=1, max_size=60)


@given(NUMBERS, st.floats(1, 100))
def test_smoothing_is_the_weighted_mean_of_what_came_before(values: list[float], span: float) -> None:
    keep = 1 - 2 / (span + 1)
    for t, found in enumerate(smoothed(values, span)):
        weights = keep ** np.arange(t, -1.0, -1)
        assert found == pytest.approx(np.average(values[: t + 1], weights=weights), abs=1e-9)


@given(st.integers(1, 400), st.integers(1, 50))
def test_thinning_keeps_the_mean_and_the_last_step(n: int, most: int) -> None:
    points = [{"step": i, "loss": float(i * i), "lr": None} for i in range(1, n + 1)]
    found = thinned(points, most)
    assert len(found) == min(n, most) and found[-1]["step"] == n
    steps = [0, *(point["step"] for point in found)]
    sizes = np.diff(steps)
    assert sizes.min() >= 1 and sizes.max() - sizes.min() <= 1
    assert np.dot(sizes, [p["loss"] for p in found]) == pytest.approx(sum(p["loss"] for p in points))
    assert all(point["lr"] is None for point in found)


def test_a_run_says_what_its_log_says(run) -> None:
    curves, lines = run_curves(run), list(Run(run).metrics())
    machine = json.loads(Run(run).machine_path.read_text())
    assert [point["step"] for point in curves.points] == [1, 2, 3, 4, 5, 6]
    for name in ("loss", "lr", "grad_norm", "tokens_per_second"):
        assert [point[name] for point in curves.points] == [line[name] for line in lines]
    assert curves.points[-1]["tokens"] == 6 * 2 * 32
    assert curves.points[-1]["minutes"] == pytest.approx(sum(line["ms"] for line in lines) / 60_000, abs=1e-4)
    for point, line in zip(curves.points, lines, strict=True):
        share = line["tokens_per_second"] * machine["flops_per_token"] / machine["peak_flops"]
        assert point["percent_of_peak"] == pytest.approx(100 * share)
        assert point["memory_mb"] == pytest.approx(line["memory_bytes"] / 1e6)
    assert [(point["step"], point["loss"]) for point in curves.validation] == [
        (line["step"], line["validation_loss"]) for line in lines if "validation_loss" in line
    ]
    assert curves.samples == [(line["step"], line["sample"]) for line in lines if "sample" in line]
    assert curves.summary["final loss"] == f"{lines[-1]['loss']:.4f}"
    assert curves.summary["lowest loss"] == f"{min(line['loss'] for line in lines):.4f}"
    assert curves.summary["mean loss"] == f"{np.mean([line['loss'] for line in lines]):.4f}"
    assert curves.summary["steps"] == "6" and curves.summary["tokens"] == "384"


def test_a_long_and_old_run(made_run) -> None:
    """Without a machine, memory and norms: what an older gollm has written."""
    lines = [{"step": i, "loss": 5 / i, "ms": 2.0, "tokens_per_second": 1e3} for i in range(1, 3 * MOST_POINTS)]
    curves = run_curves(made_run("old", lines, lr=0.1))
    assert len(curves.points) == MOST_POINTS and curves.points[-1]["step"] == lines[-1]["step"]
    assert curves.points[0]["percent_of_peak"] is None and curves.points[0]["memory_mb"] is None
    assert "peak memory" not in curves.summary and curves.summary["time"] == "6.0 s"


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from([10**400, -(10**18), 1e308, "x"]),
    lambda inside: st.lists(inside, max_size=2) | st.dictionaries(st.text(max_size=2), inside, max_size=2),
)
NAMES = [*METRICS, *RESOURCES, "validation_loss", BITS_PER_BYTE, "sample", "peak_flops", "flops_per_token"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), ODD), st.recursive(ODD, lambda x: st.fixed_dictionaries({"a": x})))
def test_odd_values_in_a_runs_files(made_run, tmp_path, odd, sizes) -> None:
    """What cannot be drawn or added up is left out, and a step that has no loss or speed."""
    step = {"step": 1, "loss": 2.0, "ms": 1.0, "tokens_per_second": 1e3}
    shape = dict.fromkeys(("batch_size", "grad_accumulation", "n_layers", "d_model", "context"), 1)
    path = made_run(f"run-{len(list(tmp_path.iterdir()))}", [step, {**step, **odd}], **shape, lr=0.1, steps=2)
    (path / "machine.json").write_text(json.dumps(odd))
    (path / "statistics.jsonl").write_text(json.dumps({"step": 1, "parameters": sizes}) + "\n")
    curves = run_curves(path)
    assert curves.points[0]["loss"] == 2.0 and len(curves.points) in (1, 2)
    if importlib.util.find_spec("altair") is not None:
        assert report_page([curves], scripts=False)
    (line,) = list_runs([path])
    assert compare_table(compare([path])) and runs_table([line]) and line.steps == len(curves.points)
    json.dumps(recorded_sizes(path), allow_nan=False)


def test_runs_differ_in_their_options(made_run) -> None:
    line = [{"step": 1, "loss": 1.0, "ms": 1.0, "tokens_per_second": 1e3}]
    runs = all_curves([made_run("a", line, lr=0.1, seed=1, out="a"), made_run("b", line, lr=0.2, seed=1, out="b")])
    assert different_options(runs) == {"lr": ["0.1", "0.2"]}


def test_what_is_no_run(tmp_path, made_run) -> None:
    with pytest.raises(TrainingError, match=r"there is no run in .*/nothing"):
        run_curves(tmp_path / "nothing")
    with pytest.raises(TrainingError, match="has not done a step yet"):
        run_curves(made_run("empty", [], lr=1))
    with pytest.raises(PictureError, match="name one run folder or more"):
        all_curves([])
    with pytest.raises(PictureError, match="the run a is given twice"):
        all_curves(["a", "b", "a"])
