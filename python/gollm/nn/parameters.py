"""Parameters: every weight of a model in one flat arena, with its gradient in another of the same layout.

A parameter is declared where it is used, as an attribute of a `Module`; `named_parameters` collects them. The
optimiser, the gradient norm and checkpoints are then one call over one range: what is trained comes first, matrices
(which weight decay applies to) before the rest; each parameter starts on a 64-byte boundary, and the gaps stay zero.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import numpy as np

from gollm.errors import ConfigError, DTypeError, GollmError, ShapeError
from gollm.kernels import Array, Kernels, cpu
from gollm.nn.dtypes import DType, bfloat16, dtype_of
from gollm.nn.storage import ROW_MAJOR, Storage
from gollm.nn.tensor import FLOAT32, Tensor
from gollm.system.strict_json import shorten

ALIGNED_ELEMENTS = 16  # elements; 64 bytes of float32
MOST = 1 << 40  # elements that a kernel takes at once: GOLLM_MAX_SIZE


class Parameter(Tensor):
    """A leaf tensor that a model learns.

    std         it starts as normal(0, std), or where that is 0, as `constant`
    split_axis  the axis along which it may be split among machines

    Its name and its memory come with the arena that it is collected into.
    """

    __slots__ = ("_shape", "_storage", "arena", "constant", "name", "split_axis", "std")

    arena: ParameterArena
    name: str

    def __init__(
        self, shape: tuple[int, ...], *, std: float = 0.0, constant: float = 0.0, split_axis: int | None = None
    ) -> None:
        self._shape = shape
        self._storage: Storage | None = None
        self._grad = None
        self.op = None
        self.has_grad = False
        self.requires_grad = True
        self.std, self.constant, self.split_axis = std, constant, split_axis

    @property
    def storage(self) -> Storage:
        if self._storage is None:
            self._storage = self.arena.storage_of(self.arena.read_weights, self)
        return self._storage

    @storage.setter
    def storage(self, storage: Storage) -> None:
        """Memory of its own, such as of another dtype, for a parameter that is not trained."""
        self.arena.let_go({self.name: storage})

    @property
    def data(self) -> Array:
        """The values as Tensor.data; where kernels read rounded weights, those that are trained."""
        return self.arena.values_of(self)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def size(self) -> int:
        return math.prod(self._shape)

    @property
    def decays(self) -> bool:
        """Weight decay applies to matrices, not to biases and norms."""
        return len(self._shape) >= 2

    def grad_destination(self) -> tuple[Storage, bool]:
        if self._grad is None:
            self._grad = self.arena.storage_of(self.arena.gradients, self)
        return super().grad_destination()


class Module:
    """A part of a model. Its parameters are those of its attributes that are parameters, modules or lists of modules,
    in the order in which they were set, and called by their names with dots between."""

    def named_parameters(self) -> dict[str, Parameter]:
        """All of them; one that is used in several places has the name of the first."""
        found: dict[str, Parameter] = {}
        seen: set[int] = set()
        for name, value in vars(self).items():
            parts = {f"{name}.{i}": part for i, part in enumerate(value)} if isinstance(value, list) else {name: value}
            for path, part in parts.items():
                if isinstance(part, Parameter):
                    inner = {path: part}
                elif isinstance(part, Module):
                    inner = {f"{path}.{below}": parameter for below, parameter in part.named_parameters().items()}
                else:
                    continue
                found.update({path: parameter for path, parameter in inner.items() if id(parameter) not in seen})
                seen.update(map(id, inner.values()))
        return found


class ParameterArena(Mapping[str, Parameter]):
    """The parameters of a model by name, in one flat buffer of float32 or float64: those that are trained, the ones
    that decay first, then the frozen ones.

    weights   (size,) zeros unless given (a file that has them in this layout, for one); made when first used, so that
              a model whose shapes alone are asked for takes no memory
    weights_dtype  theirs: the arena's dtype, or on a device bfloat16 (see to)
    read_weights  what kernels read: the weights, or on a device their copy rounded to bfloat16 (see to)
    gradients (n_trained,) of the dtype that kernels read, made when first used; moments are as long
    n_decay   how many elements at the front weight decay applies to
    n_trained how many elements at the front are trained
    offsets   where each parameter starts, in elements, in the order in which they lie; `order` has the names alone
    """

    def __init__(
        self,
        parameters: Mapping[str, Parameter],
        dtype: np.dtype[Any] = FLOAT32,
        weights: Array | None = None,
        kernels: Kernels = cpu,
    ) -> None:
        self.dtype = np.dtype(dtype)
        self.weights_dtype = self._own_dtype = dtype_of(np.empty(0, self.dtype))
        self.kernels = kernels
        self._parameters = dict(parameters)
        self._elsewhere: set[str] = set()  # frozen parameters that have memory of their own
        self._weights: Array | None = None
        self._rounded: Array | None = None
        self._gradients: Array | None = None
        for name, parameter in self._parameters.items():
            parameter.name, parameter.arena = name, self
        self._lay_out()
        if weights is not None and (weights.shape != (self.size,) or weights.dtype != self.dtype):
            raise ShapeError(
                f"the weights are {weights.dtype} of shape {weights.shape}; these parameters need {self.dtype} of "
                f"shape ({self.size},)"
            )
        self._weights = weights

    def _lay_out(self) -> None:
        """Decides where each parameter lies; values that are there already are moved."""
        before = {} if self._weights is None else {name: self.view(self._weights, name) for name in self.offsets}
        self.offsets: dict[str, int] = {}
        self.size = self.n_decay = self.n_trained = 0
        here = [parameter for parameter in self._parameters.values() if parameter.name not in self._elsewhere]
        for parameter in sorted(here, key=lambda p: (not p.requires_grad, not p.decays)):  # stable: as declared
            self.offsets[parameter.name] = self.size
            self.size += -(-parameter.size // ALIGNED_ELEMENTS) * ALIGNED_ELEMENTS
            if parameter.requires_grad:
                self.n_trained = self.size
                self.n_decay = self.size if parameter.decays else self.n_decay
            parameter._storage = None
        if before:
            self._weights = self.zeros(self.size, self.weights_dtype.array)
            for name in self.offsets:
                self.kernels.write(self.view(self._weights, name), before[name])
        if self._rounded is not None:
            self._rounded = self.kernels.empty((self.size,), bfloat16.array)
            self.round_weights()

    @property
    def order(self) -> tuple[str, ...]:
        return tuple(self.offsets)

    @property
    def weights(self) -> Array:
        if self._weights is None:
            self._weights = self.zeros(self.size, self.weights_dtype.array)
            self.round_weights()
        return self._weights

    @property
    def read_weights(self) -> Array:
        return self.weights if self._rounded is None else self._rounded

    @property
    def read_dtype(self) -> DType:
        """The dtype of weights and gradients as kernels take them, and so of activations."""
        return self.weights_dtype if self._rounded is None else bfloat16

    def round_weights(self) -> None:
        """Rounds the weights where kernels read a rounded copy: to be called when weights have changed."""
        if self._rounded is not None and self._weights is not None:
            for begin in range(0, self.size, MOST):
                part = slice(begin, begin + MOST)
                self.kernels.to_bf16(y=self._rounded[part], x=self._weights[part])

    @property
    def trained_weights(self) -> Array:
        """(n_trained,): what an optimiser updates"""
        return self.weights[: self.n_trained]

    @property
    def gradients(self) -> Array:
        if self._gradients is None:
            self._gradients = self.zeros(self.n_trained, self.read_dtype.array)
        return self._gradients

    def zeros(self, n: int, dtype: np.dtype[Any] | None = None) -> Array:
        """A flat buffer of the arena's dtype, or of another one."""
        buffer = self.kernels.empty((n,), dtype or self.dtype)
        for begin in range(0, n, MOST):
            self.kernels.fill(y=buffer[begin : begin + MOST], value=0.0)
        return buffer

    def view(self, flat: Array, name: str) -> Array:
        """The part of a flat buffer of this layout (weights, gradients, moments) that belongs to a parameter."""
        parameter, offset = self._parameters[name], self.offsets[name]
        return flat[offset : offset + parameter.size].reshape(parameter.shape)

    def storage_of(self, flat: Array, parameter: Parameter) -> Storage:
        return Storage(self.view(flat, parameter.name), self.read_dtype, kernels=self.kernels)

    def values_of(self, parameter: Parameter) -> Array:
        if parameter.name in self._elsewhere:
            return parameter.storage.host()
        return Storage(self.view(self.weights, parameter.name), self.weights_dtype, kernels=self.kernels).host()

    def to(self, kernels: Kernels, dtype: DType | None = None, *, masters: bool = True) -> None:
        """Moves all to a device; before the first backward pass and before the optimiser is made, else GollmError.

        With bfloat16 kernels read rounded weights, and gradients are bfloat16. The weights that are trained stay
        float32 beside them; without such `masters` they are the rounded ones, which an optimiser has to round
        stochastically (gollm.nn.optimizer.AdamW). Frozen ones are rounded for good. Raises DTypeError for bfloat16 with
        packed weights, whose kernels compute in float32."""
        if self._gradients is not None:
            raise GollmError("a model cannot move to another device once there are gradients; move it before training")
        narrow = dtype is bfloat16
        packed = next((n for n in self._elsewhere if self[n].storage.layout != ROW_MAJOR), None)
        if narrow and packed is not None:
            raise DTypeError(f"{packed} is quantised, and such a model computes in float32; use the dtype float32")
        frozen = {n: p for n, p in self._parameters.items() if not p.requires_grad and (narrow or n in self._elsewhere)}
        if frozen:
            self.let_go({name: parameter.storage.to(kernels, dtype) for name, parameter in frozen.items()})
        if self._weights is not None:
            host = Storage(self._weights, self.weights_dtype, kernels=self.kernels).host()
            self._weights = kernels.from_host(host)
        self.kernels, self.weights_dtype, self._rounded = kernels, self._own_dtype, None
        if narrow:
            self._rounded = kernels.empty((self.size,), bfloat16.array)
            self.round_weights()
        if narrow and not masters:
            self._weights, self._rounded = None if self._weights is None else self._rounded, None
            self.weights_dtype = bfloat16
        for name in self.offsets:
            self._parameters[name]._storage = None

    def freeze(self, names: Collection[str]) -> None:
        """These parameters are not trained: they have no gradients and no moments. The flat buffers change, so this
        comes before the first backward pass and before the optimiser is made; else it raises GollmError."""
        if self._gradients is not None:
            raise GollmError("parameters cannot be frozen once there are gradients; freeze them before training")
        for name in names:
            self._parameters[name].requires_grad = False
        self._lay_out()

    def let_go(self, storages: Mapping[str, Storage]) -> None:
        """Gives frozen parameters storages of their own; the flat buffer has no room for them from then on."""
        for name in storages:
            if self._parameters[name].requires_grad:
                raise GollmError(f"{name} is trained, so it lies with the others; freeze it first")
        self._elsewhere.update(storages)
        self._lay_out()
        for name, storage in storages.items():
            self._parameters[name]._storage = storage

    def all_finite(self) -> bool:
        """Whether no weight in the flat buffer is NaN or infinite."""
        norm, scale = (self.kernels.empty((1,), np.dtype(np.float64)) for _ in range(2))
        self.kernels.gradient_norm(norm=norm, scale=scale, g=self.weights, max_norm=0.0)
        return bool(np.isfinite(self.kernels.to_host(norm)[0]))

    def zero_grad(self) -> None:
        """The next backward() overwrites all gradients."""
        for parameter in self._parameters.values():
            parameter.has_grad = False

    def finish_gradients(self) -> None:
        """Makes gradients that no backward() has written since zero_grad() zero, so that `gradients` is whole."""
        for parameter in self._parameters.values():
            if parameter.requires_grad and not parameter.has_grad:
                gradient, _ = parameter.grad_destination()
                self.kernels.fill(y=gradient.reshape(-1), value=0.0)

    def initialise(self, seed: int, names: Collection[str] | None = None) -> None:
        """Draws the starting values, of all parameters or of some; each one's are a function of the seed and its name
        only. Raises ConfigError for a seed that is not a whole number, 0 or more."""
        if not isinstance(seed, Integral) or seed < 0:
            raise ConfigError(f"the seed is {shorten(seed)}; it must be a whole number, 0 or more")
        for name in self if names is None else names:
            parameter = self[name]
            with self.filling(name) as values:
                if parameter.std:
                    entropy = [seed, *name.encode()]
                    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))
                    # Drawn in float32 whatever the dtype: a float64 model starts where a float32 one does.
                    drawn = generator.standard_normal(parameter.shape, dtype=np.float32)
                    values[...] = drawn * np.float32(parameter.std)
                else:
                    values[...] = parameter.constant

    @contextmanager
    def filling(self, name: str) -> Iterator[Array]:
        """An array in the CPU's memory whose contents are the parameter's afterwards."""
        weights = self.view(self.weights, name)
        if self.weights_dtype is bfloat16:
            values = np.empty(weights.shape, self.dtype)
            yield values
            self.kernels.to_bf16(y=weights.reshape(-1), x=self.kernels.from_host(values).reshape(-1))
            return
        with self.kernels.filling(weights) as values:
            yield values
        if self._rounded is not None:
            self.kernels.to_bf16(y=self.view(self._rounded, name).reshape(-1), x=weights.reshape(-1))

    @property
    def n_parameters(self) -> int:
        """How many numbers the model consists of, without the gaps."""
        return sum(parameter.size for parameter in self._parameters.values())

    def __getitem__(self, name: str) -> Parameter:
        return self._parameters[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __len__(self) -> int:
        return len(self._parameters)
