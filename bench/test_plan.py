"""The trainer's steps by a recorded plan, beside the same steps with every kernel called from Python.

    pytest bench/test_plan.py

Both ways take turns, a short run each. Python's share of a replayed step is what lies outside of the replay and of the
optimiser's two kernels: the batch, the plan's inputs, loss and norm, the metrics.
"""

import contextlib
import statistics
import time
from types import SimpleNamespace

import numpy as np
import pytest

from gollm import Trainer, TrainOptions, _native
from gollm.model.config import ModelConfig
from gollm.model.decoder import Decoder
from gollm.nn import optimizer
from gollm.nn.plan import Plan
from gollm.tokenizers import CharacterTokenizer
from gollm.training import Callback

SMALL = {"n_layers": 4, "n_heads": 4, "d_model": 128, "context": 64, "vocab_size": 65}
TINY = {"n_layers": 2, "n_heads": 2, "d_model": 64, "context": 64, "vocab_size": 65}
CASES = {
    "0.8M, 12 x 64": (SMALL, 12, 100),
    "0.1M, 12 x 64": (TINY, 12, 400),
    "0.1M, 2 x 32": ({**TINY, "context": 32}, 2, 1000),
}
ROUNDS = 5


class Eager:
    """Has the methods of a plan that the trainer uses, and runs the function."""

    def __init__(self, function):
        self.function = function

    def __call__(self, *inputs):
        return self.function(*inputs)

    def lend_memory(self):
        return contextlib.nullcontext()


class Stopwatch:
    seconds = 0.0

    def __call__(self, function):
        def timed(*args, **kwargs):
            start = time.perf_counter()
            function(*args, **kwargs)
            self.seconds += time.perf_counter() - start

        return timed


class Steps(Callback):
    """The seconds of each step, and those of its kernels."""

    def __init__(self, stopwatch):
        self.stopwatch, self.steps, self.kernels = stopwatch, [], []

    def on_step(self, trainer, metrics):
        self.steps.append(metrics["ms"] / 1e3)
        self.kernels.append(self.stopwatch.seconds)
        self.stopwatch.seconds = 0.0


@pytest.mark.parametrize("case", CASES)
def test_python_in_a_step(benchmark, tmp_path, monkeypatch, capsys, case):
    shape, batch_size, n_steps = CASES[case]
    text = "".join(chr(33 + i) for i in np.random.default_rng(0).integers(0, shape["vocab_size"], 100_000))
    (tmp_path / "text.txt").write_text(text)
    monkeypatch.setenv("GOLLM_CACHE", str(tmp_path / "cache"))
    tokenizer = CharacterTokenizer.train(text)
    stopwatch, runs = Stopwatch(), []

    class Timed(Plan):
        def __init__(self, function):
            super().__init__(function)
            native = self._native
            names = ("begin", "end", "clear", "lend")
            self._native = SimpleNamespace(run=stopwatch(native.run), **{name: getattr(native, name) for name in names})

    timed = {name: stopwatch(getattr(_native, name)) for name in ("adamw", "gradient_norm")}
    monkeypatch.setattr(optimizer, "kernels", SimpleNamespace(plan_is_recording=_native.plan_is_recording, **timed))

    def run(plan):
        monkeypatch.setattr("gollm.training.trainer.Plan", plan)
        options = {"steps": n_steps, "batch_size": batch_size, "out": str(tmp_path / f"run{len(runs)}")}
        quiet = {"sample_tokens": 0, "eval_every": 0, "validation_fraction": 0.0, "checkpoint_every": 0}
        steps = Steps(stopwatch)
        model = Decoder(ModelConfig(**shape)).initialise(1)
        Trainer(model, tokenizer, TrainOptions(**options, **quiet), [steps]).fit(tmp_path / "text.txt")
        runs.append((plan, steps))

    benchmark.pedantic(run, setup=lambda: run(Eager), args=(Timed,), rounds=ROUNDS, iterations=1)
    eager = statistics.median(s for plan, steps in runs if plan is Eager for s in steps.steps[5:])
    replayed = statistics.median(s for plan, steps in runs if plan is Timed for s in steps.steps[5:])
    outside = statistics.median(
        s - k for plan, steps in runs if plan is Timed for s, k in zip(steps.steps[5:], steps.kernels[5:], strict=True)
    )
    with capsys.disabled():
        print(
            f"\n{case:16} {eager * 1e3:.3f} ms from Python, {replayed * 1e3:.3f} ms replayed "
            f"({eager / replayed:.2f} x), of which {outside * 1e6:.0f} us or {outside / replayed:.1%} Python"
        )
