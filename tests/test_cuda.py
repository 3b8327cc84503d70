"""gollm._cuda, where it was built: it needs no driver to be imported, and nothing but the C and C++ libraries."""

import importlib.util
import shutil
import subprocess

import pytest

from gollm import cuda

SPEC = importlib.util.find_spec("gollm._cuda")
needs_module = pytest.mark.skipif(SPEC is None, reason="this gollm was built without CUDA kernels")


def output_of(tool, *arguments):
    if not shutil.which(tool):
        pytest.skip(f"{tool} is not installed")
    return subprocess.run([tool, *arguments], capture_output=True, text=True, check=True).stdout


def test_why_there_is_none_is_one_sentence():
    reason = cuda.unavailable_reason()
    assert cuda.is_available() == (reason is None)
    assert reason is None or (len(reason) > 20 and "\n" not in reason)


@needs_module
def test_no_library_of_cuda_is_needed():
    needed = [line for line in output_of("readelf", "-d", SPEC.origin).splitlines() if "NEEDED" in line]
    assert needed
    for line in needed:
        assert not any(name in line for name in ("libcuda", "libcudart", "libcublas", "libcudnn", "libnv")), line


@needs_module
def test_no_symbol_of_cuda_is_left_to_the_loader():
    undefined = [line.split()[-1] for line in output_of("nm", "-D", "--undefined-only", SPEC.origin).splitlines()]
    assert undefined and not [name for name in undefined if name.startswith(("cu", "__cuda", "gollm"))]


@needs_module
def test_only_what_the_header_declares_is_exported():
    defined = [line.split()[-1] for line in output_of("nm", "-D", "--defined-only", SPEC.origin).splitlines()]
    assert {name for name in defined if "gollm" in name} == {
        "gollm_cuda",
        "gollm_cuda_describe",
        "gollm_cuda_device_count",
        "gollm_cuda_error",
    }
    assert not [name for name in defined if name.startswith("cu")]
