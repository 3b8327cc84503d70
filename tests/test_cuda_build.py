"""The extra cuda-build: NVIDIA's wheels are all that it takes to compile gollm._cuda, in an environment of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def wheels():
    """The requirements of the extra, as pyproject.toml has them."""
    text = (ROOT / "pyproject.toml").read_text()
    inside = text[text.index("cuda-build = [") :].split("]", 1)[0]
    return [part for part in inside.split('"') if part.startswith("nvidia-")]


def test_the_compiler_is_pinned():
    assert len(wheels()) == 7 and all("==" in wheel for wheel in wheels())


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the wheels are Linux's")
def test_the_wheels_compile_the_module(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    needed = ["pybind11>=3.0", "cmake>=3.26", "ninja>=1.11"]
    install = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *needed, *wheels()]
    if subprocess.run(install, capture_output=True).returncode != 0:
        pytest.skip("the wheels cannot be fetched here")
    # PATH without a CUDA toolkit: tools that are not of the environment come from the system's folders.
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("cc", "c++", "gcc", "g++", "ld", "as", "ar", "ranlib", "nm", "readelf", "sh", "env", "uname", "cat"):
        if found := shutil.which(tool):
            (tools / tool).symlink_to(Path(found).resolve() if tool in ("cc", "c++") else found)
    environment = {"PATH": f"{python.parent}:{tools}", "HOME": os.environ.get("HOME", "/")}
    pybind11 = output([str(python), "-m", "pybind11", "--cmakedir"])
    build = tmp_path / "build"
    define = [f"-D{name}" for name in (f"Python_EXECUTABLE={python}", f"pybind11_DIR={pybind11}", "GOLLM_CUDA=ON")]
    cmake = [
        str(python.parent / "cmake"),
        "-G",
        "Ninja",
        "-S",
        str(ROOT),
        "-B",
        str(build),
        "-DCMAKE_BUILD_TYPE=Release",
    ]
    run([*cmake, "-DSKBUILD_PROJECT_VERSION=0", *define], environment)
    run([str(python.parent / "cmake"), "--build", str(build), "--target", "_cuda"], environment)
    (module,) = build.glob("_cuda*.so")
    look = (
        f"import sys; sys.path.insert(0, {str(build)!r}); import _cuda; print(_cuda.device_count() >= 0, _cuda.TARGETS)"
    )
    assert output([str(python), "-c", look]) == "True sm_80 sm_90a compute_80"
    listed = output(
        [
            str(tmp_path / "venv/lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}")
            + "/site-packages/nvidia/cu13/bin/cuobjdump",
            "-lelf",
            str(module),
        ]
    )
    assert "sm_80" in listed and "sm_90a" in listed


def run(command, environment):
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


def output(command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
