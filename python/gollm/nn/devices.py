"""Choosing a device by its name, and the dtype that a model has there."""

from __future__ import annotations

from typing import Literal, get_args

from gollm import cuda
from gollm.errors import ConfigError, DeviceError
from gollm.kernels import Kernels, cpu

DeviceName = Literal["auto", "cpu", "cuda"]
ModelDType = Literal["float32", "bfloat16"]


def kernels_of(device: DeviceName, dtype: ModelDType = "float32") -> Kernels:
    """The kernels of a device; "auto" is the GPU where there is one that can be used, else the CPU.

    Raises ConfigError for another name, DeviceError where there is no such device, and for a dtype that models cannot
    have there."""
    if device not in get_args(DeviceName):
        raise ConfigError(f"device is {device!r}; it must be one of {', '.join(get_args(DeviceName))}")
    if dtype not in get_args(ModelDType):
        raise ConfigError(f"dtype is {dtype!r}; it must be one of {', '.join(get_args(ModelDType))}")
    if device == "cuda" or (device == "auto" and cuda.is_available()):
        return cuda.kernels()
    if dtype != "float32":
        raise DeviceError(
            f"dtype is {dtype}, which models have on a GPU only, and the device is the CPU; use float32 (bfloat16 "
            "products on the CPU: gollm train --compute-dtype; smaller weights: gollm quantize)"
        )
    return cpu
