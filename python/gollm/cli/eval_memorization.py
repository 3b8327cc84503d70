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
    """Measure how much of a text a model recites: how often it continues a part of it, taken from anywhere, with
    exactly the tokens that follow there. Compare its training data with text that it has not seen."""

    model: Annotated[Path, Positional]  # a model in any format; of a training run's folder the best checkpoint
    data: Annotated[tuple[PathText, ...], Positional]  # files, folders, wildcards, token shards, or -
    places: PositiveInt = 100  # maximum number of places, spread evenly over the text
    prefix: PositiveInt = 50  # tokens that the model reads
    length: PositiveInt = 50  # tokens that it has to recite
    pattern: tuple[str, ...] = ()  # which files of a folder, for example '*.py'
    field: str | None = None  # the field of JSON lines that holds the text
    tokenizer: Path | None = None  # a tokenizer's file or folder, for a model that has none with it
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
