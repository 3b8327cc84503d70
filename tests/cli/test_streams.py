"""Standard streams that are closed or full, and SIGTERM: a status and at most a sentence, and no work is lost."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

FULL = Path("/dev/full")
TRAIN = (
    "train cats.txt --out mine --preset tiny --n-layers 1 --d-model 16 --context 8 --tokenizer character --steps 4 "
    "--batch-size 2 --sample-tokens 5 --eval-batches 1"
)


@pytest.fixture(autouse=True)
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GOLLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # Python's buffers are what is flushed once more at its end
    (tmp_path / "cats.txt").write_text("the cat sat on the mat. the dog sat on the cat!\n" * 40)


def shell(line: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", line.replace("gollm", f"{sys.executable} -m gollm", 1)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(("command", "status"), [("doctor", 0), ("info nothing", 1), ("--help", 0), (TRAIN, 0)])
def test_closed_streams(command: str, status: int, closed: str) -> None:
    result = shell(f"gollm {command} {closed}")
    assert result.returncode == status
    said = "gollm: there is no file or folder nothing; a model on the Hugging Face hub is fetched with: "
    said += "gollm pull nothing\n"
    assert result.stderr == (said if status and "2>" not in closed else "")
    assert command != TRAIN or len(Path("mine/metrics.jsonl").read_text().splitlines()) == 4


def test_data_from_a_closed_standard_input() -> None:
    result = shell("gollm train - --out mine <&-")
    assert result.returncode == 1 and result.stderr.startswith("gollm: ") and result.stderr.count("\n") == 1
    assert not Path("mine").exists()


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize("command", ["doctor", "--help", "info --help", TRAIN, f"{TRAIN} --json"])
def test_a_full_disk_under_the_output(command: str) -> None:
    result = shell(f"gollm {command} >/dev/full")
    assert result.returncode == 1
    assert re.fullmatch("gollm: (standard output: )?No space left on device\n", result.stderr)
    if command.startswith(TRAIN):
        assert len(Path("mine/metrics.jsonl").read_text().splitlines()) == 4
        assert Path("mine/step-00000004.golm").exists()


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
def test_a_full_disk_under_the_messages() -> None:
    assert shell("gollm info nothing 2>/dev/full").returncode == 1


def test_nobody_reads_the_output_of_a_run() -> None:
    """The run ends with the step that it could not report, which is saved."""
    result = shell(f"gollm {TRAIN.replace('--steps 4', '--steps 100000')} --log-every 1 | head -n 12")
    assert result.stderr == "" and len(result.stdout.splitlines()) == 12
    done = len(Path("mine/metrics.jsonl").read_text().splitlines())
    assert Path(f"mine/step-{done:08d}.golm").exists()
    assert shell(f"gollm train --resume mine --steps {done + 1}").returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_data_is_read(tmp_path: Path, number: int) -> None:
    """Nothing is left: no run folder, no half of a cache."""
    (tmp_path / "cats.txt").write_text("".join(f"cat {i} sat on {i * i % 997}\n" for i in range(2_000_000)))
    process = subprocess.Popen(
        [sys.executable, "-m", "gollm", *TRAIN.split()], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "mine" / ".lock").exists():
        time.sleep(0.01)
    time.sleep(0.2)
    os.kill(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (128 + number, "", "")
    assert not (tmp_path / "mine").exists()
    assert not list(tmp_path.glob("cache/tokens/.*.tmp"))
