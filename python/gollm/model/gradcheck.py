"""gradcheck: are the gradients right? A table per parameter, for a model of any configuration.

The model is built twice, in float64 and in float32, from the same seed and with the same batch. The float64 build
runs the same C sources compiled for double. For each parameter, some of its elements are moved by ±h and the change
of the float64 loss (central difference) is compared with the float64 gradient; then the whole float32 gradient is
compared with the float64 one. The float32 build may be on a GPU; the float64 one is always the CPU's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gollm.errors import ConfigError
from gollm.kernels import Array, Kernels, cpu
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder
from gollm.nn.devices import DeviceName, kernels_of
from gollm.nn.tape import no_grad
from gollm.nn.tensor import FLOAT32, FLOAT64

# Of the central difference: its error is O(h²), and rounding adds about 1e-15 / h. Where a kink of ReLU lies between
# the two points, the difference is wrong however right the gradient is: then the smaller step decides, which rarely
# meets one.
__all__ = ["GradientRow", "gradcheck"]

STEPS = (2e-6, 1e-7)
DIFFERENCE_TOLERANCE = 1e-5  # relative to the largest gradient of the parameter, or of the model times 1e-3
FLOAT32_TOLERANCE = 1e-5  # ‖float32 - float64‖ / ‖float64‖


@dataclass(frozen=True)
class GradientRow:
    """One parameter's result. Errors are relative; n_checked elements were moved."""

    name: str
    shape: tuple[int, ...]
    norm: float
    n_checked: int
    difference_error: float
    float32_error: float
    ok: bool


def gradcheck(
    config: ModelConfig,
    *,
    batch_size: int = 2,
    tokens: int | None = None,
    samples: int = 4,
    seed: int = 0,
    device: DeviceName = "cpu",
) -> list[GradientRow]:
    """Checks the gradient of every parameter of a model with this configuration (dropout included) on a random batch.

    `tokens` per sequence (default: the context, at most 32); `samples` elements of each parameter are moved: those
    with the largest gradient and random ones. `device` is where the float32 gradients are computed. Raises ConfigError
    for more tokens than the context, DeviceError for a device that is not there."""
    kernels = kernels_of(device)
    if tokens is not None and not 1 <= tokens <= config.context:
        raise ConfigError(f"tokens is {tokens}; it must be from 1 to the context ({config.context})")
    generator = np.random.Generator(np.random.Philox(seed))
    length = tokens or min(config.context, 32)
    batch = generator.integers(0, config.vocab_size, (2, batch_size, length)).astype(np.int32)
    double = _with_gradients(config, FLOAT64, seed, batch, cpu)
    single = _with_gradients(config, FLOAT32, seed, batch, kernels)
    scale = max(float(np.abs(p.grad).max()) for p in double.parameters.values() if p.grad is not None)
    rows = []
    for name, parameter in double.parameters.items():
        gradient = parameter.grad
        assert gradient is not None
        indices = _indices_to_check(gradient, samples, generator)
        unit = max(float(np.abs(gradient).max()), 1e-3 * scale)
        difference = max(_difference_error(double, name, i, float(gradient.flat[i]), unit, batch) for i in indices)
        float32_gradient = single.parameters[name].grad
        assert float32_gradient is not None
        norm = float(np.linalg.norm(gradient))
        error = float(np.linalg.norm(float32_gradient - gradient)) / max(norm, 1e-6 * scale)
        ok = difference <= DIFFERENCE_TOLERANCE and error <= FLOAT32_TOLERANCE
        rows.append(GradientRow(name, gradient.shape, norm, len(indices), difference, error, ok))
    return rows


def _with_gradients(
    config: ModelConfig, dtype: np.dtype[np.float32] | np.dtype[np.float64], seed: int, batch: Array, kernels: Kernels
) -> Decoder:
    model = Decoder(config, dtype).initialise(seed)
    # Biases start at zero and norms at one: move them, so that an error in how they enter cannot hide.
    generator = np.random.Generator(np.random.Philox(seed + 1))
    for parameter in model.parameters.values():
        parameter.data[...] += generator.standard_normal(parameter.shape).astype(np.float32) * np.float32(0.05)
    if not kernels.is_cpu:
        model.to(kernels)
    model.dropout.training = True
    model.loss(batch[0], batch[1]).backward()
    model.parameters.finish_gradients()
    return model


def _indices_to_check(gradient: Array, samples: int, generator: np.random.Generator) -> list[int]:
    largest = np.argsort(-np.abs(gradient.reshape(-1)), kind="stable")[: max(1, samples // 2)]
    return sorted({*map(int, largest), *map(int, generator.integers(0, gradient.size, samples - len(largest)))})


def _difference_error(model: Decoder, name: str, index: int, gradient: float, unit: float, batch: Array) -> float:
    """How far the central difference is from the gradient of one element, in units of the parameter's largest."""
    error = float("inf")
    for h in STEPS:
        error = min(error, abs(_central_difference(model, name, index, h, batch) - gradient) / unit)
        if error <= DIFFERENCE_TOLERANCE:
            break
    return error


def _central_difference(model: Decoder, name: str, index: int, h: float, batch: Array) -> float:
    values = model.parameters[name].data.reshape(-1)
    before = values[index]
    losses = []
    with no_grad():
        for moved in (before + h, before - h):
            values[index] = moved
            losses.append(model.loss(batch[0], batch[1]).item())
    values[index] = before
    return (losses[0] - losses[1]) / (2 * h)
