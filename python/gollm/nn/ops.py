"""The differentiable operations: forward beside backward, each a call of a kernel whose header (csrc/*.c) states the
mathematics. A class has the two passes over storages; the function behind it runs the operation on tensors.

Shapes: B sequences of T tokens, C = d_model, H heads and G key/value heads of D values, V tokens in the vocabulary.
A leading `...` is any number of axes. Inputs are storages, float32 or float64, on a GPU float32 or bfloat16; tokens,
targets and positions are int32 arrays of the same device.
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np

from gollm.errors import GollmError, ShapeError
from gollm.kernels import Array
from gollm.nn import dtypes, products
from gollm.nn.storage import Storage
from gollm.nn.tape import Destinations, Kept, Op
from gollm.nn.tensor import Tensor

# enum gollm_activation of gollm.h
ACTIVATIONS = {"gelu_tanh": 1, "gelu": 2, "relu": 3, "silu": 4}

# enum gollm_preference
PREFERENCES = {"dpo": 0, "ipo": 1}

IGNORE_INDEX = -1  # a target that does not count


class Heads(TypedDict):
    """How a row of q, k and v is cut into heads, as the attention kernels take it."""

    H: int
    G: int
    D: int
    scale: float
    window: int  # the last tokens that each attends to; 0: all of them


class Pages(TypedDict):
    """Where the keys and values of one layer lie, as the kernels take it (csrc/attention_paged.c): S sequences, each in
    pages of Z tokens."""

    k_pages: Storage  # (pages, G, D, Z)
    v_pages: Storage  # (pages, G, Z, D)
    page_table: Array  # (S, L) int32: the pages of each sequence
    lengths: Array  # (S) int32: its tokens, the new ones included
    query_offsets: Array  # (S + 1) int32: where its rows begin


class _Embedding(Op):
    """y = token_table[tokens] (+ position_table[positions]).  (V, C), (P, C) or None, tokens (...) -> (..., C)"""

    def forward(
        self, token_table: Storage, position_table: Storage | None, *, tokens: Array, positions: Array | None
    ) -> Storage:
        y = token_table.new((*tokens.shape, token_table.shape[1]))
        products.embedding_forward(y, token_table, tokens=tokens, positions=positions, position_table=position_table)
        self.save(tokens, positions)
        return y

    def backward(self, dy: Storage, into: Destinations) -> None:
        tokens, positions = self.saved
        self.kernels.embedding_backward(
            dtoken_table=into[0], dposition_table=into[1], dy=dy, tokens=tokens, positions=positions
        )


embedding = _Embedding.apply


class _LayerNorm(Op):
    """y = (x - mean(x)) / sqrt(var(x) + eps) * w + b over the last axis.  x: (..., C), w, b: (C) -> (..., C)"""

    def forward(self, x: Storage, w: Storage, b: Storage | None, *, eps: float) -> Storage:
        y = x.new(x.shape)
        mean, rstd = (x.new_wide(x.shape[:-1]), x.new_wide(x.shape[:-1])) if self.recording else (None, None)
        self.kernels.layernorm_forward(y=y, mean=mean, rstd=rstd, x=x, w=w, b=b, eps=eps)
        self.save(self.keep(x), w, mean, rstd)
        return y

    def backward(self, dy: Storage, into: Destinations) -> None:
        x, w, mean, rstd = self.saved
        self.kernels.layernorm_backward(
            dx=into[0], dw=into[1], db=into[2], dy=dy, x=x.wide(), w=w, mean=mean, rstd=rstd
        )


layernorm = _LayerNorm.apply


class _RMSNorm(Op):
    """y = x / sqrt(mean(x²) + eps) * w over the last axis.  x: (..., C), w: (C) -> (..., C)"""

    def forward(self, x: Storage, w: Storage, *, eps: float) -> Storage:
        y = x.new(x.shape)
        r = x.new_wide(x.shape[:-1]) if self.recording else None
        self.kernels.rmsnorm_forward(y=y, r=r, x=x, w=w, eps=eps)
        self.save(self.keep(x), w, r)
        return y

    def backward(self, dy: Storage, into: Destinations) -> None:
        x, w, r = self.saved
        self.kernels.rmsnorm_backward(dx=into[0], dw=into[1], dy=dy, x=x.wide(), w=w, r=r)


rmsnorm = _RMSNorm.apply


class _Linear(Op):
    """y = x wᵀ + b + residual.  x: (..., I), w: (O, I), b: (O), residual: (..., O) -> (..., O)"""

    def forward(self, x: Storage, w: Storage, b: Storage | None, residual: Storage | None) -> Storage:
        y = products.output_of(x, w)
        self.compute(products.product, y, x, w, compute=self.compute_as, bias=b, residual=residual)
        self.save(self.keep(x), w)
        return y

    def backward(self, dy: Storage, into: Destinations) -> None:
        x, w = self.saved
        _linear_backward(self.compute_as, dy, x, w, into, 0, 1, 2)
        into.pass_on(3, dy)


def linear(x: Tensor, w: Tensor, b: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
    """x wᵀ + b + residual, by the kernel for w's dtype and layout.  x: (..., I), w: (O, I) -> (..., O)"""
    return _Linear.apply(x, w, b, residual)


