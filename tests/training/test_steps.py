"""What a step computes: the mean over all micro-batches, clipping, decay of matrices only."""

import math

import numpy as np
import pytest

import gollm
from gollm import _native
from gollm.data import Sampler, open_source, prepare
from gollm.model.decoder import Decoder
from gollm.nn.tape import no_grad
from gollm.tokenizers import CharacterTokenizer
from gollm.training import Callback
from gollm.training.trainer import make_optimizer

from .conftest import metrics


class Weights(Callback):
    """Copies all weights after each step."""

    def __init__(self):
        self.after = []

    def on_start(self, trainer):
        self.after.append(trainer.model.parameters.weights.copy())

    def on_step(self, trainer, metrics):
        self.after.append(trainer.model.parameters.weights.copy())


def data_of(options):
    source = open_source(list(options.data))
    tokenizer = CharacterTokenizer.train(source.iter_text(), special_tokens=("<|endoftext|>",))
    return tokenizer, prepare(source, tokenizer)


def test_the_logged_loss_is_the_mean_over_all_micro_batches(options, tmp_path):
    chosen = options(steps=2, grad_accumulation=3)
    gollm.train(chosen)
    tokenizer, dataset = data_of(chosen)
    config = chosen.model_config(tokenizer.vocab_size)
    model = Decoder(config).initialise(chosen.seed)
    sampler = Sampler(dataset.train, batch_size=4, context=16, seed=chosen.seed)
    with no_grad():
        losses = [model.loss(*sampler.next_batch()).item() for _ in range(3)]
    assert metrics(tmp_path / "run")[0]["loss"] == pytest.approx(np.mean(losses), rel=1e-6)
    assert np.ptp(losses) > 1e-3  # a mean over one of them would not do


def test_accumulation_gives_the_step_of_one_large_batch(options, tmp_path):
    """The same windows, in the same order: 12 at once, or 4 three times."""
    large, small = Weights(), Weights()
    gollm.train(options(batch_size=12, out=str(tmp_path / "a")), [large])
    gollm.train(options(batch_size=4, grad_accumulation=3, out=str(tmp_path / "b")), [small])
    for a, b in zip(metrics(tmp_path / "a"), metrics(tmp_path / "b"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)
    assert np.abs(large.after[-1] - small.after[-1]).max() < 1e-4


def test_gradients_are_clipped_to_the_given_norm(options, tmp_path):
    """With plain gradient descent the update's length is the learning rate times the clipped norm."""
    descent = {"optimizer": "sgd", "beta1": 0.0, "lr": 0.1, "schedule": "constant", "warmup_steps": 0}

    def first_step(max_grad_norm):
        recorder, out = Weights(), tmp_path / f"run-{max_grad_norm}"
        gollm.train(
            options(**descent, weight_decay=0.0, steps=1, max_grad_norm=max_grad_norm, out=str(out)), [recorder]
        )
        return np.linalg.norm(recorder.after[1] - recorder.after[0]), metrics(out)[0]["grad_norm"]

    free, norm = first_step(0.0)
    assert norm > 0.2
    assert free == pytest.approx(0.1 * norm, rel=1e-4)
    clipped, same = first_step(0.1)
    assert same == norm  # logged before clipping
    assert clipped == pytest.approx(0.1 * 0.1, rel=1e-4)
    assert first_step(2 * norm)[0] == free


def test_decay_shrinks_matrices_only(options):
    """With a learning rate and no gradient worth its name, only decay moves the weights: w (1 - lr decay)."""
    chosen = options()
    tokenizer, _ = data_of(chosen)
    model = Decoder(chosen.model_config(tokenizer.vocab_size)).initialise(1)
    optimizer = make_optimizer(model, options(weight_decay=0.5))
    before = {name: p.data.copy() for name, p in model.parameters.items()}
    model.parameters.zero_grad()
    optimizer.step(0.1)  # gradients that were never written are zero
    for name, parameter in model.parameters.items():
        factor = 0.95 if parameter.data.ndim >= 2 else 1.0
        np.testing.assert_allclose(parameter.data, before[name] * np.float32(factor), rtol=1e-6, err_msg=name)


def test_steps_are_counted(train, tmp_path):
    assert train(steps=7).steps == 7
    assert [m["step"] for m in metrics(tmp_path / "run")] == [1, 2, 3, 4, 5, 6, 7]


def test_epochs_see_every_window(train, options, tmp_path):
    result = train(steps=None, epochs=0.5, validation_fraction=0.2)
    _, dataset = data_of(options())
    n = int(len(dataset.train) / 0.9 * 0.8)
    windows = (n - 1) // 16
    assert result.steps == math.ceil(0.5 * windows / 4)
    assert len(metrics(tmp_path / "run")) == result.steps


def test_the_loss_falls(train, tmp_path):
    train(steps=150, lr=1e-2, d_model=32)
    lines = metrics(tmp_path / "run")
    assert lines[0]["loss"] == pytest.approx(math.log(13), abs=0.4)
    assert np.mean([m["loss"] for m in lines[-10:]]) < 1.6


@pytest.mark.parametrize("recompute", ["none", "mlp", "block"])
def test_the_loss_with_bfloat16_activations_follows_that_with_float32(train, tmp_path, recompute):
    """The first loss is the same. Then gradients differ by less than a hundredth (tests/test_recompute.py), which moves
    a curve that falls by a nat by less than 0.01: the batch moves it by 0.06 from step to step."""
    curves = []
    for dtype, name in (("float32", "a"), ("bfloat16", "b")):
        train(steps=150, lr=1e-2, d_model=32, activation_dtype=dtype, recompute=recompute, out=str(tmp_path / name))
        curves.append(np.array([m["loss"] for m in metrics(tmp_path / name)]))
    exact, near = curves
    assert exact[0] == near[0]
    assert not np.array_equal(exact, near)
    assert exact[0] - exact[-10:].mean() > 0.9
    assert np.abs(exact - near).max() < 0.01


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_threads_do_not_change_a_bit(options, tmp_path, optimizer, dropout):
    weights = []
    for n in (1, 2, 3):
        before = gollm.num_threads()
        gollm.set_num_threads(n)
        recorder = Weights()
        try:
            gollm.train(
                options(
                    optimizer=optimizer, dropout=dropout, grad_accumulation=2, steps=4, out=str(tmp_path / f"run{n}")
                ),
                [recorder],
            )
        finally:
            gollm.set_num_threads(before)
        weights.append(recorder.after[-1])
    assert all(np.array_equal(weights[0], w) for w in weights[1:])


def test_dropout_is_for_training_only(options, tmp_path):
    """Evaluation of a model with dropout gives the loss without it, and each step draws other masks."""

    class Evaluate(Callback):
        def on_end(self, trainer, result):
            self.first, self.second = trainer.evaluate(), trainer.evaluate()
            trainer.model.dropout.p = 0.0
            self.without = trainer.evaluate()

    losses = Evaluate()
    gollm.train(options(dropout=0.5, lr=0.0, weight_decay=0.0, steps=3), [losses])
    assert losses.first == losses.second == losses.without


def test_steady_state_allocates_nothing(options):
    class Allocations(Callback):
        def __init__(self):
            self.counts = []

        def on_step(self, trainer, metrics):
            self.counts.append(_native.pool_statistics()["system_allocations"])

    recorder = Allocations()
    gollm.train(options(steps=8, grad_accumulation=2, dropout=0.1), [recorder])
    assert recorder.counts[2] == recorder.counts[-2]
