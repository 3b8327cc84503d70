"""The tape: gradients of every operation against central differences, accumulation, sharing, memory."""

import gc

import numpy as np
import pytest

from gollm import _native
from gollm.errors import DTypeError, GollmError, KernelError, ShapeError
from gollm.nn.ops import (
    ACTIVATIONS,
    PREFERENCES,
    activation,
    add,
    attention,
    columns,
    cross_entropy,
    dropout,
    embedding,
    gate,
    gated_mlp,
    layernorm,
    linear,
    mlp,
    preference,
    rmsnorm,
    row,
    scale,
    softmax,
    stack,
)
from gollm.nn.storage import Storage
from gollm.nn.tape import Op, no_grad
from gollm.nn.tensor import Tensor, tensor

TOKENS = np.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]], np.int32)
POSITIONS = np.broadcast_to(np.arange(5, dtype=np.int32), (2, 5)).copy()
TARGETS = np.array([[1, 4, -1, 5, 9], [2, 6, 5, 3, 5]], np.int32)
HEADS = {"H": 4, "G": 2, "D": 3, "scale": 3**-0.5, "window": 0}
EVEN_HEADS = {"H": 4, "G": 2, "D": 4, "scale": 0.5, "window": 3}
ANGLES = np.random.default_rng(1).uniform(-3, 3, (6, 2))
ROTATIONS = np.stack([np.cos(ANGLES), np.sin(ANGLES)], -1).reshape(6, 4)
COUNTER = np.array([5], np.int64)
REFERENCES = {t: np.random.default_rng(2).standard_normal((3, 2)).astype(t) for t in map(np.dtype, ("f4", "f8"))}
EACH = {dtype: np.empty((2, 3), dtype) for dtype in REFERENCES}
DENOMINATOR = np.array([4.0])


def preferred(nll, kind):
    how = {"denominator": DENOMINATOR, "beta": 0.7, "kind": kind}
    losses, margins = EACH[nll.dtype]
    loss = preference(nll, reference=REFERENCES[nll.dtype], losses=losses, margins=margins, **how)
    return stack(loss, shape=(1, 1))


# name -> (shapes of the leaves, the operation)
OPERATIONS = {
    "embedding": ([(10, 6), (7, 6)], lambda w, p: embedding(w, p, tokens=TOKENS, positions=POSITIONS)),
    "embedding without positions": ([(10, 6)], lambda w: embedding(w, None, tokens=TOKENS, positions=None)),
    "layernorm": ([(2, 5, 7), (7,), (7,)], lambda x, w, b: layernorm(x, w, b, eps=1e-5)),
    "layernorm without bias": ([(2, 5, 7), (7,)], lambda x, w: layernorm(x, w, None, eps=1e-5)),
    "linear": ([(2, 5, 7), (3, 7), (3,), (2, 5, 3)], lambda x, w, b, r: linear(x, w, b, r)),
    "linear without bias": ([(4, 7), (3, 7)], linear),
    **{
        f"mlp with {name}": (
            [(2, 5, 4), (9, 4), (9,), (4, 9), (4,), (2, 5, 4)],
            lambda x, w1, b1, w2, b2, r, kind=kind: mlp(x, w1, b1, w2, b2, r, activation=kind),
        )
        for name, kind in ACTIVATIONS.items()
    },
    **{
        f"gated mlp with {name}": (
            [(2, 5, 4), (9, 4), (9,), (9, 4), (9,), (4, 9), (4,), (2, 5, 4)],
            lambda *inputs, kind=kind: gated_mlp(*inputs, activation=kind),
        )
        for name, kind in ACTIVATIONS.items()
    },
    "gated mlp without biases": (
        [(2, 5, 4), (9, 4), (9, 4), (4, 9)],
        lambda x, wg, wu, wd: gated_mlp(x, wg, None, wu, None, wd, None, None, activation=4),
    ),
    "rmsnorm": ([(2, 5, 7), (7,)], lambda x, w: rmsnorm(x, w, eps=1e-5)),
    "attention": ([(2, 5, 24)], lambda qkv: attention(qkv, rotations=None, heads=HEADS)),
    "attention with rotations and a window": (
        [(2, 5, 32)],
        lambda qkv: attention(qkv, rotations=ROTATIONS.astype(qkv.dtype), heads=EVEN_HEADS),
    ),
    "dropout": ([(2, 5, 7)], lambda x: dropout(x, None, p=0.4, seed=1, stream=2, counter=COUNTER)),
    "dropout and residual": (
        [(2, 5, 7), (2, 5, 7)],
        lambda x, r: dropout(x, r, p=0.4, seed=1, stream=2, counter=COUNTER),
    ),
    "add": ([(3, 7), (3, 7)], add),
    **{name: ([(3, 7)], lambda x, kind=kind: activation(x, kind=kind)) for name, kind in ACTIVATIONS.items()},
    **{
        f"gate with {name}": ([(3, 7), (3, 7)], lambda g, u, k=k: gate(g, u, kind=k)) for name, k in ACTIVATIONS.items()
    },
    "scale": ([(3, 7)], lambda x: scale(x, factor=-1.5)),
    "columns": ([(3, 2), (3, 4)], lambda a, b: columns(a, b, begins=(6, 1), width=9)),
    "row": ([(3, 2, 4)], lambda x: row(x, index=1)),
    "stack": ([(), (), ()], lambda a, b, c: stack(a, b, c, a, shape=(2, 2))),
    "rows": ([(3, 2, 4)], lambda x: add(row(x, index=0), row(x, index=2))),
    **{
        f"preference, {name}": ([(3, 2)], lambda nll, kind=kind: preferred(nll, kind))
        for name, kind in PREFERENCES.items()
    },
    "softmax": ([(3, 7)], softmax),
    "a value used twice": ([(3, 7), (7, 7)], lambda x, w: add(linear(x, w), x)),
    "a value added to itself": ([(3, 7)], lambda x: add(x, x)),
    "a residual with two uses": (
        [(3, 7), (7, 7), (7, 7)],
        lambda x, w, v: linear(h := linear(x, w), v, None, add(h, x)),
    ),
    "one weight in two places": ([(3, 7), (7, 7)], lambda x, w: linear(linear(x, w), w)),
}
HEAD = np.random.default_rng(0).standard_normal((11, 1000))
TARGET = np.arange(1000, dtype=np.int32) % 11


