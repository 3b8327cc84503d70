"""gollm runs: a line for each run folder."""

import json
import re
import statistics

import pytest

import gollm
from gollm.cli.main import main
from gollm.errors import GollmWarning, TrainingError
from gollm.training.run_list import list_runs

from .conftest import metrics


@pytest.fixture
def two_runs(options, tmp_path):
    """One that is done, and one that has not begun."""
    done = gollm.train(options(out=str(tmp_path / "runs" / "a"), steps=6, eval_every=2, grad_accumulation=2))
    waiting = tmp_path / "runs" / "b"
    waiting.mkdir()
    (waiting / "config.yaml").write_text((done.folder / "config.yaml").read_text().replace("lr: 0.001", "lr: 0.5"))
    (tmp_path / "runs" / "no run").mkdir()
    return done


def test_settings_losses_and_speed(two_runs, tmp_path):
    a, b = list_runs([tmp_path / "runs"])
    steps = metrics(two_runs.folder)
    assert (a.name, a.model) == (str(two_runs.folder), "1 layers, 16 wide, context 16")
    assert (a.batch, a.lr, a.steps, a.last_step, a.tokens) == (8, 1e-3, 6, 6, 6 * 8 * 16)
    assert (a.best_validation_loss, a.best_step) == (two_runs.best_validation_loss, two_runs.best_step)
    assert a.tokens_per_second == statistics.median(m["tokens_per_second"] for m in steps)
    assert (b.lr, b.steps, b.tokens, b.best_validation_loss, b.tokens_per_second) == (0.5, 0, 0, None, None)
    assert list_runs([two_runs.folder]) == [a]


def test_the_command(two_runs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["runs"]) == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["run", "model", "batch", "lr", "steps", "best", "val", "at", "step", "tok/s"]
    assert first.startswith("runs/a  1 layers, 16 wide, context 16      8  0.001      6  ")
    assert second.split()[-2:] == ["0.5", "0/6"]
    assert main(["runs", "--json"]) == 0
    assert [line["name"] for line in json.loads(capsys.readouterr().out)] == ["runs/a", "runs/b"]


def test_what_is_no_run(two_runs, tmp_path):
    (tmp_path / "runs" / "b" / "config.yaml").write_text("lr: [")
    with pytest.warns(GollmWarning, match="b is left out"):
        assert len(list_runs([tmp_path / "runs"])) == 1
    for line, said in (
        ("lr: null", "lr is None"),
        ("d_model: wide", "d_model is 'wide'"),
        ("steps: [1]", r"steps is \[1\]"),
    ):
        name = line.partition(":")[0]
        config = (tmp_path / "runs" / "a" / "config.yaml").read_text()
        changed = re.sub(rf"(?m)^{name}: .*$", line, config)
        (tmp_path / "runs" / "b" / "config.yaml").write_text(changed)
        with pytest.warns(GollmWarning, match=f"b is left out: {said} in its config.yaml; it must be a number"):
            assert len(list_runs([tmp_path / "runs"])) == 1
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainingError, match=r"there are no runs in .*empty"):
        list_runs([tmp_path / "empty"])
    with pytest.raises(TrainingError, match=r"there is no folder .*nowhere"):
        list_runs([tmp_path / "nowhere"])
