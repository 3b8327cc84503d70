"""SIGKILL at any moment, also in the middle of saving, and going on with another number of threads: the run ends with
the bytes of an undisturbed one, and its metrics have each step once."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import gollm

from .conftest import metrics

TIMING = {"ms", "tokens_per_second", "memory_bytes"}

# Trains, and kills itself at the n-th of the calls that reach the disk. os.write leaves half of a line behind.
SUICIDE = """
import json, os, signal, sys
import gollm

options, threads, calls = json.loads(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
gollm.set_num_threads(threads)

def dying(function):
    def call(*arguments):
        global calls
        calls -= 1
        if calls == 0:
            if function is write:
                write(arguments[0], arguments[1][: len(arguments[1]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments)
    return call

write = os.write
for name in ("write", "fsync", "replace", "truncate", "unlink"):
    setattr(os, name, dying(getattr(os, name)))
print("started", flush=True)
gollm.train(gollm.TrainOptions(**options))
"""
NEVER = -1

RUN = {
    "steps": 12,
    "checkpoint_every": 1,
    "eval_every": 2,
    "keep_checkpoints": 2,
    "dropout": 0.2,
    "grad_accumulation": 2,
    "sample_tokens": 3,
    "sample_every": 3,
    "lr": 3e-2,
}


@pytest.fixture
def whole(options, tmp_path):
    return gollm.train(options(**RUN, out=str(tmp_path / "whole")))


class Victim:
    """A run that is killed again and again, until it ends."""

    def __init__(self, options):
        self.options = options
        self.kills = 0

    def start(self, threads, calls=NEVER):
        started = (Path(self.options.out) / "config.yaml").exists()
        options = {"resume": self.options.out} if started else self.options.to_dict()
        return subprocess.Popen(
            [sys.executable, "-c", SUICIDE, json.dumps(options), str(threads), str(calls)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait(self, process):
        """True when the run is over."""
        _, err = process.communicate(timeout=300)
        assert process.returncode in (0, -signal.SIGKILL), err
        self.kills += process.returncode != 0
        return process.returncode == 0


def check(whole, folder):
    for name in ("best.golm", "step-00000011.golm", "step-00000012.golm"):
        assert (whole.folder / name).read_bytes() == (folder / name).read_bytes(), name
    steps = [[{k: v for k, v in m.items() if k not in TIMING} for m in metrics(f)] for f in (whole.folder, folder)]
    assert [m["step"] for m in steps[1]] == list(range(1, 13))
    assert steps[0] == steps[1]
    assert {p.name for p in folder.iterdir()} == {p.name for p in whole.folder.iterdir()}


def kill_in_saving(options, whole, folder, calls_to_kill_at):
    victim = Victim(options(**RUN, out=str(folder)))
    threads = 1
    for calls in calls_to_kill_at:
        if victim.wait(victim.start(threads, calls)):
            break
        threads = threads % 3 + 1
    else:
        assert victim.wait(victim.start(threads))
    assert victim.kills
    check(whole, folder)


def test_killed_while_saving(options, whole, tmp_path):
    """In the tokenizer's file, the configuration, a line of metrics, checkpoints, the removal of old ones."""
    kill_in_saving(options, whole, tmp_path / "killed", [1, 5, 9, 14, 20, 27])


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1, 30))
def test_killed_at_every_call_that_reaches_the_disk(options, whole, tmp_path, first):
    kill_in_saving(options, whole, tmp_path / "killed", [first, first + 1, first])


def kill_at_random(options, whole, folder, seed, kills):
    """From outside, at a moment that nobody chose."""
    generator = random.Random(seed)
    victim = Victim(options(**RUN, out=str(folder)))
    while True:
        process = victim.start(threads=generator.choice([1, 2, 3]))
        assert process.stdout.readline() == "started\n"
        if victim.kills < kills:
            time.sleep(generator.uniform(0, 0.25))
            process.kill()
        if victim.wait(process):
            break
    check(whole, folder)


def test_killed_at_random(options, whole, tmp_path):
    kill_at_random(options, whole, tmp_path / "killed", seed=1, kills=3)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 7))
def test_killed_at_random_many_times(options, whole, tmp_path, seed):
    kill_at_random(options, whole, tmp_path / "killed", seed, kills=25)
