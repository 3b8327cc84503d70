"""gollm doctor: what it says is what is."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import gollm
from gollm import _native, cuda
from gollm.cli import doctor
from gollm.cli.main import main


def report(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    assert main(["doctor", "--json", *words]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    found = json.loads(captured.out)
    assert isinstance(found, dict)
    return found


def test_json_agrees_with_the_library(capsys: pytest.CaptureFixture[str]) -> None:
    found = report(capsys, "--no-measure")
    assert found["version"] == gollm.__version__
    assert found["compiler"] == _native.compiler()
    assert found["openmp"] == _native.has_openmp()
    assert found["workspace_bytes"] == _native.workspace_size()
    isa = found["isa"]
    assert isinstance(isa, dict)
    assert isa["chosen"] == _native.isa() and isa["chosen"] in isa["usable"]
    assert set(isa["usable"]) <= set(isa["built"])
    team = found["threads"]
    assert isinstance(team, dict)
    assert team["used"] == gollm.num_threads()
    assert team["default"] == max(1, min(team["physical_cores_allowed"], team["cpu_quota"]))
    assert found["cuda"] == {"available": cuda.is_available(), "reason": cuda.unavailable_reason()}
    assert "measured" not in found


def test_measures_the_machine(capsys: pytest.CaptureFixture[str]) -> None:
    found = report(capsys)["measured"]
    assert isinstance(found, dict)
    assert set(found) == {"fma_peak_gflops", "bfloat16_speedup", "read_bandwidth_gb_per_s"}
    assert all(0 < value < 1e6 for value in found.values())
    assert "GFLOP/s" in doctor.in_lines({**doctor.examine(), "measured": found})


def test_lines_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    _native.release_workspace()
    _native.gradient_norm(norm=np.empty(1), scale=np.empty(1), g=np.ones(3), max_norm=1.0)
    assert main(["doctor", "--no-measure"]) == 0
    out = capsys.readouterr().out
    assert f"workspace  {_native.workspace_size():,} bytes" in out and _native.workspace_size() > 0
    for part in (gollm.__version__, _native.compiler(), f"chosen {_native.isa()}", "threads", "OpenMP", "CUDA"):
        assert part in out


def test_missing_openmp_is_loud() -> None:
    found = doctor.examine()
    found["openmp"] = False
    text = doctor.in_lines(found)
    assert "NO! All computing is done by ONE thread." in text and "OpenMP is missing" in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "2 physical cores in the 4 CPUs that this process may use"),
        ({"cpus_in_machine": 8}, "2 physical cores in the 4 CPUs that this process may use, of 8"),
        ({"cpu_quota": 1, "default": 1, "used": 1}, "limited to 1 by the CPU quota"),
        ({"from_environment": ("GOLLM_NUM_THREADS", 3), "used": 3}, "GOLLM_NUM_THREADS; the default would be 2"),
        ({"from_environment": ("OMP_NUM_THREADS", 3), "used": 3}, "OMP_NUM_THREADS; the default would be 2"),
        ({"from_environment": ("OMP_NUM_THREADS", 3), "used": 5}, "set by --threads or by the program; the default is"),
        ({"used": 5}, "set by --threads or by the program; the default is 2"),
    ],
)
def test_why_so_many_threads(changes: dict[str, object], words: str) -> None:
    team = {
        "used": 2,
        "default": 2,
        "cpus_allowed": 4,
        "cpus_in_machine": 4,
        "physical_cores_allowed": 2,
        "cpu_quota": 4,
        "from_environment": None,
    }
    assert words in doctor.why_threads({**team, **changes}, openmp=True)


def test_affinity_and_environment_are_seen() -> None:
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system has no affinity")
    code = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); "
        "from gollm.cli.main import main; main(['doctor', '--no-measure', '--json'])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = json.loads(run.stdout)
    assert found["threads"]["cpus_allowed"] == 1 and found["threads"]["used"] == 1


def test_cuda_says_why_it_is_not_there() -> None:
    assert cuda.is_available() == (cuda.unavailable_reason() is None)
