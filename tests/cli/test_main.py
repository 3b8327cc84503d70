"""The `gollm` command itself: finding commands, exit statuses, one line for each failure."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gollm
from gollm.cli import known_words, process
from gollm.cli import main as cli
from gollm.errors import CheckpointError, ConfigError, warn
from gollm.options import describe

from .conftest import Run


def started(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gollm", *words], capture_output=True, text=True, env={**os.environ, **environment}
    )


def test_help_and_version(run: Run) -> None:
    status, out, err = run("--help")
    assert status == 0 and err == ""
    assert all(f"  {name} " in out for name in cli.COMMANDS)
    assert run("-h") == run("help") == (0, out, "")
    assert run("help", "data", "list") == run("data", "list", "--help")
    assert run("help", "data") == run("data", "--help")
    assert run() == (2, "", out)
    assert run("--version") == (0, f"gollm {gollm.__version__}\n", "")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_for_every_option(name: str, run: Run) -> None:
    status, out, err = run(*name.split(), "--help-all")
    assert (status, err) == (0, "")
    assert f"gollm {name}" in out
    for option in describe(cli.load_command(name).Options).values():
        assert option.help, f"{name} {option.flag} has no help"
        assert option.flag in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["docto"], "gollm: unknown command 'docto'; did you mean gollm doctor?\n"),
        (["zzz"], "gollm: unknown command 'zzz'; gollm --help lists the commands\n"),
        (["doctor", "--jsno"], "gollm: unknown option --jsno; did you mean --json?\n"),
        (["doctor", "here"], "gollm: unexpected argument 'here'; each value of this command goes behind its flag"),
        (["generate", "m", "a", "b"], "gollm: unexpected argument 'b'; --prompt has its value; quote a value with sp"),
        (
            ["generate", "m", "a", "-p", "b"],
            "gollm: unexpected argument 'a'; --prompt has its value; quote a value with spaces,",
        ),
        (["eval", "m", "a.txt"], "gollm: unexpected argument 'a.txt'; did you mean --data a.txt?\n"),
        (["data"], "gollm: gollm data: missing subcommand; use gollm data list\n"),
        (["tokenizer", "x"], "gollm: unknown command 'tokenizer x'; use gollm tokenizer train, encode or decode\n"),
        (["convert", "a", "b", "gguf"], "gollm: unexpected argument 'gguf'; did you mean --to gguf?\n"),
        (["sample"], "gollm: unknown command 'sample'; use gollm generate\n"),
        (["tokenise", "x"], "gollm: unknown command 'tokenise'; use gollm tokenizer encode\n"),
        (
            ["train", "--lr", "1e-5", "--min-lr", "2e-4"],
            "gollm: --min-lr is 0.0002, above the peak (--lr 1e-05), so the",
        ),
        (["train", "--gpu"], "gollm: unknown option --gpu; --device cuda computes on a GPU\n"),
        (["quantize", "--gpu"], "gollm: unknown option --gpu; this command computes on the CPU\n"),
        (["train", "--compile"], "gollm: unknown option --compile; nothing is left to compile: the kernels are"),
        (["train", "--wandb=x"], "gollm: unknown option --wandb; gollm report draws the curves of runs, and in"),
        (["train", "--fp16"], "gollm: unknown option --fp16; --compute-dtype bfloat16 computes in 16 bits"),
        (["generate", "m", "--fp16"], "gollm: unknown option --fp16; with --device cuda, --dtype bfloat16 computes in"),
        (["generate", "m", "--load-in-4bit"], "gollm: unknown option --load-in-4bit; gollm quantize stores a model"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(words: list[str], message: str, run: Run) -> None:
    status, out, err = run(*words)
    assert (status, out) == (2, "")
    assert err.startswith(message) and err.count("\n") == 1


def test_known_words_are_no_options_and_name_what_there_is() -> None:
    commands = {name: describe(cli.load_command(name).Options) for name in cli.COMMANDS}
    flags = {option.flag for options in commands.values() for option in options.values()} | {"--threads"}
    for answers in known_words._FLAGS.values():
        for needed, said in answers:
            assert not needed or any(needed in options for options in commands.values())
            assert set(re.findall(r"--[\w-]+", said)) <= flags
            for name in re.findall(r"gollm (\w+)", said):
                assert name in cli.COMMANDS
    for word, name in known_words._COMMANDS.items():
        assert word not in cli.COMMANDS and name in cli.COMMANDS


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_fits_two_screens(name: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = run(*name.split(), "--help").out.splitlines()
    assert len(lines) <= 2 * 48 and max(map(len, lines)) <= 80


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (CheckpointError("x.golm is damaged"), 1, "gollm: x.golm is damaged\n"),
        (ConfigError("a is 1;\n it must be 2"), 1, "gollm: a is 1; it must be 2\n"),
        (FileNotFoundError(2, "No such file or directory", "x"), 1, "gollm: x: No such file or directory\n"),
        (OSError(28, "No space left on device"), 1, "gollm: No space left on device\n"),
        (MemoryError(), 1, "gollm: not enough memory; use a smaller model or batch\n"),
        (ZeroDivisionError("division by zero"), 1, "gollm: an error inside of gollm, ZeroDivisionError: division by"),
        (KeyboardInterrupt(), 130, ""),
        (SystemExit(0), 0, ""),
    ],
)
def test_each_failure_has_its_line(
    error: BaseException, status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise error

    assert process.guarded(fail) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(message) and captured.err.count("\n") == (1 if message else 0)


def test_debug_shows_the_traceback(run: Run) -> None:
    status, _, err = run("doctor", "--debug", "--jsno")
    assert status == 2
    assert err.startswith("Traceback") and err.endswith("gollm: unknown option --jsno; did you mean --json?\n")


def test_nobody_reads_the_output() -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "gollm", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stderr is not None
    child.stdout.close()
    assert child.stderr.read() == ""
    child.stderr.close()
    assert child.wait() == process.BROKEN_PIPE


def test_a_terminal_without_unicode_is_no_reason_to_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert cli.main(["doctor", "--no-measure"]) == 0


def test_a_warning_is_one_line_and_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    def action() -> int:
        for _ in range(2):  # each of them: another file may have the same fault
            warn("config.json: top_k is -1;\nit is left out")
        return 0

    assert process.guarded(action) == 0
    assert capsys.readouterr().err == 2 * "gollm: warning: config.json: top_k is -1; it is left out\n"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"GOLLM_ISA": "zz"}, "gollm: GOLLM_ISA: instruction-set variant 'zz' cannot be used here; choose one of"),
        ({"GOLLM_NUM_THREADS": "many"}, "gollm: GOLLM_NUM_THREADS is 'many'; it must be a whole number from 1 to 1024"),
    ],
)
def test_a_bad_environment_is_one_line_too(environment: dict[str, str], message: str) -> None:
    result = started("doctor", **environment)
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.startswith(message) and result.stderr.count("\n") == 1


def test_the_installed_command_runs() -> None:
    command = Path(sys.executable).with_name("gollm")
    if not command.exists():
        pytest.skip("gollm is on the path of this Python, but not installed")
    result = subprocess.run([command, "doctor", "--no-measure", "--json"], capture_output=True, text=True)
    assert result.returncode == 0 and result.stderr == ""
    assert json.loads(result.stdout)["version"] == gollm.__version__


def test_the_list_of_commands_needs_no_heavy_import() -> None:
    code = (
        "import sys; from gollm.cli.main import main; main(['--help']); "
        "print([name for name in ('numpy', 'tyro', 'yaml') if name in sys.modules], file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr.strip() == "[]"
