"""Training by a recorded plan, which is how the trainer trains, against the same steps run by Python."""

import contextlib

import numpy as np
import pytest

import gollm
from gollm.errors import KernelError
from gollm.nn.plan import Plan
from gollm.training import Callback

from .conftest import metrics
from .test_steps import Weights


class Eager:
    """What a plan records, run by Python every time."""

    def __init__(self, function, kernels=None):
        self.function = function

    def __call__(self, *inputs):
        return self.function(*inputs)

    def lend_memory(self):
        return contextlib.nullcontext()


class State(Weights):
    """All weights after each step, and the optimiser's state at the end."""

    def on_end(self, trainer, result):
        self.state = {name: array.tobytes() for name, array in trainer.optimizer.state().items()}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_fifty_steps_have_the_bits_of_steps_run_by_python(options, tmp_path, monkeypatch, optimizer, n_threads):
    """Dropout, warm-up and cosine, accumulation; with evaluations and samples in between, which borrow the memory."""
    before, runs = gollm.num_threads(), []
    gollm.set_num_threads(n_threads)
    try:
        for plan in (Plan, Eager):
            monkeypatch.setattr("gollm.training.trainer.Plan", plan)
            recorder, out = State(), tmp_path / plan.__name__
            changes = {"steps": 50, "dropout": 0.2, "warmup_steps": 10, "schedule": "cosine", "grad_accumulation": 2}
            gollm.train(
                options(**changes, optimizer=optimizer, eval_every=7, sample_tokens=4, out=str(out)), [recorder]
            )
            timing = ("ms", "tokens_per_second", "memory_bytes")
            lines = [{k: v for k, v in m.items() if k not in timing} for m in metrics(out)]
            runs.append((recorder, lines))
    finally:
        gollm.set_num_threads(before)
    (planned, planned_lines), (eager, eager_lines) = runs
    assert planned_lines == eager_lines
    assert len({line["lr"] for line in eager_lines}) >= 40
    for a, b in zip(planned.after, eager.after, strict=True):
        assert a.tobytes() == b.tobytes()
    assert planned.state == eager.state


def test_a_step_is_recorded_once(options):
    class Count(Callback):
        def __init__(self):
            self.plans = []

        def on_step(self, trainer, metrics):
            self.plans.append(trainer.forward_backward.kernels)

    count = Count()
    gollm.train(options(steps=3, eval_every=1, grad_accumulation=2), [count])
    assert count.plans[0] == count.plans[2]
    assert count.plans[0].count("embedding_backward") == 2


def test_a_token_outside_of_the_vocabulary_is_named_as_ever(options):
    """Data whose token ids turn bad in the middle of a run."""

    class Spoil(Callback):
        def on_step(self, trainer, metrics):
            if trainer.step == 2:
                next_batch = trainer.batches.next_batch

                def spoilt(out):
                    next_batch(out)
                    out[0][0, 3] = 999

                trainer.batches.next_batch = spoilt

    with pytest.raises(KernelError, match="embedding_forward: a token id"):
        gollm.train(options(steps=5), [Spoil()])


def test_what_a_callback_does_to_the_weights_is_seen(options):
    class Reset(Callback):
        def on_step(self, trainer, metrics):
            trainer.model.parameters.weights[:] = 0

    result = gollm.train(options(steps=3, eval_every=0), [Reset()])
    assert result.loss == pytest.approx(np.log(gollm.load(result.checkpoint).config.vocab_size), rel=1e-6)
