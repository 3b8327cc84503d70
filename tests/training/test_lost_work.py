"""What nobody may lose: checkpoints that are gone or damaged, options that are not heard, folders that two want or that
vanish."""

import hashlib
import shutil

import numpy as np
import pytest

import gollm
from gollm import TrainOptions
from gollm.data import token_cache as cache
from gollm.data import write_shard
from gollm.errors import CheckpointError, ConfigError, DataError, GollmError, GollmWarning, TrainingError
from gollm.formats.golm.checkpoint import open_checkpoint, write_checkpoint
from gollm.options import load_file
from gollm.training import Callback, prepare_job

from .conftest import metrics

# -- what a resumed run must not lose


def test_a_run_whose_checkpoints_are_gone_is_left_alone(train):
    result = train(steps=6, checkpoint_every=2, eval_every=2)
    for path in result.folder.glob("step-*.golm"):
        path.unlink()
    before = {path: path.read_bytes() for path in result.folder.iterdir()}
    with pytest.raises(TrainingError, match=r"metrics of 6 steps and best\.golm, but the checkpoints .* are gone"):
        gollm.train(TrainOptions(resume=str(result.folder)))
    (result.folder / "best.golm").unlink()
    with pytest.raises(TrainingError, match=r"metrics of 6 steps, but the checkpoints .* are gone"):
        gollm.train(TrainOptions(resume=str(result.folder)))
    assert {path: path.read_bytes() for path in result.folder.iterdir()}.items() <= before.items()


def test_a_short_run_whose_only_checkpoint_is_gone_is_left_alone(train):
    result = train()
    result.checkpoint.unlink()
    with pytest.raises(TrainingError, match="are gone; restore the newest, or start a new run"):
        gollm.train(TrainOptions(resume=str(result.folder)))


def test_a_run_killed_between_its_first_evaluation_and_its_first_checkpoint_starts_over(train, tmp_path):
    whole = train(eval_every=2, checkpoint_every=4, out=str(tmp_path / "whole"))
    killed = train(eval_every=2, checkpoint_every=4)
    for path in killed.folder.glob("step-*.golm"):
        path.unlink()
    (killed.folder / ".lock").write_bytes(b"")  # what the first checkpoint would have left its name in
    lines = (killed.folder / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (killed.folder / "metrics.jsonl").write_bytes(b"".join(lines[:4]))
    result = gollm.train(TrainOptions(resume=str(killed.folder)))
    assert result.checkpoint.read_bytes() == whole.checkpoint.read_bytes()


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-100], lambda data: b"x" + data[1:]])
def test_a_damaged_checkpoint_is_set_aside_for_an_older_one(train, damage):
    result = train(steps=6, checkpoint_every=2, eval_every=2, lr=1e-2)
    whole, best = result.checkpoint.read_bytes(), (result.folder / "best.golm").read_bytes()
    result.checkpoint.write_bytes(damage(whole))
    with pytest.warns(GollmWarning, match=r"000006\.golm.*; it is now .*6\.golm\.damaged, .* from step-00000004\.golm"):
        again = gollm.train(TrainOptions(resume=str(result.folder)))
    assert again.checkpoint.read_bytes() == whole and (result.folder / "best.golm").read_bytes() == best
    assert [m["step"] for m in metrics(result.folder)] == [1, 2, 3, 4, 5, 6]
    assert (result.folder / "step-00000006.golm.damaged").read_bytes() == damage(whole)


def test_where_every_checkpoint_is_damaged_all_stay(train):
    result = train(steps=6, checkpoint_every=2)
    for path in result.folder.glob("step-*.golm"):
        path.write_bytes(b"")
    before = sorted(path.name for path in result.folder.iterdir())
    with pytest.raises(CheckpointError, match="step-00000006"):
        gollm.train(TrainOptions(resume=str(result.folder)))
    assert sorted(path.name for path in result.folder.iterdir()) == before


# -- options that are given


def test_a_value_that_equals_the_default_is_heard(train):
    result = train()
    with pytest.raises(ConfigError, match=r"--lr is 0.002, but the run in .* has 0.001"):
        gollm.train(TrainOptions(resume=str(result.folder), lr=TrainOptions().lr))
    with pytest.raises(ConfigError, match=r"--preset is small, but the run in .* has tiny"):
        gollm.train(TrainOptions(resume=str(result.folder), preset="small"))
    with pytest.raises(ConfigError, match=r"--out is elsewhere, but the run in .* goes on in its own folder"):
        gollm.train(TrainOptions(resume=str(result.folder), out="elsewhere"))
    gollm.train(TrainOptions(resume=str(result.folder), out=str(result.folder), sample_tokens=100, sample_every=None))
    assert load_file(result.folder / "config.yaml")["sample_tokens"] == 100


# -- two runs, and a folder that goes