class _MLP(Op):
    """y = activation(x wuᵀ + bu) wdᵀ + bd + residual.  x, residual: (..., C), wu: (F, C), wd: (C, F) -> (..., C)"""

    def forward(
        self,
        x: Storage,
        wu: Storage,
        bu: Storage | None,
        wd: Storage,
        bd: Storage | None,
        residual: Storage | None,
        *,
        activation: int,
    ) -> Storage:
        h = products.output_of(x, wu)
        pre = h.new(h.shape) if self.recording else None
        products.product(h, x, wu, compute=self.compute_as, bias=bu, pre=pre, activation=activation)
        y = products.output_of(h, wd)
        self.compute(products.product, y, h, wd, compute=self.compute_as, bias=bd, residual=residual)
        if pre is not None:
            self.save(self.keep(x), wu, wd, self.keep(h), self.keep(pre), activation)
        return y

    def backward(self, dy: Storage, into: Destinations) -> None:
        x, wu, wd, h, pre, activation = self.saved
        products.weight_gradient(into[3], into[4], dy, h.wide(), compute=self.compute_as)
        dh = dy.new((*dy.shape[:-1], wu.shape[0]))
        products.input_gradient(dh, dy, wd, compute=self.compute_as, pre=pre.wide(), activation=activation)
        _linear_backward(self.compute_as, dh, x, wu, into, 0, 1, 2)
        into.pass_on(5, dy)


mlp = _MLP.apply


class _GatedMLP(Op):
    """y = (activation(x wgᵀ + bg) * (x wuᵀ + bu)) wdᵀ + bd + residual; with SiLU this is SwiGLU (Shazeer 2020).

    x, residual: (..., C), wg, wu: (F, C), wd: (C, F) -> (..., C). The input of wd is not kept: the kernel
    of its gradient computes it again."""

    def forward(
        self,
        x: Storage,
        wg: Storage,
        bg: Storage | None,
        wu: Storage,
        bu: Storage | None,
        wd: Storage,
        bd: Storage | None,
        residual: Storage | None,
        *,
        activation: int,
    ) -> Storage:
        up, h = products.output_of(x, wu), products.output_of(x, wg)
        gate = h.new(h.shape) if self.recording else None
        products.product(up, x, wu, compute=self.compute_as, bias=bu)
        products.product(h, x, wg, compute=self.compute_as, bias=bg, pre=gate, factor=up, activation=activation)
        y = products.output_of(h, wd)
        self.compute(products.product, y, h, wd, compute=self.compute_as, bias=bd, residual=residual)
        if gate is not None:
            self.save(self.keep(x), wg, wu, wd, self.keep(gate), self.keep(up), activation)
        return y

    def backward(self, dy: Storage, into: Destinations) -> None:
        x, wg, wu, wd, gate, up, activation = self.saved
        self.work = None  # if the output was never computed, free what it would be computed from
        dgate, dup, h = (dy.new((*dy.shape[:-1], wg.shape[0])) for _ in range(3))
        products.input_gradient(
            dgate,
            dy,
            wd,
            compute=self.compute_as,
            dfactor=dup,
            product=h,
            pre=gate.wide(),
            factor=up.wide(),
            activation=activation,
        )
        products.weight_gradient(into[5], into[6], dy, h, compute=self.compute_as)
        _linear_backward(self.compute_as, dgate, x, wg, into, 0, 1, 2)
        _linear_backward(self.compute_as, dup, x, wu, into, 0, 3, 4)
        into.pass_on(7, dy)


gated_mlp = _GatedMLP.apply


