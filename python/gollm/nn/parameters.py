"""Parameters: every weight of a model in one flat arena, with its gradient in another of the same layout.

The optimiser, the gradient norm and checkpoints are then one call over one range. Matrices, which weight decay
applies to, come first; each tensor starts on a 64-byte boundary, and the gaps stay zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gollm import _native as kernels
from gollm.errors import ShapeError
from gollm.nn.tensor import FLOAT32, Array, Tensor, empty

ALIGNMENT = 16  # elements; 64 bytes of float32


@dataclass(frozen=True)
class ParameterSpec:
    """What a parameter is called, its shape, how it starts, and what other programs call it."""

    name: str
    shape: tuple[int, ...]
    std: float = 0.0  # starts as normal(0, std); 0 means `constant`
    constant: float = 0.0
    split_axis: int | None = None  # the axis along which it may be split among machines
    # format -> its name there; several where they are its parts along the first axis
    other_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def decays(self) -> bool:
        """Weight decay applies to matrices, not to biases and norms."""
        return len(self.shape) >= 2

    @property
    def size(self) -> int:
        return math.prod(self.shape)


class Parameter(Tensor):
    """A leaf tensor whose values and gradient are views of its arena's."""

    __slots__ = ("arena", "spec")

    def __init__(self, spec: ParameterSpec, arena: ParameterArena, array: Array) -> None:
        super().__init__(array, requires_grad=True)
        self.spec = spec
        self.arena = arena

    def grad_destination(self) -> tuple[Array, bool]:
        if self._grad is None:
            self._grad = self.arena.view(self.arena.gradients, self.spec.name)
        return super().grad_destination()


def arena_layout(specs: Sequence[ParameterSpec]) -> tuple[dict[str, int], int]:
    """Where each parameter starts in an arena, in its order, and the arena's size; both in elements."""
    offsets: dict[str, int] = {}
    size = 0
    for spec in sorted(specs, key=lambda spec: not spec.decays):  # stable: order of declaration within each kind
        offsets[spec.name] = size
        size += -(-spec.size // ALIGNMENT) * ALIGNMENT
    return offsets, size


class ParameterArena(Mapping[str, Parameter]):
    """The parameters of a model by name, in one flat buffer: those that decay, then the others.

    weights: (size,) float32 or float64, zeros unless given (a file that has them in this layout, for one); gradients:
    the same, made when first used; n_decay: how many elements at its front weight decay applies to; order: the names as
    they lie in it.
    """

    def __init__(
        self, specs: Sequence[ParameterSpec], dtype: np.dtype[Any] = FLOAT32, weights: Array | None = None
    ) -> None:
        self.dtype = np.dtype(dtype)
        self.specs = {spec.name: spec for spec in specs}
        self._offsets, self.size = arena_layout(specs)
        self.order = tuple(self._offsets)
        self.n_decay = min((self._offsets[spec.name] for spec in specs if not spec.decays), default=self.size)
        if weights is None:
            weights = empty((self.size,), self.dtype)
            weights[:] = 0
        elif weights.shape != (self.size,) or weights.dtype != self.dtype:
            raise ShapeError(
                f"the weights are {weights.dtype} of shape {weights.shape}; these parameters need {self.dtype} of "
                f"shape ({self.size},)"
            )
        self.weights = weights
        self._gradients: Array | None = None
        self._parameters = {spec.name: Parameter(spec, self, self.view(self.weights, spec.name)) for spec in specs}

    @property
    def gradients(self) -> Array:
        if self._gradients is None:
            self._gradients = empty((self.size,), self.dtype)
            self._gradients[:] = 0
        return self._gradients

    def view(self, flat: Array, name: str) -> Array:
        """The part of a flat buffer of this layout (weights, gradients, moments) that belongs to a parameter."""
        spec, offset = self.specs[name], self._offsets[name]
        return flat[offset : offset + spec.size].reshape(spec.shape)

    def all_finite(self) -> bool:
        """Whether no weight is NaN or infinite."""
        norm = np.empty(1)
        kernels.gradient_norm(norm=norm, scale=np.empty(1), g=self.weights, max_norm=0.0)
        return bool(np.isfinite(norm[0]))

    def zero_grad(self) -> None:
        """The next backward() overwrites all gradients."""
        for parameter in self._parameters.values():
            parameter.has_grad = False

    def finish_gradients(self) -> None:
        """Makes gradients that no backward() has written since zero_grad() zero, so that `gradients` is whole."""
        for parameter in self._parameters.values():
            if not parameter.has_grad:
                parameter.grad_destination()[0][...] = 0

    def initialise(self, seed: int) -> None:
        """Draws the starting values; each parameter's are a function of the seed and its name only."""
        for name, spec in self.specs.items():
            values = self._parameters[name].data
            if spec.std:
                entropy = [seed, *name.encode()]
                generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))
                # Drawn in float32 whatever the dtype: a float64 model starts where a float32 one does.
                values[...] = generator.standard_normal(spec.shape, dtype=np.float32) * np.float32(spec.std)
            else:
                values[...] = spec.constant

    @property
    def n_parameters(self) -> int:
        """How many numbers the model consists of, without the gaps."""
        return sum(spec.size for spec in self.specs.values())

    def __getitem__(self, name: str) -> Parameter:
        return self._parameters[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __len__(self) -> int:
        return len(self._parameters)
