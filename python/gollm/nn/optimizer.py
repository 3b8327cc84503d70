"""The optimisers: AdamW and SGD with momentum, each one kernel call over the flat arena of all parameters.

Learning rate and step count live in small buffers that the kernels read through pointers.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from gollm.errors import DTypeError, GollmError
from gollm.kernels import Array
from gollm.nn.dtypes import bfloat16
from gollm.nn.parameters import ParameterArena


class Optimizer:
    """What both share: flat moments beside the trained weights, the step count, the gradient's norm and clipping."""

    def __init__(
        self, parameters: ParameterArena, moments: tuple[str, ...], *, weight_decay: float, max_grad_norm: float
    ) -> None:
        self.parameters = parameters
        self.weight_decay = weight_decay
        self.max_grad_norm = max_grad_norm
        self.kernels = parameters.kernels
        self.moments = {name: parameters.zeros(parameters.n_trained) for name in moments}
        _ = parameters.gradients  # made now: in a recorded step, making them would clear them at each replay
        on = self.kernels.from_host
        self.lr, self.step_count = on(np.zeros(1, np.float64)), on(np.zeros(1, np.int64))
        self._norm, self._grad_scale = on(np.zeros(1, np.float64)), on(np.ones(1, np.float64))

    def step(self, lr: float) -> float:
        """Updates all weights with the gradients that are there and returns the gradient's norm before clipping.

        The gradient is scaled to a norm of at most max_grad_norm (0: never). Nothing is updated when the norm is not
        finite. That is decided here, so a plan cannot record it (GollmError): call it after the plan."""
        if self.kernels.is_recording():
            raise GollmError(
                "an optimiser's step cannot be part of a plan, it depends on the gradient's norm; record what computes "
                "the gradients, and call step(lr) after the plan has run"
            )
        parameters = self.parameters
        parameters.finish_gradients()
        self.kernels.gradient_norm(
            norm=self._norm, scale=self._grad_scale, g=parameters.gradients, max_norm=self.max_grad_norm
        )
        norm = float(self.kernels.to_host(self._norm)[0])
        if np.isfinite(norm):
            self.kernels.write(self.lr, np.array([lr], np.float64))
            self.kernels.write(self.step_count, self.kernels.to_host(self.step_count) + 1)
            self._update()
            parameters.round_weights()
        return norm

    def _update(self) -> None:
        raise NotImplementedError

    def state(self) -> dict[str, Array]:
        """What has to be saved to go on bit for bit: the moments by name, and the step count. They are the arrays
        themselves, on their device: filling them (gollm.kernels.Kernels.filling) restores the state."""
        return {**self.moments, "step_count": self.step_count}


class AdamW(Optimizer):
    """Adam with decoupled weight decay on matrices (Loshchilov & Hutter 2019), with the arithmetic of
    torch.optim.AdamW. Weights that are bfloat16 alone are rounded stochastically, with bits that are a function of the
    seed, the step and the position."""

    def __init__(
        self,
        parameters: ParameterArena,
        *,
        beta1: float = 0.9,
        beta2: float = 0.95,
        eps: float = 1e-8,
        weight_decay: float = 0.1,
        max_grad_norm: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(parameters, ("m", "v"), weight_decay=weight_decay, max_grad_norm=max_grad_norm)
        self.beta1, self.beta2, self.eps, self.seed = beta1, beta2, eps, seed

    def _update(self) -> None:
        narrow = self.parameters.weights_dtype is bfloat16
        kernel = partial(self.kernels.adamw_bf16, seed=self.seed) if narrow else self.kernels.adamw
        kernel(
            w=self.parameters.trained_weights,
            m=self.moments["m"],
            v=self.moments["v"],
            g=self.parameters.gradients,
            lr=self.lr,
            step=self.step_count,
            grad_scale=self._grad_scale,
            beta1=self.beta1,
            beta2=self.beta2,
            eps=self.eps,
            weight_decay=self.weight_decay,
            n_decay=self.parameters.n_decay,
        )


class SGD(Optimizer):
    """Stochastic gradient descent with momentum, with the arithmetic of torch.optim.SGD; decay on matrices only."""

    def __init__(
        self,
        parameters: ParameterArena,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        max_grad_norm: float = 1.0,
    ) -> None:
        if parameters.weights_dtype is bfloat16:
            raise DTypeError("the weights are bfloat16 without float32 masters, which only AdamW can train; use AdamW")
        super().__init__(parameters, ("m",), weight_decay=weight_decay, max_grad_norm=max_grad_norm)
        self.momentum = momentum

    def _update(self) -> None:
        self.kernels.sgd(
            w=self.parameters.trained_weights,
            m=self.moments["m"],
            g=self.parameters.gradients,
            lr=self.lr,
            grad_scale=self._grad_scale,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            n_decay=self.parameters.n_decay,
        )