class _Attention(Op):
    """Causal multi-head attention softmax(scale q kᵀ) v, over the last `window` keys, with q and k turned by
    `rotations` (P, D) where there are any (gollm.model.rope).  qkv: (B, T, (H + 2G) D) -> (B, T, H D)"""

    def forward(self, qkv: Storage, *, rotations: Array | None, heads: Heads) -> Storage:
        if len(qkv.shape) != 3:
            raise ShapeError(f"qkv has shape {qkv.shape}; it must be (B, T, (H + 2G) D)")
        B, T, _ = qkv.shape
        y = qkv.new((B, T, heads["H"] * heads["D"]))
        lse = qkv.new_wide((B, heads["H"], T)) if self.recording else None
        self.kernels.attention_forward(y=y, lse=lse, qkv=qkv, rotations=rotations, **heads)
        self.save(self.keep(qkv), self.keep(y), lse, rotations, heads)
        return y

    def backward(self, dy: Storage, into: Destinations) -> None:
        qkv, y, lse, rotations, heads = self.saved
        self.kernels.attention_backward(
            dqkv=into[0], dy=dy, qkv=qkv.wide(), y=y.wide(), lse=lse, rotations=rotations, **heads
        )


attention = _Attention.apply


_OF_PAGES = {dtypes.bfloat16: "_bf16", dtypes.float16: "_f16"}  # the kernels for pages of these


class _CachedAttention(Op):
    """Adds the rows' keys and values to the pages, and attends to all of each sequence: where pages have the dtype of
    the model, the same bits as attention has for its last rows. There is no backward pass through the pages.
    qkv: (N, (H + 2G) D) -> (N, H D)"""

    def forward(self, qkv: Storage, *, rotations: Array | None, heads: Heads, pages: Pages) -> Storage:
        if self.recording:
            raise GollmError("there is no gradient through cached keys and values; use no_grad()")
        y = qkv.new((qkv.shape[0], heads["H"] * heads["D"]))
        shape = {name: heads[name] for name in ("H", "G", "D")}
        suffix = "" if pages["k_pages"].dtype is qkv.dtype else _OF_PAGES[pages["k_pages"].dtype]
        getattr(self.kernels, "kv_cache_write" + suffix)(qkv=qkv, rotations=rotations, **pages, **shape)
        getattr(self.kernels, "attention_paged" + suffix)(y=y, qkv=qkv, rotations=rotations, **pages, **heads)
        return y


cached_attention = _CachedAttention.apply


class _Dropout(Op):
    """y = x * mask / (1 - p) + residual; the mask is a function of seed, stream, counter and position.  (...) ->
    (...)

    The counter is read when a kernel runs: it must not change between forward and backward."""

    reads_inputs = False

    def forward(
        self, x: Storage, residual: Storage | None, *, p: float, seed: int, stream: int, counter: Array
    ) -> Storage:
        y = x.new(x.shape)
        counter = self.kernels.from_host(counter)
        self.compute(
            self.kernels.dropout_forward, y=y, x=x, residual=residual, counter=counter, p=p, seed=seed, stream=stream
        )
        self.save(p, seed, stream, counter)
        return y

    def backward(self, dy: Storage, into: Destinations) -> None:
        p, seed, stream, counter = self.saved
        self.kernels.dropout_backward(dx=into[0], dy=dy, counter=counter, p=p, seed=seed, stream=stream)
        into.pass_on(1, dy)


dropout = _Dropout.apply


class _Add(Op):
    """y = a + b.  (...), (...) -> (...)"""

    reads_inputs = False

    def forward(self, a: Storage, b: Storage) -> Storage:
        y = a.new(a.shape)
        self.compute(self.kernels.add, c=y, a=a, b=b)
        return y

    def backward(self, dy: Storage, into: Destinations) -> None:
        into.pass_on(1, dy)
        into.pass_on(0, dy)


add = _Add.apply


class _Activation(Op):
    """y = activation(x), elementwise.  (...) -> (...)"""

    def forward(self, x: Storage, *, kind: int) -> Storage:
        y = x.new(x.shape)
        self.kernels.activation_forward(y=y, x=x, kind=kind)
        self.save(self.keep(x), kind)
        return y

    def backward(self, dy: Storage, into: Destinations) -> None:
        x, kind = self.saved
        self.kernels.activation_backward(dx=into[0], dy=dy, x=x.wide(), kind=kind)


def activation(x: Tensor, *, kind: int) -> Tensor:
    """An activation, elementwise: `kind` is a value of ACTIVATIONS.  (...) -> (...)"""
    return _Activation.apply(x, kind=kind)


