"""gollm eval"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from gollm.cli.process import Usage, of_the_device
from gollm.errors import ConfigError
from gollm.nn.devices import DeviceName, ModelDType
from gollm.options import PathText, Positional, PositiveInt

if TYPE_CHECKING:
    from gollm.evaluation import Evaluation


@dataclass(frozen=True)
class Options:
    """Compute the perplexity of a model on a text. With --against, also compare its predictions with those of a
    reference model, for example the model before quantisation. Results have standard errors."""

    model: Annotated[Path, Positional]  # model in any format, or a run folder (best checkpoint)
    data: tuple[PathText, ...]  # files, folders, wildcards, token shards, or - for standard input
    against: Path | None = None  # reference model with the same vocabulary
    # window size, in tokens (default: the model's context, at most 512)
    context: PositiveInt | None = None
    # distance between window starts, in tokens; each window scores only tokens that were not scored before (default:
    # --context, windows without overlap)
    stride: PositiveInt | None = None
    max_tokens: PositiveInt | None = None  # maximum number of tokens to score (default: all)
    tokenizer: Path | None = None  # tokenizer file or folder, for a model without a tokenizer
    pattern: tuple[str, ...] = ()  # patterns of the files to read in a folder, for example '*.py'
    field: str | None = None  # JSON Lines field with the text
    encoding: str = "utf-8"  # encoding of text files: any Python codec
    decode_errors: Literal["strict", "replace", "ignore"] = "strict"  # how to handle invalid bytes
    device: DeviceName = "cpu"  # device; auto: the GPU if one is available, otherwise the CPU
    dtype: ModelDType = "float32"  # on a GPU: dtype of weights and activations
    per_file: bool = False  # evaluate each file separately
    by_position: bool = False  # also show the cross-entropy by token position in the window
    json: bool = False  # print one JSON document

    ALIASES: ClassVar[Mapping[str, str]] = {"corpus": "data"}

    def __post_init__(self) -> None:
        if self.stride is not None and self.context is not None and self.stride > self.context:
            raise ConfigError(
                f"--stride is {self.stride}; it must be at most --context ({self.context}), or tokens are left out"
            )


def run(options: Options) -> None:
    from tqdm import tqdm

    import gollm
    from gollm.cli.evaluations import note
    from gollm.data import DataSource, Files, open_source
    from gollm.errors import DataError
    from gollm.evaluation import evaluate_model

    def source_of(data: Sequence[str | Path], patterns: Sequence[str] = ()) -> DataSource:
        return open_source(
            data,
            patterns=patterns,
            field=options.field,
            encoding=options.encoding,
            errors=options.decode_errors,
        )

    whole = source_of(options.data, options.pattern)
    sources = [whole]
    if options.per_file:
        if not isinstance(whole, Files):
            raise DataError(f"{whole.name} has no files of text, which --per-file measures")
        sources = [source_of([path]) for path in whole.paths]
    load = partial(gollm.load, tokenizer=options.tokenizer, device=options.device, dtype=options.dtype)
    with of_the_device():
        model = load(options.model)
        full = None if options.against is None else load(options.against)
    found = []
    for source in sources:
        # disable=None: no bar where standard error is no terminal
        with tqdm(unit=" tokens", unit_scale=True, desc="evaluating", leave=False, disable=None) as bar:

            def show(done: int, total: int, bar: Any = bar) -> None:
                bar.total = total
                bar.update(done - bar.n)

            try:
                one = evaluate_model(
                    model,
                    source,
                    against=full,
                    context=options.context,
                    stride=options.stride,
                    max_tokens=options.max_tokens,
                    progress=show,
                )
            except ConfigError as error:  # an option that does not go with the model
                raise Usage(str(error)) from None
            found.append(one)
    names = [source.name for source in sources]
    note(
        options.model,
        "bits per byte",
        {n: x.bits_per_byte for n, x in zip(names, found, strict=True) if x.bits_per_byte},
    )
    if options.json:
        models = {"model": str(options.model), "full_model": None if full is None else str(options.against)}
        documents = [{**models, "data": name, **one.to_dict()} for name, one in zip(names, found, strict=True)]
        print(json.dumps({"files": documents} if options.per_file else documents[0]))
    elif options.per_file:
        print(in_table(dict(zip(names, found, strict=True))))
    else:
        print(in_lines(found[0], str(options.model), str(options.against), names[0]))
        if options.by_position:
            rows = (f"{one.first}-{one.last}".ljust(16) + f"{one.cross_entropy:.4f}" for one in found[0].by_position)
            print("\n" + "tokens before".ljust(16) + "cross-entropy\n" + "\n".join(rows))


def in_table(found: Mapping[str, Evaluation]) -> str:
    """A line for each file."""
    width = max(map(len, (*found, "file")))
    lines = [f"{'file':<{width}}  {'tokens':>12}  {'bits per byte':>13}  {'perplexity':>16}"]
    for name, one in found.items():
        bits = "" if one.bits_per_byte is None else f"{one.bits_per_byte:.4f}"
        lines.append(f"{name:<{width}}  {one.n_tokens:>12,}  {bits:>13}  {one.perplexity!s:>16}")
    return "\n".join(lines)


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
