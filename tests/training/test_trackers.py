"""Metrics as TensorBoard, trackio and wandb read them back."""

import importlib.util
import subprocess
import sys

import pytest

import gollm
from gollm.errors import TrainingError
from gollm.training import trackers

from .conftest import metrics


def test_tensorboard_reads_the_metrics_back(options, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = gollm.train(options(steps=4, eval_every=2), [trackers.TensorBoard(str(tmp_path / "events"))])
    events = EventAccumulator(str(tmp_path / "events" / "run"), size_guidance={"tensors": 0}).Reload()
    lines = metrics(result.folder)
    for name in ("loss", "grad_norm", "lr", "validation_loss"):
        found = {event.step: event.tensor_proto.float_val[0] for event in events.Tensors(name)}
        assert found == pytest.approx({line["step"]: line[name] for line in lines if name in line}, rel=1e-6)


# One process each: both libraries leave threads and environment variables behind.
SCRIPT = """
import sys, gollm
from gollm.training import trackers
options = gollm.TrainOptions(
    data=(sys.argv[2],), preset="tiny", n_layers=1, d_model=16, context=16, tokenizer="character", steps=3,
    sample_tokens=0, out="run",
)
gollm.train(options, [getattr(trackers, sys.argv[1])("gollm-test")])
"""


@pytest.mark.parametrize("kind", ["Trackio", "WandB"])
def test_a_project_has_the_run(kind, corpus, tmp_path, monkeypatch):
    if importlib.util.find_spec(kind.lower()) is None:
        pytest.skip(f"{kind.lower()} is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, kind, str(corpus)], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    written = [path for path in tmp_path.rglob("*") if path.suffix in (".wandb", ".db") and path.stat().st_size > 1000]
    assert written, done.stdout


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(TrainingError, match=r"wandb is not installed; install it: pip install wandb"):
        trackers.WandB("project")
