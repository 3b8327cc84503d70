"""Models from the Hugging Face hub."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from gollm.errors import HubError
from gollm.system.hub import fetch_folder
from gollm.system.strict_json import shorten

_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)
_NEEDED = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
_ENDINGS = (".golm", ".gguf", ".bin", ".json", ".model", ".txt", ".safetensors", ".pt", ".pth")
_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")


def pull(name: str, out: Path | None = None, revision: str | None = None, files: Sequence[str] = ()) -> Path:
    """Fetches the model `name` (ORG/NAME) and returns its folder: `out`, or NAME in the current one.

    Only what gollm reads of a model is fetched, or just `files`, by their names there. Raises HubError for a model,
    revision or file that is not there, for one without safetensors, and for a connection that fails."""
    check_name(name)
    target = Path(name.rpartition("/")[2]) if out is None else out
    if os.path.exists(target) and (not target.is_dir() or any(target.iterdir())):
        raise HubError(f"{target} is there already; name another folder with --out")
    fetch_folder(name, target, lambda there: _chosen(name, there, files), revision=revision)
    return target


def check_name(name: str) -> None:
    """Raises HubError for what cannot be a model's name there."""
    if not _NAME.fullmatch(name):
        raise HubError(f"the model is called {shorten(name)}; it must be ORG/NAME, as on the hub")


def on_the_hub(path: Path) -> str:
    """What to say of a path that is not there but could be a model's name on the hub: ORG/NAME where there is no folder
    ORG, or one word; else nothing."""
    name = str(path)
    known = os.path.isdir(path.parent) if path.parent != Path() else path.suffix.lower() in _ENDINGS
    if known or not _NAME.fullmatch(name):
        return ""
    return f"; a model on the Hugging Face hub is fetched with: gollm pull {name}"


def _chosen(name: str, there: Sequence[str], files: Sequence[str]) -> list[str]:
    """The files to fetch, the weights last."""
    for file in files:
        if file not in there or file.startswith("/") or ".." in file.split("/"):
            raise HubError(f"{name} has no file {shorten(file)}; it has {', '.join(sorted(there)[:20]) or 'none'}")
    if files:
        return list(files)
    weights = sorted(file for file in there if _WEIGHTS.fullmatch(file))
    if not weights:
        others = sorted(file for file in there if file.endswith((".gguf", ".bin", ".pt", ".pth")))
        raise HubError(
            f"{name} has no safetensors, which gollm reads; "
            + (
                f"it has {', '.join(others[:10])}; a .gguf can be fetched with --file"
                if others
                else "it has no weights"
            )
        )
    return [*(file for file in _NEEDED if file in there), *weights]
