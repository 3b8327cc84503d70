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
    """Generate text from a prompt, or from each prompt of a file. A single text is printed as it is generated. The
    number of tokens, the speed and the seed are printed to standard error."""

    # prompt, or - for standard input; an empty prompt starts from the BOS or end-of-text token
    prompt: Annotated[str, Positional] = ""
    # file of prompts, one per line or in the field "prompt" of JSON lines (*.jsonl); blank lines are skipped; - for
    # standard input
    prompts: Path | None = None
    # JSON Lines output file for --prompts, in the order of the prompts; the same command resumes an interrupted run
    # (default: standard output)
    output: Path | None = None
    n: PositiveInt = 1  # number of texts per prompt
    beams: PositiveInt = 1  # number of beams for beam search; 1: no beam search
    length_penalty: float = 1.0  # beam search: divide the log-probability of a text by length ** length_penalty
    logprobs: NonNegativeInt | None = None  # with --json: log-probabilities, with this many alternatives per token
    # when the context is full: forget (drop the oldest half and continue) or stop
    context_full: Literal["forget", "stop"] = "forget"
    echo: bool = True  # print the prompt before the generated text
    json: bool = False  # print one JSON document when done

    DEFAULTS: ClassVar[Mapping[str, str]] = {
        **SamplingFlags.DEFAULTS,
        "seed": "a random seed, which is printed; 0 with --prompts, so that a run can be resumed",
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
