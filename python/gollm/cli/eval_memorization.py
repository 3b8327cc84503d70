"""gollm eval memorization"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from gollm.options import PathText, Positional, PositiveInt


@dataclass(frozen=True)
class Options:
    """Measure how much of a text a model has memorised: how often it continues a passage with exactly the tokens of the
    text. Compare training data with text that the model has not seen."""

    model: Annotated[Path, Positional]  # model in any format, or a run folder (best checkpoint)
    data: Annotated[tuple[PathText, ...], Positional]  # files, folders, wildcards, token shards, or -
    places: PositiveInt = 100  # maximum number of passages, spread evenly over the text
    prefix: PositiveInt = 50  # prompt length, in tokens
    length: PositiveInt = 50  # continuation length, in tokens
    pattern: tuple[str, ...] = ()  # patterns of the files to read in a folder, for example '*.py'
    field: str | None = None  # JSON Lines field with the text
    tokenizer: Path | None = None  # tokenizer file or folder, for a model without a tokenizer
    json: bool = False  # print one JSON document

    ALIASES: ClassVar[Mapping[str, str]] = {"corpus": "data"}


def run(options: Options) -> None:
    from tqdm import tqdm

    import gollm
    from gollm.cli.evaluations import note
    from gollm.data import open_source
    from gollm.evaluation import memorization

    source = open_source(options.data, patterns=options.pattern, field=options.field)
    model = gollm.load(options.model, tokenizer=options.tokenizer)
    with tqdm(total=options.places, unit=" places", leave=False, disable=None) as bar:
        found = memorization(
            model,
            source,
            places=options.places,
            prefix=options.prefix,
            length=options.length,
            progress=bar.update,
        )
    note(options.model, "memorization", {source.name: found.recited.value})
    if options.json:
        print(json.dumps({"model": str(options.model), "data": source.name, **dataclasses.asdict(found)}))
        return
    print(f"places          {found.n_places:,}: {found.prefix} tokens read, {found.length} written")
    print(f"recited         {found.recited.times(100)} %")
    print(f"tokens matched  {found.matched:.2f} of {found.length}")
