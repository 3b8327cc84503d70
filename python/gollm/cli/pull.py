"""gollm pull"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from gollm.options import Positional


@dataclass(frozen=True)
class Options:
    """Fetch a model from the Hugging Face hub; needs pip install 'gollm[hub]'."""

    model: Annotated[str, Positional]  # its name there: ORG/NAME
    out: Path | None = None  # the new folder; none: NAME in the current one
    revision: str | None = None  # a branch, tag or commit; none: the newest
    file: tuple[str, ...] = ()  # only these files, such as a .gguf; none: what gollm reads of a model


def run(options: Options) -> None:
    import os

    from gollm.formats.hub import pull

    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # or the library reports every attempt of a broken connection
    print(pull(options.model, options.out, options.revision, options.file))
