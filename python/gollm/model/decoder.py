"""The decoder: one configurable transformer for the GPT-2 and LLaMA families.

    x = token_embedding[tokens] (+ position_embedding[positions])
    for each block:  x = x + attention(norm(x));  x = x + mlp(norm(x))
    logits = norm(x) @ head.T

GPT-2 (Radford et al. 2019) learns an embedding of each position and has LayerNorm and an MLP with GELU; LLaMA (Touvron
et al. 2023) turns queries and keys by their positions and has RMSNorm, grouped key/value heads and SwiGLU.

Shapes: B sequences of T tokens, or N rows in a cache: `...` stands for either; C = d_model, V = vocab_size.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from copy import copy
from functools import partial
from typing import Any, Literal, get_args

import numpy as np

from gollm.errors import ConfigError, ShapeError
from gollm.kernels import Array, Kernels
from gollm.model.batch import Batch
from gollm.model.config import ModelConfig
from gollm.model.layers import AdapterRows, Block, Dropout, Embedding, Norm
from gollm.model.rope import Rotations
from gollm.nn import dtypes, ops
from gollm.nn.dtypes import DType
from gollm.nn.parameters import Module, ParameterArena
from gollm.nn.recompute import call, recompute
from gollm.nn.tape import ActivationDType, ComputeDType, activations_as, no_grad, products_in
from gollm.nn.tensor import FLOAT32, Tensor
from gollm.system.strict_json import shorten

Recomputation = Literal["none", "mlp", "block"]


class Decoder(Module):
    """A model's parameters and its forward pass. The weights are zeros at first, which take memory when they are first
    used: initialise() or load them. Or they are given: the flat buffer of an arena of its parameters.

    Two attributes trade training's time and precision for memory: `recompute` says what the backward pass computes
    again instead of finding it kept ("none", "mlp": norms and MLPs, "block": everything but the blocks' inputs; with
    float32 activations the bits stay the same), `activation_dtype` what the rest is kept as ("float32" or
    "bfloat16"). A third, `compute_dtype`, trades precision for speed: what the operands of products are rounded to
    ("float32" or "bfloat16"), forward and backward, in training and out of it."""

    def __init__(self, config: ModelConfig, dtype: np.dtype[Any] = FLOAT32, *, weights: Array | None = None) -> None:
        if not isinstance(config, ModelConfig):
            raise ConfigError(f"the configuration is {shorten(config)}; it must be a gollm.ModelConfig")
        self.config = config
        self.token_embedding = Embedding(config.vocab_size, config.d_model, split_axis=0)
        self.position_embedding = Embedding(config.context, config.d_model) if config.position == "learned" else None
        self.blocks = [Block(config, layer) for layer in range(config.n_layers)]
        self.norm = Norm(config)
        tied = config.tied_head and not config.labels
        rows = len(config.labels) if config.labels else config.vocab_size
        self.head = self.token_embedding if tied else Embedding(rows, config.d_model, split_axis=0)
        self.parameters = ParameterArena(self.named_parameters(), dtype, weights)
        self.rotations = Rotations(config, self.parameters.dtype) if config.position == "rope" else None
        self.dropout = Dropout(config.dropout)
        self.adapter_rows = AdapterRows()
        self.recompute: Recomputation = "none"
        self.activation_dtype: ActivationDType = "float32"
        self.compute_dtype: ComputeDType = "float32"

    def __repr__(self) -> str:
        return f"Decoder({self.summary()})"

    def summary(self) -> str:
        """Its size in the words of a configuration: "n_layers=4, ..., parameters=809,984"."""
        shown = (f"{name}={getattr(self.config, name)}" for name in ("n_layers", "n_heads", "d_model", "context"))
        return f"{', '.join(shown)}, vocab_size={self.config.vocab_size}, parameters={self.parameters.n_parameters:,}"

    def initialise(self, seed: int) -> Decoder:
        """Draws the starting weights; the same seed gives the same ones."""
        self.parameters.initialise(seed)
        return self

    def to(self, kernels: Kernels, dtype: DType = dtypes.float32, *, masters: bool = True) -> Decoder:
        """Moves the model to a device, before it is trained. With bfloat16 (not on the CPU) activations and the weights
        that kernels read are that; those that are trained stay float32 beside them, unless `masters` is False.

        Raises DTypeError for bfloat16 with quantised weights, which compute in float32."""
        self.parameters.to(kernels, dtype, masters=masters)
        if self.rotations is not None:
            self.rotations = Rotations(self.config, self.parameters.dtype, kernels, dtype)
        return self

    def hidden(self, batch: Batch) -> Tensor:
        """The last norm's output, which the head reads.  (...) tokens -> (..., C)

        Raises as residual_stream does."""
        (last,) = deque(self.residual_stream(batch), maxlen=1)
        return self.norm(last)

    def residual_stream(self, batch: Batch) -> Iterator[Tensor]:
        """What the blocks read and write: the embedded tokens, then the output of each block, one after the other.
        (...) tokens -> n_layers + 1 times (..., C)

        Raises ShapeError for more tokens than the context, KernelError for a token id outside the vocabulary,
        ConfigError for an unknown value of `recompute`."""
        if self.recompute not in get_args(Recomputation):
            raise ConfigError(
                f"recompute is {self.recompute!r}; it must be one of {', '.join(get_args(Recomputation))}"
            )
        if batch.n_positions > self.config.context:
            raise ShapeError(
                f"tokens have shape {batch.tokens.shape}; it must be (B, T), T at most the context "
                f"({self.config.context})"
            )
        batch = batch.on(self.parameters.kernels)
        self.adapter_rows.runs = batch.adapters
        rotations = self.rotations(min(batch.capacity, self.config.context)) if self.rotations else None
        positions = None if self.position_embedding is None else batch.positions
        x = ops.embedding(self.token_embedding, self.position_embedding, tokens=batch.tokens, positions=positions)
        if self.dropout.active:
            x = self.dropout(x, None, 0)
        yield x
        dropout = copy(self.dropout)  # a second forward draws the same masks
        for block in self.blocks:
            if self.recompute == "block":
                x = recompute(partial(block, batch=batch, rotations=rotations, dropout=dropout), x)
            else:
                x = block(x, batch, rotations, dropout, recompute if self.recompute == "mlp" else call)
            yield x

    def loss(
        self,
        tokens: Array,
        targets: Array,
        *,
        denominator: Array | float | None = None,
        losses: Array | None = None,
    ) -> Tensor:
        """Mean cross-entropy of the next token, as a scalar tensor to call backward() on.

        tokens, targets: (B, T) int32; targets of -1 count nothing. `denominator` replaces the number of targets that
        the sum is divided by, where a batch is one of several that are accumulated; `losses` receives the loss of each
        target: see gollm.nn.ops.cross_entropy."""
        with products_in(self.compute_dtype):
            with activations_as(self.activation_dtype):
                x = self.hidden(Batch.of_sequences(tokens))
            return ops.cross_entropy(x, self.head, targets, denominator=denominator, losses=losses)

    def logits(self, tokens: Array) -> Array:
        """(B, T) int32 -> (B, T, V) of the model's dtype"""
        with no_grad(), products_in(self.compute_dtype):
            return ops.linear(self.hidden(Batch.of_sequences(tokens)), self.head).data

    def head_logits(self, hidden: Tensor, rows: Sequence[int] | Array) -> Tensor:
        """The logits of some rows of the last norm's output.  (..., C), R numbers of its rows -> (R, V)"""
        with no_grad(), products_in(self.compute_dtype):
            table = Tensor(hidden.computed().reshape((-1, self.config.d_model)))
            tokens = self.parameters.kernels.from_host(np.asarray(rows, np.int32))
            return ops.linear(ops.embedding(table, None, tokens=tokens, positions=None), self.head)

    def cached_logits(self, batch: Batch, rows: Sequence[int] | Array | None = None) -> Tensor:
        """The logits of some of a cached batch's N rows, or of each.  -> (R, V) or (N, V)

        Without `rows` all of it is kernels, as a plan records them."""
        with no_grad(), products_in(self.compute_dtype):
            hidden = self.hidden(batch)
            if rows is None:
                return ops.linear(hidden, self.head)
            return self.head_logits(hidden, rows)

    def next_logits(self, batch: Batch) -> Array:
        """The logits after the last new token of each of S cached sequences.  -> (S, V)

        Raises ShapeError where a sequence has no new token."""
        assert batch.cache is not None
        offsets = batch.cache.query_offsets
        if (np.diff(offsets) == 0).any():
            raise ShapeError(f"new tokens begin at {offsets.tolist()}; every sequence needs at least one")
        return self.cached_logits(batch, offsets[1:] - 1).data
