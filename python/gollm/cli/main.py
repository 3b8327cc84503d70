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
    "train": ("train", "train a model from raw text, or resume a run"),
    "pretrain": ("train", "alias of train"),
    "finetune": ("finetune", "fine-tune a model: instructions, preferences, classification"),
    "generate": ("generate", "generate text from a prompt"),
    "chat": ("chat", "chat with a model"),
    "classify": ("classify", "classify texts with a fine-tuned classifier"),
    "eval": ("eval", "compute a model's perplexity, and compare it with another model"),
    "eval choices": ("eval_choices", "compute a model's accuracy on multiple-choice questions"),
    "eval core": ("eval_core", "compute the CORE metric of a model"),
    "eval answers": ("eval_answers", "compare a model's answers with the references of a dataset"),
    "eval memorization": ("eval_memorization", "measure how much of a text a model has memorised"),
    "report": ("report", "plot training runs, or follow them live"),
    "visualize": ("visualize", "plot the attention weights of a prompt"),
    "runs": ("runs", "list training runs with their settings, best loss and speed"),
    "inspect": ("inspect", "plot logit lens, activations and weights of a model"),
    "embeddings": ("embeddings", "plot a map of the token embeddings"),
    "compare": ("compare", "compare training runs"),
    "data list": ("data_list", "list the named datasets"),
    "tokenizer train": ("tokenizer_train", "train a tokenizer from text"),
    "tokenizer encode": ("encode", "convert text to token ids"),
    "tokenizer decode": ("tokenizer_decode", "convert token ids to text"),
    "encode": ("encode", "alias of tokenizer encode"),
    "decode": ("tokenizer_decode", "alias of tokenizer decode"),
    "pull": ("pull", "download a model from the Hugging Face Hub"),
    "convert": ("convert", "convert a model to another format"),
    "quantize": ("quantize", "quantise a model's weights to 16, 8 or 4 bits"),
    "info": ("info", "show the contents of a model file or folder"),
    "gradcheck": ("gradcheck", "compare a model's gradients with finite differences"),
    "bench": ("bench", "measure gollm's speed, compared with PyTorch and the machine's peak"),
    "bench inference": ("bench_inference", "measure a model's prefill and decoding speed, compared with llama.cpp"),
    "doctor": ("doctor", "show build information and the machine's capabilities"),
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
    if words[0] == "help" and words[1:]:
        words = [*words[1:], "--help"]
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
        return f"{said}; use gollm {words[0]} {' or '.join(filter(None, (', '.join(members[:-1]), members[-1])))}"
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
