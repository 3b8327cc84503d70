"""Parameters: how a model's are collected, what is trained and what is frozen, weights of other kinds."""

import numpy as np
import pytest

from gollm.errors import DTypeError, GollmError
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder
from gollm.nn import dtypes
from gollm.nn.ops import linear
from gollm.nn.optimizer import AdamW
from gollm.nn.parameters import Module, Parameter, ParameterArena
from gollm.nn.storage import Storage
from gollm.nn.tensor import Tensor, tensor

CONFIG = ModelConfig(n_layers=2, n_heads=2, d_model=20, vocab_size=31, context=24)
TOKENS = np.random.default_rng(0).integers(0, 31, (3, 20)).astype(np.int32)


class Inner(Module):
    def __init__(self):
        self.weight = Parameter((3, 5), std=0.1)
        self.bias = None


class Outer(Module):
    def __init__(self):
        self.table = Parameter((4, 3))
        self.parts = [Inner(), Inner()]
        self.scale = Parameter((3,), constant=1.0)
        self.head = self.table


def test_names_come_from_the_places_where_parameters_are_declared():
    assert list(Outer().named_parameters()) == ["table", "parts.0.weight", "parts.1.weight", "scale"]


def test_a_model_takes_no_memory_until_its_weights_are_used():
    huge = Decoder(ModelConfig(n_layers=90, n_heads=128, d_model=12288, vocab_size=50257, context=2048))
    assert huge.parameters.n_parameters > 160e9
    assert huge.parameters["blocks.89.mlp.up.weight"].shape == (4 * 12288, 12288)


def test_matrices_come_first_and_gaps_are_zero():
    arena = ParameterArena(Outer().named_parameters())
    arena.initialise(0)
    assert arena.order == ("table", "parts.0.weight", "parts.1.weight", "scale")
    assert arena.offsets == {"table": 0, "parts.0.weight": 16, "parts.1.weight": 32, "scale": 48}
    assert (arena.size, arena.n_decay, arena.n_trained) == (64, 48, 64)
    assert not arena.weights[12:16].any()
    assert (arena["scale"].data == 1).all()


def step(model):
    optimizer = AdamW(model.parameters, weight_decay=0.1)
    model.loss(TOKENS[:, :-1].copy(), TOKENS[:, 1:].copy()).backward()
    norm = optimizer.step(1e-2)
    return optimizer, norm


def test_frozen_parameters_stay_and_have_neither_gradient_nor_moments():
    whole, model = Decoder(CONFIG).initialise(1), Decoder(CONFIG).initialise(1)
    frozen = [name for name in model.parameters if name.startswith(("token_", "blocks.0."))]
    before = {name: model.parameters[name].data.copy() for name in model.parameters}
    model.parameters.freeze(frozen)
    for name, values in before.items():  # they have moved
        np.testing.assert_array_equal(model.parameters[name].data, values)
    step(whole)
    optimizer, _ = step(model)
    n_trained = model.parameters.n_trained
    assert n_trained < model.parameters.size
    assert all(moment.shape == (n_trained,) for moment in optimizer.moments.values())
    for name, parameter in model.parameters.items():
        if name in frozen:
            assert parameter.grad is None
            np.testing.assert_array_equal(parameter.data, before[name])
        else:  # the same gradient as if all were trained
            np.testing.assert_array_equal(parameter.grad, whole.parameters[name].grad)
            assert (parameter.data != before[name]).any()


def test_freezing_comes_before_training():
    model = Decoder(CONFIG).initialise(1)
    step(model)
    with pytest.raises(GollmError, match="before training"):
        model.parameters.freeze(["head"])


def test_a_frozen_parameter_may_have_memory_of_its_own():
    model = Decoder(CONFIG.replace(tied_head=False)).initialise(1)
    size, logits = model.parameters.size, model.logits(TOKENS)
    with pytest.raises(GollmError, match="head is trained"):
        model.parameters["head"].storage = model.parameters["head"].storage
    model.parameters.freeze(["head"])
    own = Storage(model.parameters["head"].data.copy())
    model.parameters["head"].storage = own
    assert model.parameters["head"].storage is own
    assert model.parameters.size == size - 31 * 20 - 4  # with its gap
    np.testing.assert_array_equal(model.logits(TOKENS), logits)


def test_a_weight_of_a_kind_without_kernels_is_named():
    narrow = Storage(np.zeros((4, 3), np.uint16), dtypes.float16)
    packed = Storage(np.zeros((4, 3), np.float32), layout="tiles")
    x = tensor(np.ones((2, 3), np.float32))
    with pytest.raises(DTypeError, match=r"Linear: there is no kernel for a weight of dtype float16"):
        linear(x, Tensor(narrow))
    with pytest.raises(DTypeError, match=r"float32 in layout 'tiles'"):
        linear(x, Tensor(packed))


@pytest.mark.parametrize("recording", [True, False])
def test_the_losses_of_single_tokens_are_kept(recording):
    model = Decoder(CONFIG).initialise(1)
    inputs, targets = TOKENS[:, :-1].copy(), TOKENS[:, 1:].copy()
    targets[1, :4] = -1
    losses = np.empty(targets.shape, np.float32)
    loss = model.loss(inputs, targets, losses=losses)
    if recording:
        loss.backward()
    mean = loss.item()
    logits = model.logits(inputs).astype(np.float64)
    exact = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, np.maximum(targets, 0)[..., None], -1)[..., 0]
    np.testing.assert_allclose(losses, np.where(targets >= 0, exact, 0), rtol=1e-5, atol=1e-6)
    assert mean == pytest.approx(losses.sum() / (targets >= 0).sum(), rel=1e-6)
