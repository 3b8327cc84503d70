"""What stops a run, says so in a sentence, and leaves the last good checkpoint as it was: a loss that is no number, a
full disk, a folder that cannot be written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gollm
from gollm import TrainOptions
from gollm.cli.main import main
from gollm.errors import CheckpointError, TrainingError
from gollm.training import Callback
from gollm.training.run_folder import RunFolder

from .conftest import metrics


def checkpoints(folder):
    return {path.name: path.read_bytes() for path in Path(folder).glob("*.golm")}


class At(Callback):
    """Does something after a step."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_step(self, trainer, metrics):
        if trainer.step == self.step:
            self.action(trainer)


# -- a loss that is no number


def test_divergence_stops_the_run(train, tmp_path):
    with pytest.raises(TrainingError, match=r"at step \d+ is (nan|inf).*has diverged.*lower --lr \(now 1e\+30"):
        train(lr=1e30, steps=20, max_grad_norm=0.0, optimizer="sgd")


def poison(trainer):
    trainer.model.parameters["norm.weight"].data[0] = np.nan


def test_a_loss_that_is_no_number_leaves_the_checkpoints_alone(options, tmp_path):
    kept = {}
    keep = At(4, lambda trainer: kept.update(checkpoints(tmp_path / "run")))
    with pytest.raises(TrainingError, match="the loss at step 6 is nan: training has diverged; the checkpoints are"):
        gollm.train(options(checkpoint_every=2, eval_every=2, steps=9), [keep, At(5, poison)])
    assert checkpoints(tmp_path / "run") == kept
    assert set(kept) == {"step-00000002.golm", "step-00000004.golm", "best.golm"}
    assert len(metrics(tmp_path / "run")) == 5
    assert gollm.train(TrainOptions(resume=str(tmp_path / "run"))).steps == 9


def test_weights_that_are_no_numbers_are_never_saved(options, tmp_path):
    """The step's own loss was fine, its update was not."""

    class Break(Callback):
        def on_start(self, trainer):
            step = trainer.optimizer.step

            def breaking(lr):
                norm = step(lr)
                if trainer.step == 3:
                    poison(trainer)
                return norm

            trainer.optimizer.step = breaking

    with pytest.raises(CheckpointError, match=r"the weights after step 4 are not finite, so step-00000004\.golm was"):
        gollm.train(options(checkpoint_every=1, eval_every=0, keep_checkpoints=9), [Break()])
    assert set(checkpoints(tmp_path / "run")) == {f"step-0000000{i}.golm" for i in (1, 2, 3)}


def test_a_gradient_that_is_no_number_updates_nothing(options):
    class Break(Callback):
        def on_start(self, trainer):
            self.trainer = trainer
            self.before = trainer.model.parameters.weights.copy()
            finish = trainer.model.parameters.finish_gradients

            def breaking():
                finish()
                trainer.model.parameters.gradients[3] = np.inf

            trainer.model.parameters.finish_gradients = breaking

    callback = Break()
    with pytest.raises(TrainingError, match="the gradient's norm at step 1 is inf"):
        gollm.train(options(), [callback])
    assert np.array_equal(callback.trainer.model.parameters.weights, callback.before)


# -- folders


def test_a_file_in_the_way(train, tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(TrainingError, match=r"the run folder .* cannot be written: File exists; choose another"):
        train()
    with pytest.raises(TrainingError, match="cannot be written: Not a directory"):
        train(out=str(tmp_path / "run" / "deeper"))
    assert (tmp_path / "run").read_text() == "mine"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a file system that takes no files")
def test_a_folder_that_takes_no_files(train):
    with pytest.raises(TrainingError, match="the run folder /proc/gollm cannot be written"):
        train(out="/proc/gollm")
    with pytest.raises(TrainingError, match="the run folder /proc/self cannot be written"):
        train(out="/proc/self")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_without_permission(train, tmp_path):
    (tmp_path / "run").mkdir(mode=0o500)
    with pytest.raises(TrainingError, match="Permission denied"):
        train()


def test_the_command_says_it_in_one_line(corpus, tmp_path, capsys):
    (tmp_path / "run").write_text("mine")
    assert main(["train", str(corpus), "--out", str(tmp_path / "run")]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith("gollm: the run folder") and "choose another with --out" in err


# -- full disks


def test_no_room_for_metrics(tmp_path):
    """/dev/full answers every write as a full disk does."""
    folder = RunFolder(tmp_path)
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with folder:
        folder._metrics = os.open("/dev/full", os.O_WRONLY)
        with pytest.raises(TrainingError, match=r"No space left on device\. The checkpoints are untouched.*--resume"):
            folder.write_metrics({"step": 1})


LIMITED = """
import json, resource, signal, sys
import gollm
from gollm import TrainOptions
from gollm.training import Callback

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)   # a write beyond the limit is an error then, as on a full disk

class Fill(Callback):
    def on_step(self, trainer, metrics):
        if metrics["step"] == 5:
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))

try:
    gollm.train(TrainOptions(**json.loads(sys.argv[1])), [Fill()])
except gollm.GollmError as error:
    sys.exit(str(error))
"""


@pytest.mark.parametrize(("limit", "what"), [(4000, "step-00000006.golm"), (700, "metrics.jsonl")])
def test_a_disk_that_fills_up(options, tmp_path, limit, what):
    """No file may grow beyond the limit after step 5: the next checkpoint does not fit, or the next line of metrics."""
    chosen = options(steps=12, checkpoint_every=2, keep_checkpoints=2, eval_every=0)
    result = subprocess.run(
        [sys.executable, "-c", LIMITED, json.dumps(chosen.to_dict()), str(limit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1, result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("cannot write") and what in result.stderr and "File too large" in result.stderr
    left = checkpoints(tmp_path / "run")
    assert list(left) and not list((tmp_path / "run").glob(".*.tmp"))
    whole = gollm.train(options(steps=12, checkpoint_every=2, eval_every=0, out=str(tmp_path / "whole")))
    resumed = gollm.train(TrainOptions(resume=str(tmp_path / "run")))
    assert resumed.checkpoint.read_bytes() == whole.checkpoint.read_bytes()
    assert [m["step"] for m in metrics(tmp_path / "run")] == list(range(1, 13))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 300 KB, where this process may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", disk], capture_output=True, check=False)
    if mount.returncode:
        pytest.skip("mounting a file system is not allowed here")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_full_disk(options, small_disk, tmp_path):
    """A real one: two checkpoints fit, and someone else fills the rest."""
    chosen = options(steps=12, checkpoint_every=2, eval_every=0, out=str(small_disk / "run"))
    kept = {}

    def fill(trainer):
        kept.update(checkpoints(small_disk / "run"))
        with open(small_disk / "filler", "wb") as file:
            room = os.statvfs(small_disk)
            file.write(bytes(room.f_bavail * room.f_bsize - 8192))

    with pytest.raises(CheckpointError, match=r"cannot write .*step-00000006\.golm: No space left on device"):
        gollm.train(chosen, [At(5, fill)])
    assert checkpoints(small_disk / "run") == kept
    (small_disk / "filler").unlink()
    resumed = gollm.train(TrainOptions(resume=str(small_disk / "run")))
    whole = gollm.train(options(steps=12, checkpoint_every=2, eval_every=0, out=str(tmp_path / "whole")))
    assert resumed.checkpoint.read_bytes() == whole.checkpoint.read_bytes()
