"""Activation recomputation and bfloat16 activations: the same bits or nearly so, less memory, nothing done in vain."""

import gc
from collections import Counter
from functools import partial

import numpy as np
import pytest

from gollm import Plan, _native
from gollm.errors import ConfigError
from gollm.kernels import cpu
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder
from gollm.nn.ops import add, cross_entropy, dropout, layernorm, linear, mlp, softmax
from gollm.nn.optimizer import AdamW
from gollm.nn.recompute import recompute
from gollm.nn.tape import activations_as, no_grad
from gollm.nn.tensor import tensor
from gollm.training.objective import forward_backward

BASE = {"n_layers": 3, "n_heads": 4, "d_model": 32, "vocab_size": 61, "context": 48}
KINDS = {
    "gpt2": {},
    "grouped queries, untied, no bias": {"n_kv_heads": 2, "tied_head": False, "bias": False},
    "odd sizes, relu": {"n_heads": 3, "d_model": 21, "head_dim": 5, "d_ff": 19, "activation": "relu"},
    "dropout": {"dropout": 0.3},
    "llama": {"norm": "rmsnorm", "position": "rope", "gated_mlp": True, "activation": "silu", "bias": False},
}
MODES = ["mlp", "block"]


def make(kind, recompute="none", activation_dtype="float32", **changes):
    model = Decoder(ModelConfig(**{**BASE, **KINDS[kind], **changes})).initialise(1)
    model.recompute, model.activation_dtype = recompute, activation_dtype
    model.dropout.training = True
    return model


def batch(model, B=3, T=40):
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, (B, T + 1)).astype(np.int32)
    return np.ascontiguousarray(ids[:, :-1]), np.ascontiguousarray(ids[:, 1:])


def train(model, steps=3):
    """Losses and norms of a few steps of two micro-batches each, and the weights after them."""
    optimizer, (inputs, targets), seen = AdamW(model.parameters), batch(model), []
    for step in range(steps):
        model.parameters.zero_grad()
        for part in range(2):
            model.dropout.counter[0] = 2 * step + part
            loss = model.loss(inputs, targets, denominator=2 * inputs.size)
            loss.backward()
            seen.append(loss.item())
        seen.append(optimizer.step(1e-3))
    return seen, model.parameters.weights.copy()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_recomputation_does_not_change_a_bit(kind, mode):
    seen, weights = train(make(kind))
    before = _native.num_threads()
    try:
        for threads in (1, 2, 3):
            _native.set_num_threads(threads)
            again, same = train(make(kind, mode))
            assert again == seen
            np.testing.assert_array_equal(same, weights)
    finally:
        _native.set_num_threads(before)


@pytest.mark.parametrize("mode", MODES)
def test_the_masks_are_those_of_the_forward_pass(mode):
    """Whatever the caller has done to the model's dropout since."""
    gradients = []
    for recomputed in ("none", mode):
        model = make("dropout", recomputed)
        loss = model.loss(*batch(model))
        model.dropout.training, model.dropout.p = False, 0.9
        loss.backward()
        gradients.append(model.parameters.gradients.copy())
    np.testing.assert_array_equal(*gradients)


def kept_bytes(model):
    """What the tape holds between forward and backward."""
    gc.collect()  # former models
    _native.release_pool()  # and their buffers, of other sizes
    inputs, targets = batch(model, 8)
    with no_grad():
        model.loss(inputs, targets)
    before = _native.pool_statistics()["bytes_in_use"]
    loss = model.loss(inputs, targets)
    after = _native.pool_statistics()["bytes_in_use"]
    loss.backward()
    return after - before


@pytest.mark.parametrize("kind", ["gpt2", "dropout"])
def test_memory_between_forward_and_backward(kind):
    """Of a block, by token, in widths C: input 1, norm 1, q, k, v 3, attention 1, their sum 1, norm 1, MLP 4 + 4, and
    the few numbers of norms and attention; with mlp all but norms and MLP, with block the input alone."""
    shape = {"d_model": 128, "n_heads": 1, "n_layers": 6}
    C, L, N = 128, 6, 8 * 40
    for width, mode in [(16 + 5 / C, "none"), (6 + 1 / C, "mlp"), (1, "block")]:
        blocks = width * C * L * N
        rest = (1 + 2 / C + 1) * C * N  # the last norm's input, two numbers, and its output
        assert kept_bytes(make(kind, mode, **shape)) == pytest.approx(4 * (blocks + rest), rel=0.03)
        narrow = 2 * (blocks + rest) + 2 * C * N  # the head's input stays as it is
        assert kept_bytes(make(kind, mode, "bfloat16", **shape)) == pytest.approx(narrow, rel=0.03)


