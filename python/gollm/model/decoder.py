"""The decoder: one configurable transformer for the GPT-2 and LLaMA families.

    x = token_embedding[tokens] (+ position_embedding[positions])
    for each block:  x = x + attention(norm(x));  x = x + mlp(norm(x))
    logits = norm(x) @ head.T

GPT-2 (Radford et al. 2019) learns an embedding of each position and has LayerNorm and an MLP with GELU; LLaMA (Touvron
et al. 2023) turns queries and keys by their positions and has RMSNorm, grouped key/value heads and SwiGLU. Shapes: B
sequences of T tokens, C = d_model, V = vocab_size. Weights of linear layers are (outputs, inputs).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from copy import copy
from functools import partial
from typing import Any, Literal, get_args

import numpy as np

from gollm import _native as kernels
from gollm.errors import ConfigError, ShapeError
from gollm.model.cache import KVCache
from gollm.model.config import ModelConfig
from gollm.model.rope import Rotations
from gollm.model.specs import parameter_specs
from gollm.nn.ops import (
    ACTIVATIONS,
    MLP,
    Attention,
    Dropout,
    Embedding,
    GatedMLP,
    Heads,
    LayerNorm,
    RMSNorm,
    cross_entropy,
    linear,
)
from gollm.nn.parameters import Parameter, ParameterArena
from gollm.nn.recompute import call, recompute
from gollm.nn.tape import ActivationDType, activations_as, no_grad
from gollm.nn.tensor import FLOAT32, Array, Tensor, empty

Parameters = Mapping[str, Parameter]
Recomputation = Literal["none", "mlp", "block"]


class DropoutState:
    """Where the masks come from: they are functions of the seed, the place in the model, and a counter of
    micro-batches, which kernels read through a pointer: (1,) int64."""

    def __init__(self, p: float) -> None:
        self.p = p
        self.seed = 0
        self.counter = np.zeros(1, np.int64)
        self.training = False

    def __call__(self, x: Tensor, residual: Tensor | None, stream: int) -> Tensor:
        """residual + dropout(x)"""
        return Dropout.apply(x, residual, p=self.p, seed=self.seed, stream=stream, counter=self.counter)

    @property
    def active(self) -> bool:
        return self.training and self.p > 0


class Norm:
    def __init__(self, config: ModelConfig, parameters: Parameters, name: str) -> None:
        self.weight, self.bias = _linear_of(parameters, name)
        self.rms, self.eps = config.norm == "rmsnorm", config.norm_eps

    def __call__(self, x: Tensor) -> Tensor:
        if self.rms:
            return RMSNorm.apply(x, self.weight, eps=self.eps)
        return LayerNorm.apply(x, self.weight, self.bias, eps=self.eps)


def _linear_of(parameters: Parameters, name: str) -> tuple[Parameter, Parameter | None]:
    return parameters[f"{name}.weight"], parameters.get(f"{name}.bias")


class SelfAttention:
    """Causal multi-head attention with its projections; keys and values come from the cache where there is one."""

    def __init__(self, config: ModelConfig, parameters: Parameters, layer: int) -> None:
        self.layer = layer
        self.qkv = _linear_of(parameters, f"blocks.{layer}.attention.qkv")
        self.output = _linear_of(parameters, f"blocks.{layer}.attention.output")
        self.heads: Heads = {
            "H": config.n_heads,
            "G": config.kv_heads,
            "D": config.head_size,
            "scale": 1 / math.sqrt(config.head_size),
            "window": config.window(layer) or 0,
        }

    def project(self, x: Tensor) -> Tensor:
        """The queries, keys and values of each row.  (..., C) -> (..., E)"""
        return linear(x, *self.qkv)

    def __call__(self, qkv: Tensor, rotations: Array | None, cache: KVCache | None, residual: Tensor | None) -> Tensor:
        if cache is None:
            y = Attention.apply(qkv, rotations=rotations, heads=self.heads)
        else:
            y = self.cached(qkv, rotations, cache)
        return linear(y, *self.output, residual)

    def cached(self, qkv: Tensor, rotations: Array | None, cache: KVCache) -> Tensor:
        """Adds the rows' keys and values to the cache and attends to all of it.  qkv: (rows, E) -> (rows, H D)"""
        heads = self.heads
        y = empty((len(qkv.data), heads["H"] * heads["D"]), qkv.dtype)
        pages: dict[str, Any] = {
            "qkv": qkv.data,
            "k_pages": cache.k_pages[self.layer],
            "v_pages": cache.v_pages[self.layer],
            "query_offsets": cache.query_offsets,
            "lengths": cache.lengths,
            "page_table": cache.page_table,
            "rotations": rotations,
        }
        kernels.kv_cache_write(**pages, H=heads["H"], G=heads["G"], D=heads["D"])
        kernels.attention_paged(y=y, **pages, **heads)
        return Tensor(y)


class FeedForward:
    """The MLP, with a gate or without."""

    def __init__(self, config: ModelConfig, parameters: Parameters, layer: int) -> None:
        name = f"blocks.{layer}.mlp"
        self.gate = _linear_of(parameters, f"{name}.gate") if config.gated_mlp else None
        self.up, self.down = _linear_of(parameters, f"{name}.up"), _linear_of(parameters, f"{name}.down")
        self.activation = ACTIVATIONS[config.activation]

    def __call__(self, x: Tensor, residual: Tensor | None) -> Tensor:
        if self.gate is None:
            return MLP.apply(x, *self.up, *self.down, residual, activation=self.activation)
        return GatedMLP.apply(x, *self.gate, *self.up, *self.down, residual, activation=self.activation)


