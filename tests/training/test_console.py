"""What `gollm train` prints, to a file and to a terminal."""

import os
import re
import struct
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

import gollm
from gollm import TrainOptions, _native
from gollm.training import prepare_job
from gollm.training.console import Console
from gollm.training.estimate import flops_per_token

from .conftest import command, metrics


@pytest.fixture
def console():
    return Console(2e11)


def test_a_table_before_anything_is_allocated(options, console, capsys):
    job = prepare_job(options(d_model=512, n_heads=8, n_layers=3, batch_size=64))
    before = _native.pool_statistics()["bytes_held"]
    console.announce(job)
    assert _native.pool_statistics()["bytes_held"] == before
    table = dict(re.split(r"\s+", line, maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert list(table) == ["data", "tokenizer", "model", "training", "machine", "memory", "time", "run"]
    assert "training tokens" in table["data"] and "validation tokens" in table["data"]
    assert table["tokenizer"] == f"character, vocabulary of {job.tokenizer.vocab_size}"
    assert table["model"].startswith("3 layers, 8 heads, 512 wide, context 16: 9,4")
    assert table["training"].startswith("6 steps of 1,024 tokens")
    assert table["machine"].endswith("200 GFLOP/s")
    assert re.match(r"about [\d.]+ [MG]B: 1\d\d MB weights, gradients and moments, \d+ MB activations", table["memory"])


def test_products_of_bfloat16_make_the_announced_time_shorter(options, console, capsys, monkeypatch):
    """Four fifths of the time of a step are products: at four times the speed, two fifths are left."""
    seconds = []
    monkeypatch.setattr("gollm.training.console._duration", lambda value: seconds.append(value) or "a while")
    monkeypatch.setattr("gollm.training.console.product_rate", lambda compute, _: 4e11 if compute else 1e11)
    monkeypatch.setattr("gollm.training.estimate.STEP_SECONDS", 0.0)
    for dtype in ("float32", "bfloat16"):
        with prepare_job(options(compute_dtype=dtype)) as job:
            console.announce(job)
    assert seconds[1] == pytest.approx(0.4 * seconds[0])
    assert "of peak FLOP/s, and 4.0 times that in products of bfloat16)" in capsys.readouterr().out


def test_too_little_memory_is_said_loudly_where_a_run_is_forced(options, console, capsys):
    console.announce(prepare_job(options(n_layers=100, d_model=2**14, n_heads=2**7, force=True)))
    assert re.search(r"memory .* MORE THAN THE [\d.]+ GB THAT ARE FREE\n", capsys.readouterr().out)


def test_too_little_to_judge_by_is_said(options, console, capsys):
    console.announce(prepare_job(options(validation_fraction=0.0)))
    assert "0 validation tokens, too few" in capsys.readouterr().out


def test_lines(options, console, capsys):
    result = gollm.train(options(steps=25, log_every=10, eval_every=20, sample_tokens=4), [console])
    out = capsys.readouterr().out
    line = (
        r"step ([ \d]\d)/25 \| loss (\d\.\d{3}) \| norm \d\.\d\d \| lr \d\.\de-\d\d \| [\d.]+k? tok/s \| eta \d:\d\d$"
    )
    shown = {int(step): float(loss) for step, loss in re.findall(line, out, re.M)}
    losses = [m["loss"] for m in metrics(result.folder)]
    for last, first in {1: 0, 10: 1, 20: 10, 25: 20}.items():  # the mean since the line before
        assert shown.pop(last) == pytest.approx(np.mean(losses[first:last]), abs=6e-4)
    assert not shown
    evaluated = re.findall(
        r"^step (\d+) \| val \d\.\d{4} \| \d\.\d{3} bpb \| best \| \d:\d\d \| \d+% of peak$", out, re.M
    )
    assert evaluated == ["20", "25"]
    assert len(re.findall(r"^--- a sample after step \d+\n", out, re.M)) == 2
    assert re.search(
        r"^done: 25 steps in \d+ s, [\d.]+k? tok/s, \d+% of peak\nbest: validation loss \d\.\d{4} at step 25$",
        out,
        re.M,
    )
    assert "gollm generate" in out.splitlines()[-1]


def test_lines_fit_a_terminal_of_80_columns(console):
    """A run of days with a large vocabulary, at a norm that is out of bounds."""
    values = {"loss": 11.83521, "grad_norm": 1234.5, "lr": 1.25e-4, "tokens_per_second": 256_123.4, "step": 100_000}
    console._first, console._started = 0, time.monotonic() - 200_000
    for total in (999_999, 100_000):
        assert len(console.line(values, total)) <= 80
    console._tokens, console._seconds, console.flops_per_token = 1e9, 1e4, 1e6
    trainer = SimpleNamespace(best_validation_loss=10.5)
    evaluated = {"step": 100_000, "validation_loss": 11.2345, "validation_bits_per_byte": 10.1234}
    assert len(console.evaluation_line(evaluated, trainer)) <= 80


def test_the_share_of_the_peak(options, console, capsys):
    result = gollm.train(options(steps=3), [console])
    steps = metrics(result.folder)
    rate = 64 * len(steps) / sum(m["ms"] for m in steps) * 1e3
    share = rate * flops_per_token(gollm.load(result.checkpoint).config) / 2e11
    assert f"tok/s, {share:.0%} of peak\n" in capsys.readouterr().out


def test_overfitting_is_said_at_the_end(options, console, capsys, tmp_path):
    (tmp_path / "few.txt").write_text("bakori nuse la " * 8 + "senula " * 3)
    data = {"data": (str(tmp_path / "few.txt"),), "validation_split": "end", "validation_fraction": 0.2, "context": 8}
    result = gollm.train(options(**data, lr=0.02, steps=60, eval_every=4), [console])
    out = capsys.readouterr().out
    rose = 60 - result.best_step
    assert rose and f"at step {result.best_step}; it rose for {rose} steps after that, as the model learned" in out
    assert re.search(r"^step 60 \| val .* \| best \d\.\d{4} \|", out, re.M)


def test_within_an_epoch_nothing_is_learned_by_heart(options, console, capsys):
    """A loss that rises then has other reasons: here a learning rate far too high."""
    result = gollm.train(options(lr=0.9, schedule="constant", warmup_steps=0, steps=4, eval_every=1), [console])
    assert result.best_step < 4
    assert (
        f"at step {result.best_step}; it rose for {4 - result.best_step} steps after that\n" in capsys.readouterr().out
    )


def test_what_the_tokenizer_did_not_reach_is_said(options, tmp_path):
    with prepare_job(options(tokenizer="bpe", vocab_size=20_000)) as job:
        n = job.tokenizer.vocab_size
        assert n < 20_000 and f"vocabulary of {n:,} (20,000 asked for; the text has no more)" in job.table["tokenizer"]
    (tmp_path / "abc.txt").write_text("aaaabbbbcdefghij" * 50)
    data = {"data": (str(tmp_path / "abc.txt"),), "tokenizer": "character", "vocab_size": 4, "out": str(tmp_path / "2")}
    with prepare_job(options(**data)) as job:
        assert "50.0% of the training tokens are unknown" in job.table["tokenizer"]


def test_a_resumed_run_says_where_it_goes_on(options, console, capsys):
    result = gollm.train(options(steps=4))
    job = prepare_job(TrainOptions(resume=str(result.folder), steps=10))
    assert (job.n_done, job.total_steps) == (4, 10)
    job.run([console])
    out = capsys.readouterr().out
    assert "resumed    after step 4 of 10" in out
    assert re.search(r"^done: 10 steps, the last 6 of them in \d+ s, ", out, re.M)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudoterminal")
def test_a_progress_bar_on_a_terminal(options):
    """The bar is on the terminal, the lines are in the file."""
    import fcntl
    import pty
    import termios

    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))  # rows, columns
    process = subprocess.Popen(
        [sys.executable, "-m", "gollm.train", *command(options(steps=30))],
        stdout=subprocess.PIPE,
        stderr=end,
        text=True,
    )
    os.close(end)
    out, _ = process.communicate(timeout=60)
    shown = b""
    try:
        while piece := os.read(terminal, 4096):
            shown += piece
    except OSError:  # its other end is closed
        pass
    os.close(terminal)
    assert process.returncode == 0
    assert re.search(rb"\d+/30 \[.*step/s", shown)
    assert "\r" not in out and "step 30/30 | loss" in out
