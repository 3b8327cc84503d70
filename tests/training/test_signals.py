"""Ctrl-C and SIGTERM let the step finish, save, and say how to go on."""

import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

import gollm
from gollm import TrainOptions
from gollm.training import Callback

from .conftest import command, metrics

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}


class Signal(Callback):
    """Sends itself signals after a step."""

    def __init__(self, step, *numbers):
        self.step, self.numbers = step, numbers

    def on_step(self, trainer, metrics):
        if trainer.step == self.step:
            for number in self.numbers:
                os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", STATUS)
def test_the_step_is_finished_and_saved(options, tmp_path, number):
    before = {n: signal.getsignal(n) for n in STATUS}
    result = gollm.train(options(steps=8, checkpoint_every=0), [Signal(3, number)])
    assert (result.interrupted, result.steps) == (number, 3)
    assert result.checkpoint == tmp_path / "run" / "step-00000003.golm" and result.checkpoint.exists()
    assert {n: signal.getsignal(n) for n in STATUS} == before
    whole = gollm.train(options(steps=8, checkpoint_every=0, out=str(tmp_path / "whole")))
    resumed = gollm.train(TrainOptions(resume=str(result.folder)))
    assert resumed.checkpoint.read_bytes() == whole.checkpoint.read_bytes()


def test_a_second_one_stops_at_once(options, tmp_path):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        gollm.train(options(steps=8, checkpoint_every=2), [Signal(3, signal.SIGINT, signal.SIGINT)])
    assert signal.getsignal(signal.SIGINT) == before
    assert [p.name for p in sorted((tmp_path / "run").glob("*.golm"))] == ["step-00000002.golm"]
    assert gollm.train(TrainOptions(resume=str(tmp_path / "run"))).steps == 8


def test_after_the_last_step_the_run_is_done(options):
    result = gollm.train(options(steps=4), [Signal(4, signal.SIGINT)])
    assert result.interrupted is None


def test_in_a_thread_signals_are_left_alone(options):
    results = []
    thread = threading.Thread(target=lambda: results.append(gollm.train(options(steps=2))))
    thread.start()
    thread.join()
    assert results[0].steps == 2


def start(options, *flags):
    environment = {**os.environ, "GOLLM_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "gollm.train", *command(options), *flags],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )  # fmt: skip


def wait_for(process, pattern):
    for line in process.stdout:
        if re.search(pattern, line):
            return
    raise AssertionError(f"{pattern} never came: {process.stderr.read()}")


@pytest.mark.parametrize("number", STATUS)
def test_the_command_says_how_to_go_on(options, tmp_path, number):
    process = start(options(steps=100_000, checkpoint_every=0, eval_every=0))
    wait_for(process, "^step ")
    time.sleep(0.3)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == STATUS[number]
    assert err == ""
    stopped, advice = out.splitlines()[-2:]
    found = re.fullmatch(rf"{number.name}: stopped after step (\d+) and saved (.*)", stopped)
    assert found and advice == f"go on with: gollm train --resume {tmp_path / 'run'}"
    assert os.path.exists(found[2]) and len(metrics(tmp_path / "run")) == int(found[1])
    again = start(TrainOptions(), "--resume", str(tmp_path / "run"), "--steps", str(int(found[1]) + 2))
    out, err = again.communicate(timeout=60)
    assert again.returncode == 0 and f"resumed    after step {int(found[1]):,}" in out


def test_a_second_ctrl_c_of_the_command(options, tmp_path):
    """While a step takes long, and before that while the data is read: quiet, and the status of an interruption."""
    process = start(options(steps=10, context=512, batch_size=512, d_model=64, checkpoint_every=0))
    wait_for(process, "^run ")
    time.sleep(0.5)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")


class Midway(Callback):
    """Sends itself a signal in the middle of an evaluation or a sample, the n-th time that one is under way."""

    def __init__(self, method, nth):
        self.method, self.nth = method, nth

    def on_start(self, trainer):
        check = trainer.interruption.check
        method = getattr(trainer, self.method)

        def checking():
            if self.nth == 0:
                self.nth = -1
                os.kill(os.getpid(), signal.SIGTERM)
            check()

        def counted(*arguments):
            self.nth -= 1
            return method(*arguments)

        trainer.interruption.check = checking
        setattr(trainer, self.method, counted)


@pytest.mark.parametrize("method", ["evaluate", "sample"])
@pytest.mark.parametrize("nth", [1, 2, 4])
@pytest.mark.parametrize("checkpoint_every", [0, 2])
def test_an_evaluation_or_sample_that_is_broken_off_is_made_later(options, tmp_path, method, nth, checkpoint_every):
    run = {"steps": 8, "eval_every": 2, "sample_tokens": 5, "dropout": 0.2, "checkpoint_every": checkpoint_every}
    stopped = gollm.train(options(**run), [Midway(method, nth)])
    assert (stopped.interrupted, stopped.steps) == (signal.SIGTERM, 2 * nth)
    assert len(metrics(stopped.folder)) == 2 * nth - 1
    again = gollm.train(
        TrainOptions(resume=str(stopped.folder)), [Midway(method, 1)]
    )  # and once more at the same place
    assert (again.interrupted, again.steps, again.checkpoint) == (signal.SIGTERM, 2 * nth, stopped.checkpoint)
    resumed = gollm.train(TrainOptions(resume=str(stopped.folder)))
    whole = gollm.train(options(**run, out=str(tmp_path / "whole")))
    assert (resumed.interrupted, resumed.validation_loss) == (None, whole.validation_loss)
    for name in ("best.golm", "step-00000008.golm"):
        assert (whole.folder / name).read_bytes() == (resumed.folder / name).read_bytes()
    timing = {"ms", "tokens_per_second", "memory_bytes"}
    first, second = (
        [[(k, v) for k, v in line.items() if k not in timing] for line in metrics(folder)]
        for folder in (whole.folder, resumed.folder)
    )
    assert first == second
