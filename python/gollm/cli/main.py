"""The entry point: finds the command, parses its options, runs it."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import gollm
from gollm.cli.known_words import instead_of_command
from gollm.cli.process import USAGE, Usage, guarded, open_streams
from gollm.errors import ConfigError

# command -> its module, what it does
COMMANDS = {
    "train": ("train", "train a model from raw text, or go on with a run"),
    "pretrain": ("train", "the same as train"),
    "finetune": ("finetune", "teach a model to do something, from examples"),
    "generate": ("generate", "continue a prompt with a trained model"),
    "chat": ("chat", "talk with a model"),
    "classify": ("classify", "tell the labels of texts, by a model that was trained for it"),
    "eval": ("eval", "measure a model's perplexity on a text, and compare it with another model"),
    "eval choices": ("eval_choices", "measure how often a model answers multiple-choice questions rightly"),
    "eval core": ("eval_core", "compute the CORE metric of a model over a set of tasks"),
    "eval answers": ("eval_answers", "compare a model's answers with those of a data set"),
    "eval memorization": ("eval_memorization", "measure how much of a text a model recites"),
    "report": ("report", "draw the curves of training runs, or follow them live"),
    "visualize": ("visualize", "draw the attention weights of a prompt"),
    "runs": ("runs", "list training runs with their settings, best loss and speed"),
    "inspect": ("inspect", "draw what each layer makes of a prompt, and the weights"),
    "embeddings": ("embeddings", "draw a map of the token embeddings"),
    "compare": ("compare", "show training runs beside each other"),
    "data list": ("data_list", "list the corpora that have a name"),
    "tokenizer train": ("tokenizer_train", "train a tokenizer from text"),
    "tokenizer encode": ("encode", "turn text into token ids"),
    "tokenizer decode": ("tokenizer_decode", "turn token ids into text"),
    "encode": ("encode", "the same as tokenizer encode"),
    "decode": ("tokenizer_decode", "the same as tokenizer decode"),
    "pull": ("pull", "fetch a model from the Hugging Face hub"),
    "convert": ("convert", "turn a model into another format"),
    "quantize": ("quantize", "store a model's weights in 16, 8 or 4 bits"),
    "info": ("info", "show what a model's file or folder contains"),
    "gradcheck": ("gradcheck", "compare a model's gradients with finite differences"),
    "bench": ("bench", "measure gollm's speed against PyTorch and the machine's limits"),
    "bench inference": ("bench_inference", "measure a model's prefill and decoding speed, and llama.cpp's beside it"),
    "doctor": ("doctor", "show how gollm was built and what this machine can do"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line (without the program's name) and returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    open_streams()
    return guarded(lambda: _dispatch(words), debug="--debug" in words)


def load_command(name: str) -> ModuleType:
    """The module of a command: `Options` and `run`."""
    return importlib.import_module(f"gollm.cli.{COMMANDS[name][0]}")


def _dispatch(words: list[str]) -> int:
    if not words:
        print(overview(), end="", file=sys.stderr)
        return USAGE
    if words[0] in ("-h", "--help", "help"):
        print(overview(), end="")
        return 0
    if words[0] in ("--version", "-V"):
        print(f"gollm {gollm.__version__}")
        return 0
    members = [] if words[0] in COMMANDS else [name for name in COMMANDS if name.startswith(words[0] + " ")]
    if members and words[1:2] in (["-h"], ["--help"]):
        print(overview(members), end="")
        return 0
    n = 2 if " ".join(words[:2]) in COMMANDS and words[1:] else 1  # words in the name
    if " ".join(words[:n]) not in COMMANDS:
        raise Usage(_unknown(words, [member.split()[1] for member in members]))
    return _run(" ".join(words[:n]), words[n:])


def _unknown(words: list[str], members: list[str]) -> str:
    from gollm.options import nearest

    if members:
        said = f"unknown command {' '.join(words[:2])!r}" if words[1:] else f"gollm {words[0]}: missing subcommand"
        return f"{said}; use {', '.join(members[:-1])} or {members[-1]}"
    if instead := instead_of_command(words[0]):
        return f"unknown command {words[0]!r}; use gollm {instead}"
    near = nearest(words[0], [*COMMANDS, *(name.split()[0] for name in COMMANDS)])
    return f"unknown command {words[0]!r}; " + (
        f"did you mean gollm {near}?" if near else "gollm --help lists the commands"
    )


def _run(name: str, words: list[str]) -> int:
    from gollm.cli.flags import parse

    module = load_command(name)
    try:
        description = inspect.getdoc(module.Options) or ""
        options: Any = parse(module.Options, words, prog=f"gollm {name}", description=description)
    except ConfigError as error:
        raise Usage(str(error)).with_traceback(error.__traceback__) from None
    return module.run(options) or 0


def overview(names: Sequence[str] = tuple(COMMANDS)) -> str:
    """The list of commands."""
    width = max(map(len, names))
    lines = [f"  {name:{width}}  {COMMANDS[name][1]}" for name in names]
    return OVERVIEW.format("\n".join(lines))


OVERVIEW = """\
usage: gollm COMMAND [OPTIONS]

Train and run small language models on the machine you have.

{}

gollm COMMAND --help lists the options of a command; gollm --version shows the version.
"""


if __name__ == "__main__":
    sys.exit(main())
