"""gollm generate"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from gollm.cli.inputs import text_or_stdin
from gollm.options import NonNegativeFloat, NonNegativeInt, Positional, PositiveInt, Range


@dataclass(frozen=True)
class Options:
    """Continue a prompt with a trained model of any format. The text is printed as it is generated."""

    model: Annotated[Path, Positional]  # a model in any format; of a training run's folder the best checkpoint
    # text to continue, or - for standard input; an empty prompt starts from the model's BOS or end-of-text token
    prompt: str = ""
    max_new_tokens: NonNegativeInt = 200  # maximum number of tokens to generate
    temperature: NonNegativeFloat = 0.8  # sampling temperature; 0 always takes the likeliest token
    top_k: NonNegativeInt = 0  # sample from the k likeliest tokens; 0: from all
    # nucleus sampling threshold: sample from the fewest tokens whose probabilities sum to this; 1: from all
    top_p: Annotated[float, Range(above=0, at_most=1)] = 1.0
    seed: NonNegativeInt = 0  # the same seed gives the same text
    tokenizer: Path | None = None  # a tokenizer's file or folder, for a model that has none with it
    context: PositiveInt | None = None  # maximum length in tokens, prompt included (default: the model's context)
    # how rotary positions beyond the model's context are scaled; required for a longer context
    rope_scaling: Literal["linear", "llama3", "none"] | None = None
    echo: bool = True  # print the prompt before its continuation
    json: bool = False  # print one JSON document when done


def run(options: Options) -> None:
    import gollm

    model = gollm.load(
        options.model, tokenizer=options.tokenizer, context=options.context, rope_scaling=options.rope_scaling
    )
    prompt = text_or_stdin(options.prompt)
    pieces = model.stream(
        prompt,
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        seed=options.seed,
    )
    if options.json:
        print(
            json.dumps({"model": str(options.model), "prompt": prompt, "text": "".join(pieces), "seed": options.seed})
        )
        return
    if options.echo:
        print(prompt, end="", flush=True)
    try:
        for piece in pieces:
            print(piece, end="", flush=True)
    finally:
        print()  # an interruption leaves the cursor at the beginning of a line too
