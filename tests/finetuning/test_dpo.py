"""gollm finetune --task dpo: the loss of preferences, its gradient, and a run that learns them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import gollm
from gollm.data.records import Record
from gollm.errors import DataError
from gollm.finetuning.dpo import Pair, Pairs, Preference, answer_losses
from gollm.finetuning.lessons import pair_of
from gollm.finetuning.rendering import TokenSequence
from gollm.nn.tape import no_grad

from .conftest import small_model, write_lines
from .test_sft import check_resumed

KINDS = [("dpo", False), ("dpo", True), ("ipo", False), ("ipo", True)]


def random_pairs(n=3):
    rng = np.random.default_rng(0)

    def answer(prompt):
        ids = np.concatenate([prompt, rng.integers(0, 90, rng.integers(1, 9))]).astype(np.int32)
        return TokenSequence(ids, np.arange(len(ids)) >= len(prompt), "")

    for i in range(n):
        prompt = rng.integers(0, 90, rng.integers(2, 12))
        yield Pair(answer(prompt), answer(prompt), i)


def log_probability(model, sequence, normalised):
    """Of the answer, from all logits in double precision."""
    logits = model.logits(sequence.inputs[None])[0].astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    counted = np.flatnonzero(sequence.targets >= 0)
    total = log_p[counted, sequence.targets[counted]].sum()
    return total / len(counted) if normalised else total


def expected(model, reference, pairs, kind, beta, normalised):
    """Losses and margins as the papers write them."""
    ratios = np.array(
        [
            [log_probability(model, one, normalised) - log_probability(reference, one, normalised) for one in two]
            for two in ((pair.chosen, pair.rejected) for pair in pairs)
        ]
    )
    h = ratios[:, 0] - ratios[:, 1]
    return (h - 1 / (2 * beta)) ** 2 if kind == "ipo" else -np.log(1 / (1 + np.exp(-beta * h))), beta * h


@pytest.mark.parametrize(("kind", "normalised"), KINDS)
def test_loss_and_gradient(kind, normalised, tmp_path):
    reference, model = small_model(seed=1).decoder, small_model(seed=2).decoder
    pairs = list(random_pairs())
    table = Pairs(pairs, normalised, 64)
    table.begin(reference, tmp_path)
    objective, batch = Preference(kind, 0.3), table.collate(pairs, 32)
    each = np.empty(objective.each_shape(batch), np.float32)
    loss = objective.loss(model, batch, np.array([3.0]), each)
    losses, margins = expected(model, reference, pairs, kind, 0.3, normalised)
    loss.backward()
    assert loss.item() == pytest.approx(losses.mean(), rel=1e-5)
    np.testing.assert_allclose(each, [losses, margins], rtol=1e-4, atol=1e-5)
    found = objective.metrics([array[None] for array in batch], each[None])
    assert found == {"margin": pytest.approx(margins.mean(), abs=1e-5), "accuracy": (margins > 0).mean()}
    weights, gradient = model.parameters.weights, model.parameters.gradients.copy()
    direction = np.random.default_rng(3).standard_normal(len(weights)).astype(np.float32)
    h, moved = 2e-4, []
    for sign in (1, -1):
        weights += np.float32(sign * h) * direction
        moved.append(expected(model, reference, pairs, kind, 0.3, normalised)[0].mean())
        weights -= np.float32(sign * h) * direction
    assert (moved[0] - moved[1]) / (2 * h) == pytest.approx(float(gradient @ direction), rel=2e-2)


def test_references_are_computed_once(tmp_path):
    model = small_model().decoder
    pairs = list(random_pairs(7))
    first, second, third = (Pairs(pairs, False, 64) for _ in range(3))
    first.begin(model, tmp_path)
    with no_grad():  # each pair alone has the same bits
        alone = [answer_losses(model, *first.collate([pair], 32)[:3]).data.copy() for pair in pairs]
    assert np.array_equal(np.concatenate(alone), first.references)
    model.parameters.weights[:] = 0
    second.begin(model, tmp_path)
    assert np.array_equal(first.references, second.references) and first.references.all()
    (tmp_path / "reference.npy").write_bytes(b"damaged")
    third.begin(model, tmp_path)
    assert not np.array_equal(first.references, third.references)


def greetings(n):
    return [{"prompt": f"Hi {i % 5}", "chosen": "Good day", "rejected": f"What? {i % 3}"} for i in range(n)]


@pytest.mark.parametrize("lora", [{}, {"lora_rank": 4}])
def test_a_run_learns_to_prefer(lora, finetune, tmp_path):
    data = (str(write_lines(tmp_path / "pairs.jsonl", greetings(40))),)
    result = finetune(task="dpo", data=data, steps=30, lr=3e-3, eval_every=15, **lora)
    lines = [json.loads(line) for line in Path(result.folder, "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["loss"] == pytest.approx(np.log(2), abs=1e-5) and abs(lines[0]["margin"]) < 1e-4
    assert lines[-1]["validation_accuracy"] == 1.0 and lines[-1]["validation_margin"] > 0.1
    assert gollm.load(result.folder).config.vocab_size > 0


def test_killed_and_resumed_the_bytes_are_the_same(options, tmp_path):
    data = (str(write_lines(tmp_path / "pairs.jsonl", greetings(40))),)
    run = {"task": "dpo", "data": data, "steps": 10, "checkpoint_every": 3, "eval_every": 2, "grad_accumulation": 2}
    check_resumed(options, tmp_path, ["best.golm", "step-00000010.golm", "reference.npy"], **run)


USER = {"role": "user", "content": "Hi"}


def test_formats_of_pairs():
    text = {"prompt": "Hi", "chosen": "Good day", "rejected": "What?"}
    lists = {name: [{"role": "assistant", "content": text[name]}] for name in ("chosen", "rejected")}
    whole = {name: [USER, *messages] for name, messages in lists.items()}
    found = [pair_of(Record(v, "")) for v in (text, {"prompt": [USER], **lists}, {"prompt": "Hi", **lists}, whole)]
    assert all(one == found[0] for one in found)
    assert found[0][0].answers == [1]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prompt": "Hi", "chosen": "Good day"}, "its fields are 'prompt', 'chosen'; a pair has prompt, chosen and"),
        ({"prompt": "Hi", "chosen": "A", "rejected": "A"}, "chosen and rejected are the same"),
        ({"prompt": "Hi", "chosen": "A", "rejected": " "}, "message 2, the assistant's, is empty"),
        ({"chosen": [USER, {"role": "assistant", "content": "A"}], "rejected": "B"}, "the first message is"),
    ],
)
def test_mistakes_name_the_line(values, message):
    with pytest.raises(DataError) as error:
        pair_of(Record(values, "pairs.jsonl, line 3"))
    assert str(error.value).startswith("pairs.jsonl, line 3: ") and message in str(error.value)
