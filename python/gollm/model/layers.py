"""The layers of the decoder. Each declares the weights that it uses, with their shape, how they start, and the axis
along which they may be split among machines.

Weights start as GPT-2's: normal(0, 0.02), the projections back into the residual stream scaled down by
sqrt(2 n_layers), norms one, biases zero. Those of linear layers are (outputs, inputs).

Shapes: B sequences of T tokens, or N rows in a cache: `...` stands for either; C = d_model, H heads and G key/value
heads of D values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from gollm.kernels import Array
from gollm.model.batch import AdapterRun, Batch
from gollm.model.config import ModelConfig
from gollm.nn import ops
from gollm.nn.parameters import Module, Parameter
from gollm.nn.recompute import call
from gollm.nn.tensor import Tensor

STD = 0.02


def residual_std(config: ModelConfig) -> float:
    """Of the projections whose outputs are added to the residual stream."""
    return STD / math.sqrt(2 * config.n_layers)


class Embedding(Parameter):
    """A table with a row of C values for each token, or for each position."""

    def __init__(self, rows: int, C: int, *, split_axis: int | None = None) -> None:
        super().__init__((rows, C), std=STD, split_axis=split_axis)


class Linear(Module):
    """y = x wᵀ + b + residual.  (..., inputs) -> (..., outputs)

    Split along its outputs (axis 0), or its inputs (axis 1); a bias goes with the outputs."""

    adapter: Adapter | MixedAdapters | None = None

    def __init__(self, inputs: int, outputs: int, *, bias: bool, std: float = STD, split_axis: int = 0) -> None:
        self.weight = Parameter((outputs, inputs), std=std, split_axis=split_axis)
        self.bias = Parameter((outputs,), split_axis=0 if split_axis == 0 else None) if bias else None

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        if self.adapter is not None and self.adapter.active:
            residual = self.adapter(x, residual)
        return ops.linear(x, self.weight, self.bias, residual)

    @property
    def is_adapted(self) -> bool:
        """Whether an adapter adds to some row."""
        return self.adapter is not None and self.adapter.active


class LowRank(Module):
    """scale (dropout(x) aᵀ) bᵀ + residual (gollm.model.lora).  (..., inputs) -> (..., outputs)

    a starts with the standard deviation of peft's, which is uniform in ±1/√inputs; b at zero."""

    def __init__(self, inputs: int, outputs: int, rank: int, scale: float, p: float, stream: int) -> None:
        self.a = Parameter((rank, inputs), std=1 / math.sqrt(3 * inputs))
        self.b = Parameter((outputs, rank))
        self.scale, self.p, self.stream = scale, p, stream

    def __call__(self, x: Tensor, residual: Tensor | None, dropout: Dropout) -> Tensor:
        if dropout.training and self.p > 0:
            x = dropout(x, None, self.stream, self.p)
        low = ops.linear(x, self.a)
        return ops.linear(low if self.scale == 1 else ops.scale(low, factor=self.scale), self.b, None, residual)


class Adapter(Module):
    """What LoRA adds to a linear layer: to all of its outputs, or to parts of them.  (..., inputs) -> (..., outputs)

    `dropout` is the model's, whose seed and counter decide the masks."""

    active = True

    def __init__(self, outputs: int, dropout: Dropout) -> None:
        self.outputs, self.dropout = outputs, dropout
        self.begins: dict[str, int] = {}  # of each part, by its name

    def add(self, name: str, begin: int, part: LowRank) -> None:
        self.begins[name] = begin
        setattr(self, name, part)

    def __call__(self, x: Tensor, residual: Tensor | None) -> Tensor:
        parts: list[LowRank] = [getattr(self, name) for name in self.begins]
        if parts[0].b.shape[0] == self.outputs:
            return parts[0](x, residual, self.dropout)
        added = [part(x, None, self.dropout) for part in parts]
        y = ops.columns(*added, begins=tuple(self.begins.values()), width=self.outputs)
        return y if residual is None else ops.add(y, residual)


class AdapterRows:
    """Which rows of the batch that a decoder computes have an adapter, and which: Batch.adapters."""

    runs: tuple[AdapterRun, ...] = ()


class MixedAdapters:
    """Adapters of several models at one linear layer, by the models' numbers: each adds to its own rows of the batch.
    (N, inputs) -> (N, outputs), outside of training

    A row's bits are those that it has in a batch of its own."""

    def __init__(self, rows: AdapterRows, adapters: Mapping[int, Adapter]) -> None:
        self.rows, self.adapters = rows, adapters

    @property
    def active(self) -> bool:
        return any(number in self.adapters for number, _, _ in self.rows.runs)

    def __call__(self, x: Tensor, residual: Tensor | None) -> Tensor | None:
        runs = [run for run in self.rows.runs if run[0] in self.adapters]
        n_rows = x.shape[0]
        number, begin, end = runs[0]
        if (begin, end) == (0, n_rows):
            return self.adapters[number](x, residual)
        parts, begins, outputs = [], [], self.adapters[number].outputs
        for number, begin, end in runs:
            part = self.adapters[number](Tensor(x.computed().at(slice(begin, end))), None)
            parts.append(Tensor(part.computed().reshape((1, -1))))
            begins.append(begin * outputs)
        added = ops.columns(*parts, begins=tuple(begins), width=n_rows * outputs)
        y = Tensor(added.computed().reshape((n_rows, outputs)))
        return y if residual is None else ops.add(y, residual)


