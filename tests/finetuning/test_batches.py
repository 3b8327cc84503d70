"""Batches of sequences of different lengths: each once per epoch, padding changes nothing, positions come back."""

from __future__ import annotations

import numpy as np
import pytest

from gollm.errors import DataError
from gollm.finetuning.padding import PaddedBatches, evaluation_of, pair_of
from gollm.finetuning.rendering import TokenSequence
from gollm.finetuning.task import held_out
from gollm.training.objective import forward_backward

from .conftest import small_model


def random_sequences(n, seed=0, longest=60):
    rng = np.random.default_rng(seed)
    for i in range(n):
        length = int(rng.integers(2, longest))
        ids = np.concatenate([[i], rng.integers(0, 90, length)]).astype(np.int32)
        yield TokenSequence(ids, np.concatenate([[False], rng.random(length) < 0.5]), f"line {i}")


def batches_of(sequences, **changes):
    usual = {"batch_size": 3, "n_batches": 2, "seed": 5, "longest": 64}
    return PaddedBatches(sequences, pair_of, **{**usual, **changes})


def test_every_sequence_comes_once_per_epoch():
    sequences = list(random_sequences(53))
    batches = batches_of(sequences)
    seen = []
    while batches.position < 6 * 53:
        inputs, targets = batches.next_step(2)
        assert inputs.shape == targets.shape and inputs.shape[:2] == (2, 3)
        rows = inputs.reshape(6, -1)
        seen += rows[:, 0].tolist()
        assert inputs.shape[2] == min(64, -(-max(sequences[i].length for i in rows[:, 0]) // 16) * 16)
    epochs = np.array(seen).reshape(6, 53)
    assert (np.sort(epochs, axis=1) == np.arange(53)).all()
    assert not (epochs[0] == epochs[1]).all()
    assert batches.steps(2, 2) == 18


def test_lengths_that_are_alike_go_together():
    sequences = list(random_sequences(600))
    batches = batches_of(sequences)
    padded = counted = 0
    for _ in range(100):
        inputs, _ = batches.next_step(2)
        padded += inputs.size
        counted += sum(sequences[i].length for i in inputs[..., 0].ravel())
    assert padded < 1.35 * counted  # 2 at random


def test_a_position_is_gone_on_from():
    sequences = list(random_sequences(20))
    first, second = batches_of(sequences), batches_of(sequences)
    for _ in range(5):
        first.next_step(2)
    second.restore(first.state())
    assert all(np.array_equal(a, b) for a, b in zip(first.next_step(2), second.next_step(2), strict=True))
    for other in (list(random_sequences(20, seed=1)), list(random_sequences(19))):
        with pytest.raises(DataError, match="the training data is not what the interrupted run had"):
            batches_of(other).restore(first.state())
    with pytest.raises(DataError, match="the saved data position is -1"):
        second.restore({**first.state(), "position": -1})


def test_the_gradient_is_that_of_the_sequences_one_by_one():
    """Padding, rows and micro-batches: the mean over all counted tokens of the step, whatever lies beside them."""
    model = small_model().decoder
    sequences = list(random_sequences(4, seed=3))
    n = sum(int((sequence.targets >= 0).sum()) for sequence in sequences)
    steps = [
        [pair_of(sequences, 80)],
        [pair_of(sequences[:2], 64), pair_of(sequences[2:], 64)],
        [pair_of([sequence], sequence.length) for sequence in sequences],
    ]
    results = []
    for step in steps:
        total, loss = 0.0, 0.0
        for batch in step:
            arrays = [array[None] for array in batch]
            parts = forward_backward(model, np.zeros(1, np.int64), *arrays, denominator=np.array([float(n)]))
            model.parameters.finish_gradients()
            total = total + model.parameters.gradients.astype(np.float64)
            loss += parts[0].item()
        results.append((total, loss))
    for total, loss in results[1:]:
        assert abs(loss - results[0][1]) < 1e-6
        assert np.abs(total - results[0][0]).max() < 1e-6 * np.abs(total).max()


def test_evaluation_and_what_is_held_out():
    sequences = list(random_sequences(30))
    chosen = evaluation_of(sequences, pair_of, 4, 3, 64)
    assert [len(inputs) for inputs, _ in chosen] == [4, 4, 4]
    assert sorted(int(row[0]) for inputs, _ in chosen for row in inputs) == [i * 30 // 12 for i in range(12)]
    assert [len(inputs) for inputs, _ in evaluation_of(sequences[:5], pair_of, 4, 3, 64)] == [4, 1]
    for fraction in (0, 0.05, 0.3, 0.5):
        train, held = held_out(range(200), fraction)
        assert len(held) == int(200 * fraction) and sorted([*train, *held]) == list(range(200))
    with pytest.raises(DataError, match="leaves nothing to train on"):
        held_out([], 0.1)
