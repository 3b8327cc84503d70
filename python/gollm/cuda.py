"""The GPU: the CUDA kernels are an extension module of their own, maybe missing."""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from typing import Any

from gollm import _native
from gollm.errors import DeviceError
from gollm.kernels import Kernels

__all__ = ["describe", "is_available", "kernels", "unavailable_reason"]


def is_available() -> bool:
    """Whether the CUDA kernels were built and a GPU can be used."""
    return unavailable_reason() is None


def unavailable_reason() -> str | None:
    """Why is_available() is False; None where it is True."""
    if importlib.util.find_spec("gollm._cuda") is None:
        return "this gollm was built without CUDA kernels"
    try:
        native = importlib.import_module("gollm._cuda")
    except ImportError as error:
        return f"the CUDA kernels cannot be loaded: {error}"
    return None if native.device_count() > 0 else f"no NVIDIA GPU can be used: {native.error()}"


@cache
def kernels() -> Kernels:
    """The GPU's kernels, its memory and its plans, as gollm.kernels.cpu has the CPU's. Raises DeviceError where
    is_available() is False."""
    reason = unavailable_reason()
    if reason is not None:
        raise DeviceError(f"the device is cuda, but {reason}; use the device cpu, or auto (gollm doctor says more)")
    native = importlib.import_module("gollm._cuda")
    try:
        return Kernels("cuda", _native.bind(native.backend(_native.cpu_backend())))
    except RuntimeError as error:
        raise DeviceError(f"the GPU cannot be used: {error}") from None


def describe() -> dict[str, Any]:
    """The GPU in use: name, compute_capability, total_bytes and free_bytes of its memory, driver_supports (the CUDA
    version of the driver), runtime (the one that is built in), and targets (what the kernels were compiled for). Raises
    DeviceError as kernels() does."""
    memory = kernels().native.memory()
    native = importlib.import_module("gollm._cuda")
    return {**native.describe(), **memory, "targets": native.TARGETS.split()}
