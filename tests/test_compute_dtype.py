"""Products with bfloat16 operands in a whole model, against double precision."""

import os
import subprocess
import sys

import numpy as np
import pytest

from gollm.errors import ConfigError
from gollm.inference.pages import CachedSequence, PagePool, next_batch
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder

LLAMA = {"norm": "rmsnorm", "position": "rope", "gated_mlp": True, "activation": "silu", "bias": False, "n_kv_heads": 2}
KINDS = {"gpt2": {}, "llama": {**LLAMA, "tied_head": False}}
BLOCKS = 3
SIZES = {"n_layers": BLOCKS, "n_heads": 4, "d_model": 64, "context": 48, "vocab_size": 97}


def make(kind, dtype=np.float32):
    return Decoder(ModelConfig(**SIZES, **KINDS[kind]), dtype).initialise(3)


def batch():
    tokens = np.random.default_rng(1).integers(0, SIZES["vocab_size"], (5, 41)).astype(np.int32)
    return tokens[:, :-1], tokens[:, 1:]


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_near_those_of_double_precision(kind):
    """An operand is moved by at most one part in 2^9, up or down. There are two in each product (four or five in a
    block, and the head), and two in the product that leads back: these roundings add up like a random walk."""
    model, exact = make(kind), make(kind, np.float64)
    exact.parameters.weights[:] = model.parameters.weights
    model.compute_dtype = "bfloat16"
    model.loss(*batch()).backward()
    exact.loss(*batch()).backward()
    products = BLOCKS * (5 if kind == "llama" else 4) + 1
    bound = (products * 2 * 2) ** 0.5 * 2**-9
    assert bound < 2e-2
    for name in model.parameters:
        near, want = (m.parameters.view(m.parameters.gradients, name) for m in (model, exact))
        error = np.linalg.norm(near - want) / np.linalg.norm(want)
        assert 1e-5 < error < bound, name


@pytest.mark.parametrize("kind", KINDS)
def test_cached_logits_equal_uncached_ones(kind):
    model = make(kind)
    ids = batch()[0]
    exact = model.logits(ids)
    model.compute_dtype = "bfloat16"
    whole = model.logits(ids)
    assert 0 < np.abs(whole - exact).max() < 2**-5 * np.abs(exact).max()
    pool = PagePool(model.config, n_pages=len(ids))
    sequences = [CachedSequence(pool) for _ in ids]
    for begin, end in ((0, 30), (30, 31), (31, 40)):
        logits = model.next_logits(next_batch(sequences, [row[begin:end].tolist() for row in ids]))
        np.testing.assert_array_equal(logits, whole[:, end - 1])


def test_an_unknown_compute_dtype_is_refused():
    model = make("gpt2")
    model.compute_dtype = "bf16"
    with pytest.raises(ConfigError, match="compute_dtype is 'bf16'; it must be one of float32, bfloat16"):
        model.loss(*batch())


SIGNALS_AND_FORK = """
import os, signal
import numpy as np
from gollm import _native

rng = np.random.default_rng(0)
a, b = (rng.standard_normal((700, 700)).astype(np.float32) for _ in range(2))

def product():
    c = np.empty((700, 700), np.float32)
    _native.matmul_nt(c=c, a=a, b=b, activation=0, compute=2)
    return c.tobytes()

first, caught = product(), []
signal.signal(signal.SIGALRM, lambda *_: caught.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
after = [product() for _ in range(100)]
signal.setitimer(signal.ITIMER_REAL, 0)
child = os.fork()
if child == 0:
    os._exit(0 if product() == first else 1)
print(len(caught) > 9, {first} == {*after}, os.waitpid(child, 0)[1], product() == first)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_signals_and_fork_leave_products_alone():
    """What a thread has in the registers of AMX outlives a signal's handler; a child sets up its own."""
    run = subprocess.run([sys.executable, "-c", SIGNALS_AND_FORK], capture_output=True, text=True)
    assert run.stdout.split() == ["True", "True", "0", "True"], run.stderr