class Norm(Module):
    """LayerNorm or RMSNorm over the last axis."""

    def __init__(self, config: ModelConfig) -> None:
        self.weight = Parameter((config.d_model,), constant=1.0)
        self.bias = Parameter((config.d_model,)) if config.norm_bias else None
        self.rms, self.eps = config.norm == "rmsnorm", config.norm_eps

    def __call__(self, x: Tensor) -> Tensor:
        if self.rms:
            return ops.rmsnorm(x, self.weight, eps=self.eps)
        return ops.layernorm(x, self.weight, self.bias, eps=self.eps)


class SelfAttention(Module):
    """Causal multi-head attention with its projections; keys and values come from the cache where there is one. The
    block calls `qkv`, which may be recomputed; the rest is here."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        C, H, G, D = config.d_model, config.n_heads, config.n_kv_heads, config.head_dim
        self.qkv = Linear(C, (H + 2 * G) * D, bias=config.has_bias("qkv"))
        self.output = Linear(H * D, C, bias=config.has_bias("output"), std=residual_std(config), split_axis=1)
        self.heads: ops.Heads = {"H": H, "G": G, "D": D, "scale": 1 / math.sqrt(D), "window": config.window(layer) or 0}
        self.layer = layer

    def __call__(self, qkv: Tensor, batch: Batch, rotations: Array | None, residual: Tensor | None) -> Tensor:
        """qkv: (..., (H + 2G) D) -> (..., C)"""
        if batch.cache is None:
            y = ops.attention(qkv, rotations=rotations, heads=self.heads)
        else:
            pages = batch.cache.of_layer(self.layer)
            y = ops.cached_attention(qkv, rotations=rotations, heads=self.heads, pages=pages)
        return self.output(y, residual)


class FeedForward(Module):
    """The MLP: down(activation(up(x))), or down(activation(gate(x)) * up(x))."""

    def __init__(self, config: ModelConfig) -> None:
        C, F, bias = config.d_model, config.d_ff, config.has_bias("mlp")
        self.gate = Linear(C, F, bias=bias) if config.gated_mlp else None
        self.up = Linear(C, F, bias=bias)
        self.down = Linear(F, C, bias=bias, std=residual_std(config), split_axis=1)
        self.activation = ops.ACTIVATIONS[config.activation]

    def __call__(self, x: Tensor, residual: Tensor | None) -> Tensor:
        up, down, gate = self.up, self.down, self.gate
        if any(layer is not None and layer.is_adapted for layer in (up, down, gate)):
            if gate is None:
                return down(ops.activation(up(x), kind=self.activation), residual)
            return down(ops.gate(gate(x), up(x), kind=self.activation), residual)
        weights = (up.weight, up.bias, down.weight, down.bias)
        if gate is None:
            return ops.mlp(x, *weights, residual, activation=self.activation)
        return ops.gated_mlp(x, gate.weight, gate.bias, *weights, residual, activation=self.activation)


class Dropout:
    """residual + dropout(x). A mask is a function of the seed, of `stream`, its place in the model, and of a counter of
    micro-batches, which kernels read through a pointer: (1,) int64."""

    def __init__(self, p: float) -> None:
        self.p = p
        self.seed = 0
        self.counter = np.zeros(1, np.int64)
        self.training = False

    def __call__(self, x: Tensor, residual: Tensor | None, stream: int, p: float | None = None) -> Tensor:
        """`p` replaces the model's own probability."""
        p = self.p if p is None else p
        return ops.dropout(x, residual, p=p, seed=self.seed, stream=stream, counter=self.counter)

    @property
    def active(self) -> bool:
        return self.training and self.p > 0


class Block(Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); the residual add rides on the output projections."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        self.attention_norm = Norm(config)
        self.attention = SelfAttention(config, layer)
        self.mlp_norm = Norm(config)
        self.mlp = FeedForward(config)
        self.streams = (2 * layer + 1, 2 * layer + 2)

    def __call__(
        self,
        x: Tensor,
        batch: Batch,
        rotations: Array | None,
        dropout: Dropout,
        run: Callable[..., Tensor] = call,  # or recompute: then the MLP, norms and qkv are computed again in backward
    ) -> Tensor:
        if dropout.active:
            x = dropout(self.attention(run(self.qkv, x), batch, rotations, None), x, self.streams[0])
            return dropout(run(self._mlp, x, None), x, self.streams[1])
        x = self.attention(run(self.qkv, x), batch, rotations, residual=x)
        return run(self._mlp, x, x)

    def qkv(self, x: Tensor) -> Tensor:
        """Queries, keys and values of the attention.  (..., C) -> (..., (H + 2G) D)"""
        return self.attention.qkv(self.attention_norm(x))

    def _mlp(self, x: Tensor, residual: Tensor | None) -> Tensor:
        return self.mlp(self.mlp_norm(x), residual)