class Block:
    """x + attention(norm(x)), then x + mlp(norm(x)); the residual add rides on the output projections."""

    def __init__(self, config: ModelConfig, parameters: Parameters, layer: int) -> None:
        self.attention_norm = Norm(config, parameters, f"blocks.{layer}.attention_norm")
        self.attention = SelfAttention(config, parameters, layer)
        self.mlp_norm = Norm(config, parameters, f"blocks.{layer}.mlp_norm")
        self.mlp = FeedForward(config, parameters, layer)
        self.streams = (2 * layer + 1, 2 * layer + 2)

    def __call__(
        self,
        x: Tensor,
        rotations: Array | None,
        cache: KVCache | None,
        dropout: DropoutState,
        run: Callable[..., Tensor] = call,  # or recompute: of what is wide and cheap to compute again
    ) -> Tensor:
        if dropout.active:
            x = dropout(self.attention(run(self._qkv, x), rotations, cache, None), x, self.streams[0])
            return dropout(run(self._mlp, x, None), x, self.streams[1])
        x = self.attention(run(self._qkv, x), rotations, cache, residual=x)
        return run(self._mlp, x, x)

    def _qkv(self, x: Tensor) -> Tensor:
        return self.attention.project(self.attention_norm(x))

    def _mlp(self, x: Tensor, residual: Tensor | None) -> Tensor:
        return self.mlp(self.mlp_norm(x), residual)


class Decoder:
    """A model's parameters and its forward pass. Starts with zeros in the weights: initialise() or load them. Or with
    those given: the flat buffer of an arena of its parameters.

    Two attributes trade training's time and precision for memory: `recompute` says what the backward pass computes
    again instead of finding it kept ("none", "mlp": norms and MLPs, "block": everything but the blocks' inputs; with
    float32 activations the bits stay the same), `activation_dtype` what the rest is kept as ("float32" or
    "bfloat16")."""

    def __init__(self, config: ModelConfig, dtype: np.dtype[Any] = FLOAT32, *, weights: Array | None = None) -> None:
        self.config = config
        self.parameters = ParameterArena(parameter_specs(config), dtype, weights)
        self.dropout = DropoutState(config.dropout)
        self.recompute: Recomputation = "none"
        self.activation_dtype: ActivationDType = "float32"
        self.token_embedding = self.parameters["token_embedding"]
        self.position_embedding = self.parameters.get("position_embedding")
        self.rotations = Rotations(config, self.parameters.dtype) if config.position == "rope" else None
        self.blocks = [Block(config, self.parameters, i) for i in range(config.n_layers)]
        self.norm = Norm(config, self.parameters, "norm")
        self.head = self.token_embedding if config.tied_head else self.parameters["head"]

    def initialise(self, seed: int) -> Decoder:
        """Draws the starting weights; the same seed gives the same ones."""
        self.parameters.initialise(seed)
        return self

    def hidden(self, tokens: Array, cache: KVCache | None = None) -> Tensor:
        """The last norm's output: what the head reads.

        tokens: (B, T) int32 -> (B, T, C); with a cache that has been extended for them: (rows,) -> (rows, C).
        Raises ShapeError for more tokens than the context, KernelError for a token id outside of the vocabulary,
        ConfigError for an unknown value of `recompute`."""
        if self.recompute not in get_args(Recomputation):
            raise ConfigError(
                f"recompute is {self.recompute!r}; it must be one of {', '.join(get_args(Recomputation))}"
            )
        if cache is None and (tokens.ndim != 2 or tokens.shape[1] > self.config.context):
            raise ShapeError(
                f"tokens have shape {tokens.shape}; it must be (B, T), T at most the context ({self.config.context})"
            )
        tokens = np.ascontiguousarray(tokens, dtype=np.int32)
        if cache is None:
            positions = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape).copy()
        else:
            positions = cache.positions
        n_positions = tokens.shape[1] if cache is None else int(positions.max(initial=0)) + 1
        rotations = self.rotations(n_positions) if self.rotations else None
        learned = None if self.position_embedding is None else positions
        x = Embedding.apply(self.token_embedding, self.position_embedding, tokens=tokens, positions=learned)
        if self.dropout.active:
            x = self.dropout(x, None, 0)
        dropout = copy(self.dropout)  # a second forward draws the same masks
        for block in self.blocks:
            if self.recompute == "block":
                x = recompute(partial(block, rotations=rotations, cache=cache, dropout=dropout), x)
            else:
                x = block(x, rotations, cache, dropout, recompute if self.recompute == "mlp" else call)
        return self.norm(x)

    def loss(
        self, tokens: Array, targets: Array, *, denominator: float | None = None, ignore_index: int = -1
    ) -> Tensor:
        """Mean cross-entropy of the next token, as a scalar tensor to call backward() on.

        tokens, targets: (B, T) int32; targets equal to ignore_index count nothing; `denominator` replaces the number
        of targets that the sum is divided by, where a batch is one of several that are accumulated."""
        with activations_as(self.activation_dtype):
            x = self.hidden(tokens)
        return cross_entropy(x, self.head, targets, denominator=denominator, ignore_index=ignore_index)

    def logits(self, tokens: Array) -> Array:
        """(B, T) int32 -> (B, T, V) of the model's dtype"""
        with no_grad():
            return linear(self.hidden(tokens), self.head).data

    def next_logits(self, tokens: Array, cache: KVCache) -> Array:
        """The logits after each sequence's last new token.  tokens: (rows,) int32 -> (S, V); see KVCache.extend

        Raises ShapeError where a sequence has no new token."""
        if (np.diff(cache.query_offsets) == 0).any():
            raise ShapeError(f"new tokens begin at {cache.query_offsets.tolist()}; every sequence needs at least one")
        with no_grad():
            last = self.hidden(tokens, cache).data[cache.query_offsets[1:] - 1]
            return linear(Tensor(np.ascontiguousarray(last)), self.head).data