def scalar(y: Tensor) -> Tensor:
    """A smooth scalar of all of y's elements: a cross-entropy over fixed random directions."""
    n = y.data.size
    flat = _Reshape.apply(y, shape=(1, n))
    return cross_entropy(flat, tensor(np.ascontiguousarray(HEAD[:, :n].astype(y.dtype))), TARGET[:1])


class _Reshape(Op):
    """(...) -> shape: only for these tests, which need a scalar of anything."""

    def forward(self, x, *, shape):
        return Storage(x.array.reshape(shape).copy())

    def backward(self, dy, into):
        into.pass_on(0, dy)


def leaves_of(shapes, dtype):
    rng = np.random.default_rng(3)
    return [tensor(rng.standard_normal(shape).astype(dtype), requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("name", OPERATIONS)
def test_gradients_match_central_differences(name):
    shapes, operation = OPERATIONS[name]
    leaves = leaves_of(shapes, np.float64)
    scalar(operation(*leaves)).backward()
    h = 1e-5
    for leaf in leaves:
        flat, gradient = leaf.data.reshape(-1), leaf.grad.reshape(-1)
        for i in range(0, flat.size, max(1, flat.size // 12)):
            before = flat[i]
            values = []
            for moved in (before + h, before - h):
                flat[i] = moved
                with no_grad():
                    values.append(scalar(operation(*leaves)).item())
            flat[i] = before
            # Truncation is O(h²) = 1e-10, rounding 1e-16 / h = 1e-11, times the curvature of these small functions.
            assert gradient[i] == pytest.approx((values[0] - values[1]) / (2 * h), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_second_backward_adds(name):
    shapes, operation = OPERATIONS[name]
    leaves = leaves_of(shapes, np.float32)
    scalar(operation(*leaves)).backward()
    once = [leaf.grad.copy() for leaf in leaves]
    scalar(operation(*leaves)).backward()
    for leaf, gradient in zip(leaves, once, strict=True):
        np.testing.assert_allclose(leaf.grad, 2 * gradient, rtol=1e-5, atol=1e-6)
    for leaf in leaves:
        leaf.zero_grad()
        assert leaf.grad is None


def test_an_activation_gradient_is_not_a_leafs():
    x, w = leaves_of([(3, 7), (7, 7)], np.float32)
    y = linear(x, w)
    scalar(y).backward()
    assert y.grad is None


def test_no_grad_records_nothing():
    x, w = leaves_of([(3, 7), (7, 7)], np.float32)
    with no_grad():
        y = linear(x, w)
    assert y.op is None
    assert not y.requires_grad
    with pytest.raises(GollmError, match="no_grad"):
        scalar(tensor(y.data)).backward()


def test_frozen_inputs_get_no_gradient():
    x, w = leaves_of([(3, 7), (7, 7)], np.float32)
    w.requires_grad = False
    scalar(linear(x, w)).backward()
    assert w.grad is None
    assert x.grad is not None


def test_the_postponed_loss_has_the_same_bits_whenever_it_is_read():
    x, w = leaves_of([(5, 7), (11, 7)], np.float32)
    early = cross_entropy(x, w, TARGET[:5])
    value = early.item()
    early.backward()
    late = cross_entropy(x, w, TARGET[:5])
    late.backward()
    assert early.item() == late.item() == value


def test_backward_runs_once():
    (x,) = leaves_of([(1, 7)], np.float32)
    loss = scalar(x)
    loss.backward()
    with pytest.raises(GollmError, match="already"):
        loss.backward()


def test_backward_wants_a_scalar():
    x, w = leaves_of([(3, 7), (7, 7)], np.float32)
    with pytest.raises(ShapeError, match=r"\(3, 7\)"):
        linear(x, w).backward()


def test_mistakes_name_the_operation_and_both_shapes():
    x, w = leaves_of([(2, 3, 8), (5, 7)], np.float32)
    with pytest.raises(ShapeError, match=r"Linear: x of shape \(2, 3, 8\) does not fit w of shape \(5, 7\)"):
        linear(x, w)
    with pytest.raises(ShapeError, match=r"LayerNorm: .*w has shape \(5, 7\).*x of shape \(2, 3, 8\)"):
        layernorm(x, w, None, eps=1e-5)
    with pytest.raises(ShapeError, match=r"qkv has shape \(5, 7\).*\(B, T"):
        attention(w, rotations=None, heads=HEADS)
    with pytest.raises(DTypeError, match=r"Add: .*float64.*float32"):
        add(x, tensor(np.zeros((2, 3, 8))))
    with pytest.raises(KernelError, match="embedding_forward"):
        embedding(w, None, tokens=np.array([5], np.int32), positions=None)


def test_nothing_is_left_for_the_garbage_collector():
    def step():
        leaves = leaves_of(OPERATIONS["a residual with two uses"][0], np.float32)
        scalar(OPERATIONS["a residual with two uses"][1](*leaves)).backward()

    step()
    gc.collect()
    gc.disable()
    try:
        before = _native.pool_statistics()["bytes_in_use"]
        step()
        assert _native.pool_statistics()["bytes_in_use"] == before
        assert gc.collect() == 0
    finally:
        gc.enable()
