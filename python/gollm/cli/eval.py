"""gollm eval"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from gollm.options import PathText, Positional, PositiveInt

if TYPE_CHECKING:
    from gollm.evaluation import Evaluation


@dataclass(frozen=True)
class Options:
    """Measure a model on a text: its perplexity, and with --against how far its predictions are from those of the full
    model, such as the one that it was quantised from. Figures come with their standard errors."""

    model: Annotated[Path, Positional]  # a model in any format; of a training run's folder the best checkpoint
    data: tuple[PathText, ...]  # files, folders, wildcards, token shards, or - for standard input
    against: Path | None = None  # the full model, with the same vocabulary
    # tokens of a window: what the model sees at once (default: the model's context, at most 512)
    context: PositiveInt | None = None
    # tokens from one window to the next; a window scores the tokens that no earlier one has scored (default: --context,
    # windows without overlap)
    stride: PositiveInt | None = None
    max_tokens: PositiveInt | None = None  # maximum number of tokens to score (default: all)
    tokenizer: Path | None = None  # a tokenizer's file or folder, for a model that has none with it
    pattern: tuple[str, ...] = ()  # which files of a folder, for example '*.py'
    field: str | None = None  # the field of JSON lines that holds the text
    encoding: str = "utf-8"  # encoding of text files: any that Python knows
    decode_errors: Literal["strict", "replace", "ignore"] = "strict"  # how to handle invalid bytes
    json: bool = False  # print one JSON document

    ALIASES: ClassVar[Mapping[str, str]] = {"corpus": "data"}


def run(options: Options) -> None:
    from tqdm import tqdm

    import gollm
    from gollm.data import open_source
    from gollm.evaluation import evaluate_model

    source = open_source(
        options.data,
        patterns=options.pattern,
        field=options.field,
        encoding=options.encoding,
        errors=options.decode_errors,
    )
    model = gollm.load(options.model, tokenizer=options.tokenizer)
    full = None if options.against is None else gollm.load(options.against, tokenizer=options.tokenizer)
    # disable=None: no bar where standard error is no terminal
    with tqdm(unit=" tokens", unit_scale=True, desc="evaluating", leave=False, disable=None) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        found = evaluate_model(
            model,
            source,
            against=full,
            context=options.context,
            stride=options.stride,
            max_tokens=options.max_tokens,
            progress=show,
        )
    if options.json:
        names = {"model": str(options.model), "full_model": None if full is None else str(options.against)}
        print(json.dumps({**names, "data": source.name, **found.to_dict()}))
    else:
        print(in_lines(found, str(options.model), str(options.against), source.name))


def in_lines(found: Evaluation, model: str, full: str, data: str) -> str:
    bits = "" if found.bits_per_byte is None else f", {found.bits_per_byte:.4f} bits per byte"
    rows = [
        ("model", model),
        ("data", f"{data}: {found.n_tokens:,} tokens scored, windows of {found.context}, {found.stride} apart"),
        ("perplexity", str(found.perplexity)),
        ("cross-entropy", f"{found.cross_entropy} nats{bits}"),
    ]
    if (other := found.against) is not None:
        rows += [
            ("", ""),
            ("full model", full),
            ("its perplexity", str(other.perplexity)),
            ("ratio", f"{other.perplexity_ratio} (model / full model)"),
            ("log ratio", str(other.log_perplexity_ratio)),
            ("KL, mean", f"{other.mean_kl} nats"),
            ("KL, median", f"{other.median_kl} nats"),
            ("KL, 99 %", f"{other.kl_99} nats"),
            ("RMS Δp", f"{other.rms_delta_p.times(100)} %"),
            ("same top token", f"{other.same_top.times(100)} %"),
        ]
    return "\n".join(f"{name:16}{text}".rstrip() for name, text in rows)