def test_a_prepared_job_holds_its_folder(options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with prepare_job(options(out=None, steps=1)) as first, prepare_job(options(out=None, steps=1)) as second:
        assert (str(first.folder.path), str(second.folder.path)) == ("runs/words-1", "runs/words-2")
        with pytest.raises(TrainingError, match="another process is training in"):
            prepare_job(options(out="runs/words-2"))
        assert first.run().folder.name == "words-1"
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["words-1"]


@pytest.mark.parametrize("gone", [shutil.rmtree, lambda path: path.rename(path.with_name("moved"))])
def test_a_folder_that_goes_under_a_run_ends_it(options, tmp_path, gone):
    class Remove(Callback):
        def __init__(self):
            self.steps = []

        def on_step(self, trainer, metrics):
            self.steps.append(metrics["step"])
            if metrics["step"] == 3:
                gone(tmp_path / "run")

    recorder = Remove()
    with pytest.raises(TrainingError, match=r"metrics\.jsonl was removed, replaced or moved while the run was writing"):
        gollm.train(options(), [recorder])
    assert recorder.steps == [1, 2, 3]
    assert not (tmp_path / "run").exists()


# -- values that would fail hours later, or with Python's own words


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 2**64}, r"seed is 18446744073709551616; it must be a whole number, at least 0 \(of 64 bits\)"),
        ({"steps": 10**30}, "steps is 1000000000000000000000000000000; it must be a whole number"),
        ({"batch_size": 10**18}, "more than the 2.40 tokens that a step may have"),
        ({"grad_accumulation": 10**19}, "more than the 2.40 tokens that a step may have"),
        ({"steps": None, "epochs": 1e308}, "more than 2.62 steps"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"out": ""}, "out is ''; it must be text that can name a file, or none"),
        ({"out": "a\0b"}, "it must be text that can name a file"),
        ({"out": "\ud800"}, "it must be text that can name a file"),
        ({"out": "x" * 300}, "File name too long"),
        ({"cache_dir": "a\0b"}, "cache_dir is"),
        ({"tokenizer": "a\0b"}, "tokenizer is"),
        ({"data": ("a\0b",)}, "data.0. is"),
        ({"resume": "a\0b"}, "resume is"),
    ],
)
def test_odd_values_are_refused_before_anything_begins(options, tmp_path, changes, message):
    with pytest.raises(GollmError, match=message):
        gollm.train(options(**changes))
    assert not (tmp_path / "run").exists()


def test_the_largest_seed_can_be_saved(train):
    assert train(seed=2**64 - 1).checkpoint.exists()


def test_commands_in_messages_quote_their_paths(train, options, tmp_path):
    folder = tmp_path / "my run"
    train(out=str(folder))
    with pytest.raises(TrainingError, match=rf"--resume '{folder}'"):
        train(out=str(folder))


def test_edited_validation_data_is_noticed(train, tmp_path):
    (tmp_path / "validation.txt").write_text("ba ko ri nu " * 50)
    result = train(validation_data=(str(tmp_path / "validation.txt"),))
    (tmp_path / "validation.txt").write_text("ba ko ri se " * 50)
    with pytest.raises(DataError, match="the validation data is not what the interrupted run had"):
        gollm.train(TrainOptions(resume=str(result.folder), steps=8))
    (tmp_path / "validation.txt").write_text("ba ko ri nu " * 50)
    assert gollm.train(TrainOptions(resume=str(result.folder), steps=8)).steps == 8


def test_the_cache_s_format_is_not_part_of_a_run(train, monkeypatch, tmp_path):
    result = train()
    monkeypatch.setattr(cache, "FORMAT", cache.FORMAT + 1)
    assert gollm.train(TrainOptions(resume=str(result.folder), steps=8)).steps == 8


def test_checkpoints_of_gollm_0_1_serve(train, tmp_path):
    """They have no fingerprint of the validation data, and another one of token shards, here computed by hand."""
    rng = np.random.default_rng(0)
    write_shard(tmp_path / "shard.bin", rng.integers(0, 8, 9000))
    path = str(tmp_path / "shard.bin")
    result = train(
        data=(path,),
        tokenizer=str(train().folder / "tokenizer.json"),
        out=str(tmp_path / "shards"),
        validation_split="end",
    )
    with open(path, "rb") as file:
        head = file.read(1024 + 4096)
    digest = hashlib.sha256(b"shards" + head + str(1024 + 2 * 9000).encode()).hexdigest()
    with open_checkpoint(result.checkpoint) as file:
        training = {name: value for name, value in file.training.items() if name != "validation"}
        training["sampler"] = {**training["sampler"], "fingerprint": f"{digest}[0:8100]"}
        write_checkpoint(
            result.checkpoint,
            config=file.config,
            tensors=dict(file.tensors),
            order=list(file.tensors),
            tokenizer_state=file.tokenizer_state(),
            training=training,
            training_tensors=dict(file.training_tensors),
        )
    assert gollm.train(TrainOptions(resume=str(result.folder), steps=8)).steps == 8
