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
    """Continue a prompt with a trained model of any format. The text appears as it is made."""

    model: Annotated[Path, Positional]  # a model in any format; of a training run's folder the best checkpoint
    # what to continue, or - for standard input; empty: start from nothing, where the model has an end-of-text token
    prompt: str = ""
    max_new_tokens: NonNegativeInt = 200  # how many tokens to make at most
    temperature: NonNegativeFloat = 0.8  # 0 takes the likeliest token each time; higher is more varied
    top_k: NonNegativeInt = 0  # draw among the k likeliest tokens; 0: among all
    # draw among the fewest tokens whose probabilities sum to this; 1: among all
    top_p: Annotated[float, Range(above=0, at_most=1)] = 1.0
    seed: NonNegativeInt = 0  # the same seed gives the same text
    tokenizer: Path | None = None  # a tokenizer's file or folder, for a model that has none with it
    context: PositiveInt | None = None  # tokens of prompt and text together; none: as many as the model is for
    # how rotary positions beyond those the model is for are treated; a longer context needs a choice
    rope_scaling: Literal["linear", "llama3", "none"] | None = None
    echo: bool = True  # print the prompt before its continuation
    json: bool = False  # print one JSON document at the end


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