def counted(monkeypatch):
    """Calls of each kernel by the tape and its operations from now on."""
    calls = Counter()

    def counting(name):
        def call(**arguments):
            calls[name] += 1
            getattr(_native, name)(**arguments)

        return call

    for name in _native.contracts():
        monkeypatch.setattr(cpu, name, counting(name))
    return calls


@pytest.mark.parametrize("kind", ["gpt2", "dropout"])
@pytest.mark.parametrize(("mode", "products"), [("none", 0), ("mlp", 1), ("block", 3)])
def test_nothing_is_computed_again_in_vain(kind, mode, products, monkeypatch):
    """Forward there are four products a block: q, k, v; attention's output; up; down. Not again: by mlp, what the norms
    go into, but for up, whose activation is needed; by block, down, dropout behind it included."""
    model = make(kind, mode)
    calls = counted(monkeypatch)
    loss = model.loss(*batch(model))
    assert calls["matmul_nt"] == 4 * 3
    calls.clear()
    loss.backward()
    assert calls["matmul_nt"] == products * 3
    assert calls["attention_forward"] == (3 if mode == "block" else 0)
    assert calls["dropout_forward"] == (3 if mode == "block" and kind == "dropout" else 0)


@pytest.mark.parametrize("mode", ["none", *MODES])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_recorded_step_has_the_same_bits(mode, dtype):
    """Steps of two micro-batches with dropout, replayed: the second forward and what is kept narrow are in the plan."""
    weights = []
    for wrap in (lambda function: function, Plan):
        model, counters = make("dropout", mode, dtype), np.zeros(2, np.int64)
        optimizer, gradients = AdamW(model.parameters), wrap(partial(forward_backward, model, counters))
        inputs, targets = (np.stack([a, a[::-1]]) for a in batch(model))
        for step in range(4):
            counters[:] = 2 * step, 2 * step + 1
            gradients(inputs, targets)
            optimizer.step(1e-2)
        weights.append(model.parameters.weights)
    np.testing.assert_array_equal(*weights)


def leaves(*shapes):
    rng = np.random.default_rng(3)
    return [tensor(rng.standard_normal(shape).astype(np.float32), requires_grad=True) for shape in shapes]


def gradients_of(function, inputs, parameters=()):
    targets = np.arange(5, dtype=np.int32)
    loss = cross_entropy(function(*inputs), tensor(np.eye(7, dtype=np.float32)), targets)
    loss.backward()
    results = [loss.item()] + [t.grad for t in [*inputs, *parameters] if t is not None]
    for t in [*inputs, *parameters]:
        if t is not None:
            t.zero_grad()
    return [None if result is None else np.array(result) for result in results]


