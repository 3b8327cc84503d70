"""The differentiable operations: forward beside backward, each a call of a kernel whose header (csrc/*.c) states the
mathematics.

Shapes: B sequences of T tokens, C = d_model, H heads and G key/value heads of D values, V tokens in the vocabulary.
A leading `...` is any number of axes. Tokens, targets and positions are int32 arrays, everything else float32 or
float64 tensors.
"""

from __future__ import annotations

from typing import Any, TypedDict

import numpy as np

from gollm import _native as kernels
from gollm.errors import ShapeError
from gollm.nn.tape import Destinations, Kept, Op
from gollm.nn.tensor import FLOAT32, FLOAT64, ROW_MAJOR, Array, Tensor, empty

# enum gollm_activation of gollm.h
ACTIVATIONS = {"gelu_tanh": 1, "gelu": 2, "relu": 3, "silu": 4}


class Heads(TypedDict):
    """How a row of q, k and v is cut into heads, as the attention kernels take it."""

    H: int
    G: int
    D: int
    scale: float
    window: int  # the last tokens that each attends to; 0: all


class Embedding(Op):
    """y = token_table[tokens] (+ position_table[positions]).  (V, C), (P, C) or None, tokens (...) -> (..., C)"""

    def forward(
        self, token_table: Array, position_table: Array | None, *, tokens: Array, positions: Array | None
    ) -> Array:
        y = empty((*tokens.shape, token_table.shape[1]), token_table.dtype)
        kernels.embedding_forward(
            y=y, tokens=tokens, token_table=token_table, positions=positions, position_table=position_table
        )
        self.save(tokens, positions)
        return y

    def backward(self, dy: Array, into: Destinations) -> None:
        tokens, positions = self.saved
        kernels.embedding_backward(
            dtoken_table=into[0], dposition_table=into[1], dy=dy, tokens=tokens, positions=positions
        )


class LayerNorm(Op):
    """y = (x - mean(x)) / sqrt(var(x) + eps) * w + b over the last axis.  x: (..., C), w, b: (C) -> (..., C)"""

    def forward(self, x: Array, w: Array, b: Array | None, *, eps: float) -> Array:
        y = empty(x.shape, x.dtype)
        mean = rstd = None
        if self.recording:
            mean, rstd = empty(x.shape[:-1], x.dtype), empty(x.shape[:-1], x.dtype)
        kernels.layernorm_forward(y=y, mean=mean, rstd=rstd, x=x, w=w, b=b, eps=eps)
        self.save(self.keep(x), w, mean, rstd)
        return y

    def backward(self, dy: Array, into: Destinations) -> None:
        x, w, mean, rstd = self.saved
        kernels.layernorm_backward(dx=into[0], dw=into[1], db=into[2], dy=dy, x=x.array(), w=w, mean=mean, rstd=rstd)


class RMSNorm(Op):
    """y = x / sqrt(mean(x²) + eps) * w over the last axis.  x: (..., C), w: (C) -> (..., C)"""

    def forward(self, x: Array, w: Array, *, eps: float) -> Array:
        y = empty(x.shape, x.dtype)
        r = empty(x.shape[:-1], x.dtype) if self.recording else None
        kernels.rmsnorm_forward(y=y, r=r, x=x, w=w, eps=eps)
        self.save(self.keep(x), w, r)
        return y

    def backward(self, dy: Array, into: Destinations) -> None:
        x, w, r = self.saved
        kernels.rmsnorm_backward(dx=into[0], dw=into[1], dy=dy, x=x.array(), w=w, r=r)


class Linear(Op):
    """y = x wᵀ + b + residual.  x: (..., I), w: (O, I), b: (O), residual: (..., O) -> (..., O)"""

    def forward(self, x: Array, w: Array, b: Array | None, residual: Array | None) -> Array:
        _check_linear(x, w)
        y = empty((*x.shape[:-1], w.shape[0]), x.dtype)
        self.compute(kernels.matmul_nt, c=y, a=x, b=w, bias=b, residual=residual, activation=0)
        self.save(self.keep(x), w)
        return y

    def backward(self, dy: Array, into: Destinations) -> None:
        x, w = self.saved
        _linear_backward(dy, x, w, into, 0, 1, 2)
        into.pass_on(3, dy)


class MLP(Op):
    """y = activation(x w1ᵀ + b1) w2ᵀ + b2 + residual.  x, residual: (..., C), w1: (F, C), w2: (C, F) -> (..., C)"""

    def forward(
        self,
        x: Array,
        w1: Array,
        b1: Array | None,
        w2: Array,
        b2: Array | None,
        residual: Array | None,
        *,
        activation: int,
    ) -> Array:
        _check_linear(x, w1)
        h = empty((*x.shape[:-1], w1.shape[0]), x.dtype)
        pre = empty(h.shape, x.dtype) if self.recording else None
        kernels.matmul_nt(c=h, a=x, b=w1, bias=b1, pre=pre, activation=activation)
        _check_linear(h, w2)
        y = empty((*x.shape[:-1], w2.shape[0]), x.dtype)
        self.compute(kernels.matmul_nt, c=y, a=h, b=w2, bias=b2, residual=residual, activation=0)
        if pre is not None:
            self.save(self.keep(x), w1, w2, self.keep(h), self.keep(pre), activation)
        return y

    def backward(self, dy: Array, into: Destinations) -> None:
        x, w1, w2, h, pre, activation = self.saved
        kernels.matmul_tn(c=into[3], a=dy, b=h.array(), a_sum=into[4])
        dh = empty((*dy.shape[:-1], w1.shape[0]), dy.dtype)
        kernels.matmul_nn(c=dh, a=dy, b=w2, pre=pre.array(), activation=activation)
        _linear_backward(dh, x, w1, into, 0, 1, 2)
        into.pass_on(5, dy)