class _Gate(Op):
    """y = activation(gate) * up, elementwise: a gated MLP whose products have adapters.  (...), (...) -> (...)"""

    def forward(self, gate: Storage, up: Storage, *, kind: int) -> Storage:
        y = gate.new(gate.shape)
        self.kernels.gate_forward(y=y, gate=gate, up=up, kind=kind)
        self.save(self.keep(gate), self.keep(up), kind)
        return y

    def backward(self, dy: Storage, into: Destinations) -> None:
        gate, up, kind = self.saved
        self.kernels.gate_backward(dgate=into[0], dup=into[1], dy=dy, gate=gate.wide(), up=up.wide(), kind=kind)


gate = _Gate.apply


class _Scale(Op):
    """y = factor * x.  (...) -> (...)"""

    def forward(self, x: Storage, *, factor: float) -> Storage:
        y = x.new(x.shape)
        self.kernels.scale(y=y, x=x, factor=factor)
        self.save(factor)
        return y

    def backward(self, dy: Storage, into: Destinations) -> None:
        (factor,) = self.saved
        self.kernels.scale(y=into[0], x=dy, factor=factor)


scale = _Scale.apply


class _Columns(Op):
    """A matrix of zeros but for some columns: part i stands from begins[i] on.  (..., N_i) each -> (..., width)"""

    def forward(self, *parts: Storage, begins: tuple[int, ...], width: int) -> Storage:
        y = parts[0].new((*parts[0].shape[:-1], width))
        for i, (part, begin) in enumerate(zip(parts, begins, strict=True)):
            self.kernels.columns_put(whole=(y, i > 0), part=part, begin=begin)
        self.save(begins)
        return y

    def backward(self, dy: Storage, into: Destinations) -> None:
        (begins,) = self.saved
        for i, begin in enumerate(begins):
            self.kernels.columns_take(part=into[i], whole=dy, begin=begin)


columns = _Columns.apply


class _Stack(Op):
    """Scalars as the values of one tensor of `shape`, in its order."""

    def forward(self, *scalars: Storage, shape: tuple[int, ...]) -> Storage:
        y = scalars[0].new(shape)
        for i, value in enumerate(scalars):
            self.kernels.columns_put(whole=(y.reshape((1, -1)), i > 0), part=value.reshape((1, 1)), begin=i)
        self.save()
        return y

    def backward(self, dy: Storage, into: Destinations) -> None:
        for i in range(len(self.inputs)):
            if (part := into[i]) is not None:
                value, accumulate = part
                whole = dy.reshape((1, -1))
                self.kernels.columns_take(part=(value.reshape((1, 1)), accumulate), whole=whole, begin=i)


stack = _Stack.apply


class _Rows(Op):
    """Row `index` of the first axis.  (B, ...) -> (1, ...)"""

    def forward(self, x: Storage, *, index: int) -> Storage:
        y = x.new((1, *x.shape[1:]))
        self.kernels.columns_take(part=y.reshape((1, -1)), whole=x.reshape((1, -1)), begin=index * y.array.size)
        self.save(index)
        return y

    def backward(self, dy: Storage, into: Destinations) -> None:
        (index,) = self.saved
        if (dx := into[0]) is not None:
            whole, accumulate = dx
            size = dy.array.size
            flat = whole.reshape((1, -1))
            self.kernels.columns_put(whole=(flat, accumulate), part=dy.reshape((1, -1)), begin=index * size)


row = _Rows.apply


class _Preference(Op):
    """The loss of preferring one answer of a pair to the other: csrc/preference.c. `losses` and `margins` receive those
    of each pair.  nll, reference: (P, 2) -> ()"""

    def forward(
        self,
        nll: Storage,
        *,
        reference: Array,
        denominator: Array,
        beta: float,
        kind: int,
        losses: Array,
        margins: Array,
    ) -> Storage:
        loss = nll.new(())
        reference, denominator = map(self.kernels.from_host, (reference, denominator))
        self.kernels.preference_forward(
            loss=loss.reshape(1),
            losses=losses,
            margins=margins,
            nll=nll,
            reference=reference,
            denominator=denominator,
            beta=beta,
            kind=kind,
        )
        self.save(nll, reference, denominator, beta, kind)
        return loss

    def backward(self, dy: Storage, into: Destinations) -> None:
        nll, reference, denominator, beta, kind = self.saved
        self.kernels.preference_backward(
            dnll=into[0],
            dloss=dy.reshape(1),
            nll=nll,
            reference=reference,
            denominator=denominator,
            beta=beta,
            kind=kind,
        )


