"""gollm generate"""

from __future__ import annotations

import json
import secrets
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from gollm.cli.completions import to_json
from gollm.cli.inputs import text_or_stdin
from gollm.cli.sampling_flags import ModelFlags, SamplingFlags
from gollm.errors import ConfigError
from gollm.options import NonNegativeInt, Positional, PositiveInt

if TYPE_CHECKING:
    from gollm.inference.engine import Stream


@dataclass(frozen=True, kw_only=True)
class Options(SamplingFlags, ModelFlags):
    """Continue a prompt with a trained model of any format, or each prompt of a file. The text of one prompt is printed
    as it is generated; how many tokens it has, the speed and the seed follow on standard error."""

    # text to continue, or - for standard input; an empty prompt starts from the model's BOS or end-of-text token
    prompt: Annotated[str, Positional] = ""
    # a file of prompts instead, one a line, or in JSON lines (*.jsonl) the field "prompt"; blank lines are skipped; -
    # for standard input
    prompts: Path | None = None
    # the JSON lines file for the texts of --prompts, in their order; a rerun goes on where it ends (default: standard
    # output)
    output: Path | None = None
    n: PositiveInt = 1  # number of texts for each prompt
    beams: PositiveInt = 1  # beam search with so many beams, which draws nothing; 1: none
    length_penalty: float = 1.0  # beam search divides the log-probability of a text by its length to this power
    logprobs: NonNegativeInt | None = None  # with JSON: also log-probabilities, with those of so many likeliest tokens
    # when the context is full: forget its oldest half and go on, or stop
    context_full: Literal["forget", "stop"] = "forget"
    echo: bool = True  # print the prompt before its continuation
    json: bool = False  # print one JSON document when done

    DEFAULTS: ClassVar[Mapping[str, str]] = {
        **SamplingFlags.DEFAULTS,
        "seed": "a random one, which is printed; with --prompts 0, so that a rerun goes on",
    }
    RARE: ClassVar = (*SamplingFlags.RARE, "beams", "length_penalty", "logprobs", "context_full")
    SHORT: ClassVar[Mapping[str, str]] = {**SamplingFlags.SHORT, "p": "prompt"}
    HEADINGS: ClassVar[Mapping[str, str]] = {
        "model": "model",
        "max_new_tokens": "sampling",
        "prompt": "prompt and text",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompts is not None and self.prompt:
            raise ConfigError("give either --prompt or --prompts, not both")
        if self.prompts is None and self.output is not None:
            raise ConfigError("--output is for the texts of --prompts; redirect the text of one prompt: > FILE")
        if self.prompts is None and self.logprobs is not None and not self.json:
            raise ConfigError("--logprobs needs --json, which prints them")


def run(options: Options) -> int | None:
    names = ("n", "beams", "length_penalty", "logprobs", "context_full")
    more = {name: getattr(options, name) for name in names}
    if options.prompts is not None:
        from gollm.cli.prompt_file import generate_all

        return generate_all(options, options.prompts, options.output, options.sampling(**more))
    from gollm.inference.engine import Engine

    seed = secrets.randbelow(1 << 32) if options.seed is None else options.seed
    sampling = options.sampling(**more, seed=seed)
    model = options.load()
    if not options.json and (model.defaults.chat_template or model.defaults.chat_templates):
        said = f"gollm chat {shlex.quote(str(options.model))}"
        print(f"note: this model has a chat template, which generate does not use; {said} does", file=sys.stderr)
    prompt = text_or_stdin(options.prompt)
    with Engine(model, draft=options.load_draft()) as engine:
        stream = engine.submit(prompt, sampling)
        if options.json:
            names_of = {"model": str(options.model), "prompt": prompt}
            print(json.dumps({**names_of, **to_json(model, stream.result()), "seed": seed}))
            return None
        started = time.monotonic()
        if options.n > 1:
            for choice in stream.result().choices:
                print((prompt if options.echo else "") + choice.text + "\n")
        else:
            _print_as_it_comes(stream, prompt if options.echo else "")
        seconds = time.monotonic() - started
        found = stream.result()
    draws = sampling.resolved(model.defaults).temperature != 0 and options.beams == 1
    sys.stdout.flush()
    n_tokens = sum(len(choice.tokens) for choice in found.choices or (found,))
    print(figures(n_tokens, seconds, seed if draws else None), file=sys.stderr)
    return None


def _print_as_it_comes(stream: Stream, prompt: str) -> None:
    print(prompt, end="", flush=True)
    try:
        for piece in stream:
            print(piece.text, end="", flush=True)
    finally:
        print()  # an interruption leaves the cursor at the beginning of a line too


def figures(n_tokens: int, seconds: float, seed: int | None) -> str:
    """ "200 tokens, 812.5 tokens/s, seed 7": the prompt's time included; no seed where nothing is drawn."""
    said = [f"{n_tokens:,} tokens"]
    if n_tokens and seconds > 0:
        said.append(f"{n_tokens / seconds:,.1f} tokens/s")
    return ", ".join(said + ([] if seed is None else [f"seed {seed}"]))