class GatedMLP(Op):
    """y = (activation(x wgᵀ + bg) * (x wuᵀ + bu)) wdᵀ + bd + residual; with SiLU this is SwiGLU (Shazeer 2020).

    x, residual: (..., C), wg, wu: (F, C), wd: (C, F) -> (..., C). The product that wd meets is not kept: its gradient's
    kernel computes it again on the way."""

    def forward(
        self,
        x: Array,
        wg: Array,
        bg: Array | None,
        wu: Array,
        bu: Array | None,
        wd: Array,
        bd: Array | None,
        residual: Array | None,
        *,
        activation: int,
    ) -> Array:
        _check_linear(x, wg)
        _check_linear(x, wu)
        up, h = (empty((*x.shape[:-1], w.shape[0]), x.dtype) for w in (wu, wg))
        gate = empty(h.shape, x.dtype) if self.recording else None
        kernels.matmul_nt(c=up, a=x, b=wu, bias=bu, activation=0)
        kernels.matmul_nt(c=h, a=x, b=wg, bias=bg, pre=gate, factor=up, activation=activation)
        _check_linear(h, wd)
        y = empty((*x.shape[:-1], wd.shape[0]), x.dtype)
        self.compute(kernels.matmul_nt, c=y, a=h, b=wd, bias=bd, residual=residual, activation=0)
        if gate is not None:
            self.save(self.keep(x), wg, wu, wd, self.keep(gate), self.keep(up), activation)
        return y

    def backward(self, dy: Array, into: Destinations) -> None:
        x, wg, wu, wd, gate, up, activation = self.saved
        self.work = None  # where the output was never computed, what it needed goes
        dgate, dup, h = (empty((*dy.shape[:-1], wg.shape[0]), dy.dtype) for _ in range(3))
        kernels.matmul_nn(
            c=dgate, dfactor=dup, product=h, a=dy, b=wd, pre=gate.array(), factor=up.array(), activation=activation
        )
        kernels.matmul_tn(c=into[5], a=dy, b=h, a_sum=into[6])
        _linear_backward(dgate, x, wg, into, 0, 1, 2)
        _linear_backward(dup, x, wu, into, 0, 3, 4)
        into.pass_on(7, dy)


class Attention(Op):
    """Causal multi-head attention softmax(scale q kᵀ) v, over the last `window` keys, with q and k turned by
    `rotations` (P, D) where there are any (gollm.model.rope).  qkv: (B, T, (H + 2G) D) -> (B, T, H D)"""

    def forward(self, qkv: Array, *, rotations: Array | None, heads: Heads) -> Array:
        if qkv.ndim != 3:
            raise ShapeError(f"qkv has shape {qkv.shape}; it must be (B, T, (H + 2G) D)")
        B, T, _ = qkv.shape
        y = empty((B, T, heads["H"] * heads["D"]), qkv.dtype)
        lse = empty((B, heads["H"], T), qkv.dtype) if self.recording else None
        kernels.attention_forward(y=y, lse=lse, qkv=qkv, rotations=rotations, **heads)
        self.save(self.keep(qkv), self.keep(y), lse, rotations, heads)
        return y

    def backward(self, dy: Array, into: Destinations) -> None:
        qkv, y, lse, rotations, heads = self.saved
        kernels.attention_backward(
            dqkv=into[0], dy=dy, qkv=qkv.array(), y=y.array(), lse=lse, rotations=rotations, **heads
        )


class Dropout(Op):
    """y = x * mask / (1 - p) + residual; the mask is a function of seed, stream, counter and position.  (...) ->
    (...)

    The counter is read when a kernel runs: it must not change between forward and backward."""

    reads_inputs = False

    def forward(self, x: Array, residual: Array | None, *, p: float, seed: int, stream: int, counter: Array) -> Array:
        y = empty(x.shape, x.dtype)
        self.compute(
            kernels.dropout_forward, y=y, x=x, residual=residual, counter=counter, p=p, seed=seed, stream=stream
        )
        self.save(p, seed, stream, counter)
        return y

    def backward(self, dy: Array, into: Destinations) -> None:
        p, seed, stream, counter = self.saved
        kernels.dropout_backward(dx=into[0], dy=dy, counter=counter, p=p, seed=seed, stream=stream)
        into.pass_on(1, dy)


