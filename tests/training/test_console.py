"""What `gollm train` prints, to a file and to a terminal."""

import os
import re
import struct
import subprocess
import sys

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


def test_too_little_memory_is_said_loudly(options, console, capsys):
    console.announce(prepare_job(options(n_layers=100, d_model=2**14, n_heads=2**7)))
    assert re.search(r"memory .* MORE THAN THE [\d.]+ GB THAT ARE FREE: use a smaller", capsys.readouterr().out)


def test_too_little_to_judge_by_is_said(options, console, capsys):
    console.announce(prepare_job(options(validation_fraction=0.0)))
    assert "0 validation tokens, too few" in capsys.readouterr().out


def test_lines(options, console, capsys):
    gollm.train(options(steps=25, log_every=10, eval_every=20, sample_tokens=4), [console])
    out = capsys.readouterr().out
    number = r"[\d,.]+"
    line = (
        rf"step ([ \d]\d)/25 \| loss {number} \| norm {number} \| lr \d\.\d\de-\d\d \| {number} ms \| "
        rf"{number}% of peak \| {number} tok/s"
    )
    assert re.findall(line, out) == [" 1", "10", "20", "25"]
    assert len(re.findall(r"^validation loss \d\.\d{4} \(the best so far\)$", out, re.M)) == 2
    assert len(re.findall(r"^--- a sample after step \d+\n", out, re.M)) == 2
    assert re.search(r"^done: 25 steps in \d+ s, best validation loss", out, re.M)
    assert "gollm generate" in out.splitlines()[-1]


def test_the_share_of_the_peak(options, console, capsys):
    result = gollm.train(options(steps=1), [console])
    rate = metrics(result.folder)[0]["tokens_per_second"]
    share = rate * flops_per_token(gollm.load(result.checkpoint).config) / 2e11
    assert f"| {share:.1%} of peak |" in capsys.readouterr().out


def test_a_resumed_run_says_where_it_goes_on(options, console, capsys):
    result = gollm.train(options(steps=4))
    job = prepare_job(TrainOptions(resume=str(result.folder), steps=10))
    assert (job.n_done, job.total_steps) == (4, 10)
    job.run([console])
    assert "resumed    after step 4 of 10" in capsys.readouterr().out


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
