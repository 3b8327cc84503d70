"""Whether gollm can compute on an NVIDIA GPU: the CUDA kernels are an extension module of their own, maybe missing."""

from __future__ import annotations

import importlib
import importlib.util

__all__ = ["is_available", "unavailable_reason"]


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