class Add(Op):
    """y = a + b.  (...), (...) -> (...)"""

    reads_inputs = False

    def forward(self, a: Array, b: Array) -> Array:
        y = empty(a.shape, a.dtype)
        self.compute(kernels.add, c=y, a=a, b=b)
        return y

    def backward(self, dy: Array, into: Destinations) -> None:
        into.pass_on(1, dy)
        into.pass_on(0, dy)


class Activation(Op):
    """y = activation(x), elementwise.  (...) -> (...)"""

    def forward(self, x: Array, *, kind: int) -> Array:
        y = empty(x.shape, x.dtype)
        kernels.activation_forward(y=y, x=x, kind=kind)
        self.save(self.keep(x), kind)
        return y

    def backward(self, dy: Array, into: Destinations) -> None:
        x, kind = self.saved
        kernels.activation_backward(dx=into[0], dy=dy, x=x.array(), kind=kind)


class Softmax(Op):
    """y = e^x / sum(e^x) over the last axis.  (..., C) -> (..., C)"""

    def forward(self, x: Array) -> Array:
        y = empty(x.shape, x.dtype)
        kernels.softmax_forward(y=y, x=x)
        self.save(self.keep(y))
        return y

    def backward(self, dy: Array, into: Destinations) -> None:
        (y,) = self.saved
        kernels.softmax_backward(dx=into[0], dy=dy, y=y.array())


class CrossEntropyHead(Op):
    """loss = -sum(log softmax(x wᵀ)[target]) / denominator, without ever holding all logits.  x: (..., C), w: (V, C)
    -> ()

    Loss and gradients share the logits, so that while recording, the value is postponed: backward() computes it along
    with the gradients in one pass; reading it earlier costs a pass of its own.
    """

    def forward(self, x: Array, w: Array, *, targets: Array, denominator: float, ignore_index: int) -> Array:
        if targets.shape != x.shape[:-1]:
            raise ShapeError(f"targets of shape {targets.shape} do not fit x of shape {x.shape}")
        loss = empty((), x.dtype)
        self.saved = (loss, x, w, targets, denominator, ignore_index)
        if self.recording:
            self.postponed = True
        else:
            self.evaluate()
        return loss

    def evaluate(self) -> None:
        loss, x, w, targets, denominator, ignore_index = self.saved
        kernels.head_forward(
            loss=loss.reshape(1),
            losses=empty(targets.shape, x.dtype),
            x=x,
            w=w,
            targets=targets,
            denominator=denominator,
            ignore_index=ignore_index,
        )
        self.postponed = False

    def backward(self, dy: Array, into: Destinations) -> None:
        loss, x, w, targets, denominator, ignore_index = self.saved
        kernels.head_backward(
            loss=loss.reshape(1),
            losses=empty(targets.shape, x.dtype),
            dx=into[0],
            dw=into[1],
            dloss=dy.reshape(1),
            x=x,
            w=w,
            targets=targets,
            denominator=denominator,
            ignore_index=ignore_index,
        )
        self.postponed = False


def _check_linear(x: Array, w: Array) -> None:
    if w.ndim != 2 or x.ndim < 1 or x.shape[-1] != w.shape[1]:
        raise ShapeError(f"x of shape {x.shape} does not fit w of shape {w.shape}: x's last axis must be w's last axis")


def _linear_backward(dy: Array, x: Kept, w: Array, into: Destinations, ix: int, iw: int, ib: int) -> None:
    """dx = dy w, dw = dyᵀ x, db = sum of dy's rows, for y = x wᵀ + b."""
    dw, db = into[iw], into[ib]
    if dw is not None or db is not None:
        kernels.matmul_tn(c=dw, a=dy, b=x.array(), a_sum=db)
    dx = into[ix]
    if dx is not None:
        kernels.matmul_nn(c=dx, a=dy, b=w, activation=0)


# What linear() does for a weight of each dtype and layout; a quantised weight is just a weight with another row here.
_LINEAR: dict[tuple[np.dtype[Any], str], type[Op]] = {
    (FLOAT32, ROW_MAJOR): Linear,
    (FLOAT64, ROW_MAJOR): Linear,
}


def linear(x: Tensor, w: Tensor, b: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
    """x wᵀ + b + residual, by the kernel for w's dtype and layout.  x: (..., I), w: (O, I) -> (..., O)"""
    op = _LINEAR.get((w.dtype, w.storage.layout))
    if op is None:
        raise ShapeError(f"linear: no kernel for weights of dtype {w.dtype} in layout '{w.storage.layout}'")
    return op.apply(x, w, b, residual)


def cross_entropy(
    x: Tensor, w: Tensor, targets: Array, *, denominator: float | None = None, ignore_index: int = -1
) -> Tensor:
    """The loss of a language model's head: mean cross-entropy of softmax(x wᵀ) against targets (int32, shape of x
    less C).

    Targets equal to ignore_index count nothing. The mean is over the other targets, or over `denominator` of them
    where a batch is one of several that are accumulated. Raises ShapeError, and KernelError for a target outside of
    the vocabulary."""
    targets = np.ascontiguousarray(targets, dtype=np.int32)
    return CrossEntropyHead.apply(x, w, targets=targets, denominator=denominator or 0.0, ignore_index=ignore_index)
