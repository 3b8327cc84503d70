"""Models from the Hugging Face hub, fetched with its own library (`huggingface_hub`).

A model comes into a folder of its own, which gets its name when everything is there: before that it is called
NAME.part, and the next attempt goes on with the files that are missing.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gollm.errors import HubError
from gollm.system.files import fitting_name, reason
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
_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")


def pull(name: str, out: Path | None = None, revision: str | None = None, files: Sequence[str] = ()) -> Path:
    """Fetches the model `name` (ORG/NAME) and returns its folder: `out`, or NAME in the current one.

    Only what gollm reads of a model is fetched, or just `files`, by their names there. HF_ENDPOINT and HF_TOKEN in the
    environment are what they are for the library. Raises HubError for a model, revision or file that is not there, for
    one without safetensors, and for a connection that fails."""
    try:
        import huggingface_hub
    except ImportError:
        raise HubError("fetching models needs the package huggingface_hub: pip install 'gollm[hub]'") from None
    if not _NAME.fullmatch(name):
        raise HubError(f"the model is called {shorten(name)}; it must be ORG/NAME, as on the hub")
    target = Path(name.rpartition("/")[2]) if out is None else out
    if os.path.exists(target) and (not target.is_dir() or any(target.iterdir())):
        raise HubError(f"{target} is there already; name another folder with --out")
    part = fitting_name(target, "", ".part")
    try:
        found = huggingface_hub.HfApi().model_info(name, revision=revision)
        there = [file.rfilename for file in found.siblings or []]
        for file in _chosen(name, there, files):
            huggingface_hub.hf_hub_download(name, file, revision=found.sha or revision, local_dir=part)
        shutil.rmtree(part / ".cache", ignore_errors=True)  # the library's notes for going on
        os.replace(part, target)
    except HubError:
        raise
    except Exception as failure:  # the library's own errors, its HTTP client's, and the disk's
        raise HubError(_in_words(failure, name, revision, part)) from failure
    return target


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


def _in_words(failure: Exception, name: str, revision: str | None, part: Path) -> str:
    import huggingface_hub.errors as errors

    if isinstance(failure, errors.GatedRepoError):
        return f"{name} is open only to those who have accepted its terms; do that on the hub, and set HF_TOKEN"
    if isinstance(failure, errors.RevisionNotFoundError):
        return f"{name} has no revision {revision!r}; leave --revision out for the newest"
    if isinstance(failure, errors.RepositoryNotFoundError):
        return f"there is no model {name} on the hub, or it is private and HF_TOKEN does not open it"
    what = reason(failure) if isinstance(failure, OSError) and failure.strerror else _first_line(failure)
    kept = f"; {part} keeps the files that have come, and the same command goes on" if part.exists() else ""
    return f"fetching {name} failed: {what}{kept}"


def _first_line(failure: Any) -> str:
    lines = str(failure).strip().splitlines() or [type(failure).__name__]
    return lines[0][:200].rstrip(". ")
