"""The emulated GPU as gollm's own: all that the product needs for it is a module of the name gollm._cuda."""

import importlib.util
import platform
import shutil
import sys

import pytest

from cuda_emulation.device import build_module
from gollm import cuda


@pytest.fixture(scope="package")
def emulated(tmp_path_factory):
    """The module, and the kernels that it gives."""
    if platform.machine() != "x86_64" or not shutil.which("c++"):
        pytest.skip("the emulation needs a C++ compiler on x86-64")
    path = build_module(tmp_path_factory.mktemp("module"))
    spec = importlib.util.spec_from_file_location("gollm._cuda", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "gollm._cuda", module)
        cuda.kernels.cache_clear()
        kernels = cuda.kernels()
        cuda.kernels.cache_clear()
    return module, kernels


@pytest.fixture
def gpu(emulated, monkeypatch):
    """The kernels of the emulated GPU, which `--device cuda` finds, too."""
    module, kernels = emulated
    monkeypatch.setitem(sys.modules, "gollm._cuda", module)
    monkeypatch.setattr(cuda, "kernels", lambda: kernels)
    return kernels
