"""How long a run lasts, and what a preset brings where the options do not say."""

import math
import re

import pytest

import gollm
from gollm import TrainOptions
from gollm.errors import ConfigError
from gollm.model.presets import SHAPES
from gollm.training import prepare_job

from .conftest import metrics


def test_patience_ends_a_run_whose_validation_loss_rises(train, tmp_path):
    (tmp_path / "few.txt").write_text("bakori nuse la " * 8 + "senula " * 3)
    result = train(
        data=(str(tmp_path / "few.txt"),),
        validation_split="end",
        validation_fraction=0.2,
        lr=0.02,
        steps=200,
        eval_every=4,
        patience=3,
        context=8,
    )
    losses = {m["step"]: m["validation_loss"] for m in metrics(result.folder) if "validation_loss" in m}
    best = min(losses, key=losses.get)
    assert result.steps < 200 and result.interrupted is None
    assert (result.best_step, result.best_validation_loss) == (best, losses[best])
    assert result.steps == best + 3 * 4
    # It is over for a resumed run, too, unless that has more patience.
    again = gollm.train(TrainOptions(resume=str(result.folder)))
    assert (again.steps, again.first_step, again.best_step) == (result.steps, result.steps, best)
    longer = gollm.train(TrainOptions(resume=str(result.folder), patience=4))
    assert longer.steps >= result.steps + 4 and longer.first_step == result.steps


def test_patience_needs_something_to_wait_for(train):
    with pytest.raises(ConfigError, match="--patience counts evaluations, and --eval-every 0 makes none"):
        train(patience=2, eval_every=0)
    with pytest.raises(ConfigError, match="--patience needs a validation loss"):
        train(patience=2, validation_fraction=0.0)


def test_without_a_number_of_steps_a_small_text_is_read_ten_times(options):
    job = prepare_job(options(steps=None, batch_size=16))
    windows = (len(job.dataset.train) - 1) // 16
    assert job.total_steps == math.ceil(10 * windows / 16) < 1500
    assert "note" not in job.table and re.search(r": (9\.\d|10) epochs", job.table["training"])
    job.folder.close()
    with prepare_job(options(steps=job.total_steps * 24, batch_size=16)) as long:
        assert "240 epochs" in long.table["training"]
        assert long.table["note"].startswith("after about 10 epochs a model learns its text by heart")


def test_a_warm_up_that_is_longer_than_the_run_is_refused(train, tmp_path):
    with pytest.raises(ConfigError, match=r"--warmup-steps is 7, but the run has only 6 steps"):
        train(warmup_steps=7)
    assert not (tmp_path / "run").exists()


def test_a_preset_brings_learning_rate_and_batch():
    """GPT-3's learning rate for 125M, 6e-4 at half a million tokens, at 32,768."""
    gpt2 = TrainOptions(preset="gpt2")
    assert gpt2.lr == pytest.approx(6e-4 * math.sqrt(2**15 / 5e5), rel=0.05)
    assert gpt2.batch_size * gpt2.grad_accumulation * gpt2.model_config().context == 2**15
    assert (TrainOptions().lr, TrainOptions().batch_size, TrainOptions().grad_accumulation) == (2e-3, 8, 1)
    mine = TrainOptions(preset="gpt2", batch_size=2, lr=1e-3)
    assert (mine.lr, mine.batch_size, mine.grad_accumulation) == (1e-3, 2, 1)
    assert TrainOptions(preset="gpt2", grad_accumulation=3).batch_size == 8
    for name in SHAPES:
        options = TrainOptions(preset=name)
        assert 1e-5 < options.lr < 5e-3 and options.default_steps >= 1500


def test_a_run_from_before_there_were_blocks_keeps_the_end_of_its_data(train, tmp_path):
    result = train(validation_split="end", steps=4)
    config = tmp_path / "run" / "config.yaml"
    config.write_text("".join(line for line in config.open() if not line.startswith("validation_split")))
    assert gollm.train(TrainOptions(resume=str(result.folder), steps=6)).steps == 6
    with pytest.raises(ConfigError, match=r"--validation-split is blocks, but the run in .* has end"):
        gollm.train(TrainOptions(resume=str(result.folder), validation_split="blocks"))