COUNTER = np.array([5], np.int64)
W = leaves((7, 7), (7, 7), (7,))
FUNCTIONS = {
    "a leaf as input": lambda x, w: softmax(linear(x, w)),
    "a value in the middle": lambda x, w: linear(layernorm(linear(x, w), W[2], None, eps=1e-5), W[1]),
    "an input used three times": lambda x, w: add(linear(x, W[0], None, x), x),
    "its own input": lambda x, w: x,
    "a chain that needs no inputs": lambda x, w: add(
        dropout(linear(x, w), None, p=0.4, seed=1, stream=2, counter=COUNTER), x
    ),
    "an output that is read": lambda x, w: linear(
        add(dropout(linear(x, w), x, p=0.4, seed=1, stream=2, counter=COUNTER), x), W[1]
    ),
    "an MLP": lambda x, w: mlp(x, w, None, W[1], W[2], x, activation=1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_any_function(name):
    """Once, of a value that is used elsewhere too, and within each other."""
    function = FUNCTIONS[name]
    x, w = leaves((5, 7), (7, 7))

    def shared(run):
        def both(x, w):
            h = linear(x, w)
            return add(run(function, h, w), h)

        return both

    def again(x, w):
        return recompute(function, x, w)

    for plain, second in [
        (function, again),
        (shared(lambda f, *inputs: f(*inputs)), shared(recompute)),
        (function, lambda x, w: recompute(again, x, w)),
        (lambda x, w: function(function(x, w), w), lambda x, w: recompute(lambda x, w: again(again(x, w), w), x, w)),
    ]:
        for want, got in zip(gradients_of(plain, [x, w], W), gradients_of(second, [x, w], W), strict=True):
            np.testing.assert_array_equal(got, want)


def test_inputs_without_gradient():
    """None, and a tensor that wants none: the parameters inside get theirs all the same."""
    x, w = leaves((5, 7), (7, 7))
    x.requires_grad = False
    want = gradients_of(lambda x: linear(x, w), [x], [w])
    got = gradients_of(lambda x, b: recompute(lambda x, b: linear(x, w, b), x, b), [x, None], [w])
    assert want[1] is None and got[1] is None
    np.testing.assert_array_equal(got[2], want[2])
    with no_grad():
        assert recompute(lambda x: linear(x, w), x).op is None


@pytest.mark.parametrize("mode", ["none", *MODES])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_steady_step_allocates_nothing_and_leaves_no_cycles(mode, dtype):
    model = make("dropout", mode, dtype)
    train(model)
    gc.collect()
    gc.disable()
    try:
        before = _native.pool_statistics()
        train(model)
        after = _native.pool_statistics()
        assert after["system_allocations"] == before["system_allocations"]
        assert after["bytes_in_use"] == before["bytes_in_use"]
        assert gc.collect() == 0
    finally:
        gc.enable()


@pytest.mark.parametrize("mode", ["none", *MODES])
@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_changes_no_loss_and_gradients_little(kind, mode):
    """What is computed forward stays. A rounding moves a value by at most 2^-9 of it, up or down; those on the way of a
    gradient, eight in each of three blocks and one, add up like a random walk."""
    results = []
    for dtype in ("float32", "bfloat16"):
        model = make(kind, mode, dtype)
        loss = model.loss(*batch(model))
        loss.backward()
        results.append((loss.item(), model.parameters))
    (loss, exact), (same, near) = results
    assert loss == same
    assert not np.array_equal(exact.gradients, near.gradients)
    error = np.linalg.norm(exact.gradients - near.gradients) / np.linalg.norm(exact.gradients)
    assert error < 25**0.5 * 2**-9


def test_an_array_that_two_operations_keep_is_stored_once(monkeypatch):
    """Eight arrays a block (two norms in and out, q, k and v, attention's output, the MLP before and after its
    activation) and the last norm's input: the output of the MLP before is the input of a norm and a residual."""
    model = make("gpt2", activation_dtype="bfloat16")
    calls = counted(monkeypatch)
    model.loss(*batch(model))
    assert calls["to_bf16"] == 8 * 3 + 1


def test_evaluation_keeps_nothing(monkeypatch):
    model = make("gpt2", activation_dtype="bfloat16")
    calls = counted(monkeypatch)
    with no_grad():
        model.loss(*batch(model))
    assert calls["to_bf16"] == 0


def test_a_new_array_at_an_old_address_is_not_taken_for_it():
    """The arrays of one loop lie at the same address, and may have the same id."""
    (w,) = leaves((7, 7))
    gradients = []
    for value in (1.0, 2.0):
        x = tensor(np.full((5, 7), value, np.float32))
        with activations_as("bfloat16"):
            y = linear(x, w)
        del x
        gradients.append(y)
    for value, y in zip((1.0, 2.0), gradients, strict=True):
        assert (y.op.saved[0].wide().array == value).all()


def test_unknown_ways_to_save_memory_are_refused():
    model = Decoder(ModelConfig(n_layers=1, n_heads=1, d_model=8, context=4, vocab_size=5)).initialise(0)
    x = np.zeros((1, 4), np.int32)
    model.recompute = "blocks"
    with pytest.raises(ConfigError, match="recompute is 'blocks'; it must be one of none, mlp, block"):
        model.loss(x, x)
    model.recompute, model.activation_dtype = "none", "bf16"
    with pytest.raises(ConfigError, match="activation_dtype is 'bf16'; it must be one of float32, bfloat16"):
        model.loss(x, x)
