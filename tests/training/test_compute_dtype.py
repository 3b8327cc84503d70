"""Training with bfloat16 products: close to float32, and as reproducible."""

import numpy as np
import pytest

import gollm
from gollm import TrainOptions
from gollm.nn.plan import Plan
from gollm.options import load_file

from .conftest import metrics
from .test_plan import Eager
from .test_steps import Weights

NARROW = {"compute_dtype": "bfloat16", "n_layers": 2, "d_model": 48, "n_heads": 3, "context": 24}


def test_the_loss_follows_that_with_float32(train, tmp_path):
    """Over 200 steps. Gradients differ by about a hundredth, at random (tests/test_compute_dtype.py)."""
    curves = []
    for dtype in ("float32", "bfloat16"):
        result = train(**NARROW | {"compute_dtype": dtype, "steps": 200, "lr": 5e-3, "out": str(tmp_path / dtype)})
        curves.append(np.array([m["loss"] for m in metrics(result.folder)]))
    exact, near = curves
    assert not np.array_equal(exact, near)
    assert exact[0] - exact[-10:].mean() > 0.9
    assert np.abs(exact - near).max() < 0.02


def test_recorded_steps_threads_and_recomputation_do_not_change_a_bit(options, tmp_path, monkeypatch):
    runs, before = [], gollm.num_threads()
    ways = [(Plan, 1, "none"), (Eager, 1, "none"), (Plan, 3, "mlp"), (Plan, 2, "block")]
    try:
        for plan, n_threads, recompute in ways:
            gollm.set_num_threads(n_threads)
            monkeypatch.setattr("gollm.training.trainer.Plan", plan)
            recorder, out = Weights(), str(tmp_path / f"{plan.__name__}{n_threads}")
            gollm.train(options(**NARROW, grad_accumulation=2, recompute=recompute, eval_every=2, out=out), [recorder])
            runs.append((recorder.after, [m.get("validation_loss") for m in metrics(out)]))
    finally:
        gollm.set_num_threads(before)
    first, losses = runs[0]
    assert any(loss is not None for loss in losses)
    for other, other_losses in runs[1:]:
        assert other_losses == losses
        for a, b in zip(first, other, strict=True):
            assert a.tobytes() == b.tobytes()


def test_a_resumed_run_goes_on_in_bfloat16(train, tmp_path):
    whole = train(**NARROW, out=str(tmp_path / "whole"))
    half = train(**NARROW, checkpoint_every=3, keep_checkpoints=3, out=str(tmp_path / "half"))
    (half.folder / "step-00000006.golm").unlink()
    again = gollm.train(TrainOptions(resume=str(half.folder)))
    assert load_file(half.folder / "config.yaml")["compute_dtype"] == "bfloat16"
    first, second = gollm.load(whole.checkpoint).decoder, gollm.load(again.checkpoint).decoder
    np.testing.assert_array_equal(first.parameters.weights, second.parameters.weights)
    with pytest.raises(gollm.errors.ConfigError, match=r"--compute-dtype is float32, but the run in .* has bfloat16"):
        gollm.train(TrainOptions(resume=str(half.folder), compute_dtype="float32"))
