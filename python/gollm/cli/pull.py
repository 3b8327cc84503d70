"""gollm pull"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from gollm.cli.process import of_the_words
from gollm.options import Positional


@dataclass(frozen=True)
class Options:
    """Download a model from the Hugging Face Hub. Requires pip install 'gollm[hub]'."""

    model: Annotated[str, Positional]  # model name on the Hub: ORG/NAME
    out: Path | None = None  # output folder (default: NAME in the current folder)
    revision: str | None = None  # branch, tag or commit (default: the newest)
    file: tuple[str, ...] = ()  # files to download, for example a .gguf (default: all files that gollm reads)


def run(options: Options) -> None:
    from gollm.formats.hub import check_name, pull

    with of_the_words():
        check_name(options.model)
    print(pull(options.model, options.out, options.revision, options.file))