preference = _Preference.apply


class _Softmax(Op):
    """y = e^x / sum(e^x) over the last axis.  (..., C) -> (..., C)"""

    def forward(self, x: Storage) -> Storage:
        y = x.new(x.shape)
        self.kernels.softmax_forward(y=y, x=x)
        self.save(self.keep(y))
        return y

    def backward(self, dy: Storage, into: Destinations) -> None:
        (y,) = self.saved
        self.kernels.softmax_backward(dx=into[0], dy=dy, y=y.wide())


softmax = _Softmax.apply


class _CrossEntropyHead(Op):
    """loss = sum(losses) / denominator, losses = -log softmax(x wᵀ)[target], without ever holding all logits.
    x: (..., C), w: (V, C) -> ();  losses: (...), denominator: (1) float64, or None for the number of targets that count

    Loss and gradients share the logits, so that while recording, the value is postponed: backward() computes it along
    with the gradients in one pass; reading it earlier costs a pass of its own.
    """

    def forward(
        self,
        x: Storage,
        w: Storage,
        *,
        targets: Array,
        denominator: Array | None,
        ignore_index: int,
        losses: Array | None,
    ) -> Storage:
        if targets.shape != x.shape[:-1]:
            raise ShapeError(f"targets of shape {targets.shape} do not fit x of shape {x.shape}")
        loss = x.new_wide(())
        targets = self.kernels.from_host(targets)
        denominator = None if denominator is None else self.kernels.from_host(denominator)
        self.saved = (loss, x, w, targets, denominator, ignore_index, losses)
        if self.recording:
            self.postponed = True
        else:
            self.evaluate()
        return loss

    def evaluate(self) -> None:
        loss, x, w, targets, denominator, ignore_index, losses = self.saved
        products.head_forward(
            w,
            loss=loss.reshape(1),
            losses=x.new_wide(targets.shape) if losses is None else losses,
            x=x,
            targets=targets,
            denominator=denominator,
            ignore_index=ignore_index,
            compute=self.compute_as,
        )
        self.postponed = False

    def backward(self, dy: Storage, into: Destinations) -> None:
        loss, x, w, targets, denominator, ignore_index, losses = self.saved
        products.head_backward(
            w,
            loss=loss.reshape(1),
            losses=x.new_wide(targets.shape) if losses is None else losses,
            dx=into[0],
            dw=into[1],
            dloss=dy.reshape(1),
            x=x,
            targets=targets,
            denominator=denominator,
            ignore_index=ignore_index,
            compute=self.compute_as,
        )
        self.postponed = False


def _linear_backward(
    compute: int, dy: Storage, x: Kept, w: Storage, into: Destinations, ix: int, iw: int, ib: int
) -> None:
    """dx = dy w, dw = dyᵀ x, db = sum of dy's rows, for y = x wᵀ + b."""
    dw, db = into[iw], into[ib]
    if dw is not None or db is not None:
        products.weight_gradient(dw, db, dy, x.wide(), compute=compute)
    dx = into[ix]
    if dx is not None:
        products.input_gradient(dx, dy, w, compute=compute)


def cross_entropy(
    x: Tensor,
    w: Tensor,
    targets: Array,
    *,
    denominator: Array | float | None = None,
    ignore_index: int = IGNORE_INDEX,
    losses: Array | None = None,
) -> Tensor:
    """The loss of a language model's head: mean cross-entropy of softmax(x wᵀ) against targets (int32, shape of x
    less C).

    Targets equal to ignore_index count nothing. The mean is over the other targets, or over `denominator` of them
    where a batch is one of several that are accumulated: a number, or a (1,) float64 array that is read when the
    kernel runs, so that a plan's replays may change it. `losses`, of the targets' shape and x's dtype (float32 beside
    bfloat16), receives the loss of each target. Raises ShapeError, and KernelError for a target outside the vocabulary:
    on a GPU when the loss is read."""
    if isinstance(targets, np.ndarray):
        targets = np.ascontiguousarray(targets, dtype=np.int32)
    if isinstance(denominator, int | float):
        denominator = np.array([denominator], np.float64)
    return _CrossEntropyHead.apply(
        x, w, targets=targets, denominator=denominator, ignore_index=ignore_index, losses=losses
    )
