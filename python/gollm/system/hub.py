"""Folders of files from the Hugging Face hub, fetched with its own library (`huggingface_hub`).

A folder gets its name when everything is there: before that it is called NAME.part, and the next attempt goes on with
the files that are missing. HF_ENDPOINT and HF_TOKEN in the environment are what they are for the library.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gollm.errors import HubError
from gollm.system.files import fitting_name, open_regular, reason

Choose = Callable[[Sequence[str]], Sequence[str]]


def fetch_folder(name: str, target: Path, choose: Choose, *, kind: str = "model", revision: str | None = None) -> None:
    """Fetches files of `name` (ORG/NAME), a model or a dataset, into the new folder `target`.

    `choose` gets the names of all files and returns those to fetch, or raises HubError. Files whose SHA-256 the hub
    publishes are compared with it. Raises HubError for a name or revision that is not there, for a connection that
    fails, and for a file that is not what the hub says.
    """
    try:
        import huggingface_hub
    except ImportError:
        raise HubError(f"fetching a {kind} needs the package huggingface_hub: pip install 'gollm[hub]'") from None
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # or it reports every attempt of a broken connection
    part = fitting_name(target, "", ".part")
    try:
        found = huggingface_hub.HfApi().repo_info(name, revision=revision, repo_type=kind, files_metadata=True)
        files = {file.rfilename: file for file in found.siblings or []}
        for file in choose(list(files)):
            local = huggingface_hub.hf_hub_download(
                name, file, repo_type=kind, revision=found.sha or revision, local_dir=part
            )
            lfs = getattr(files[file], "lfs", None)
            _compare(Path(local), file, lfs.sha256 if lfs else None)
        shutil.rmtree(part / ".cache", ignore_errors=True)  # the library's notes for going on
        os.replace(part, target)
    except HubError:
        raise
    except Exception as failure:  # the library's own errors, its HTTP client's, and the disk's
        raise HubError(_in_words(failure, name, kind, revision, part)) from failure


def _compare(path: Path, name: str, expected: str | None) -> None:
    if expected is None:
        return
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while data := file.read(1 << 20):
            digest.update(data)
    if digest.hexdigest() != expected:
        path.unlink()
        raise HubError(f"{name} came damaged: its SHA-256 is not what the hub says. Run the command again")


def _in_words(failure: Exception, name: str, kind: str, revision: str | None, part: Path) -> str:
    import huggingface_hub.errors as errors

    if isinstance(failure, errors.GatedRepoError):
        return f"{name} is open only to those who have accepted its terms; do that on the hub, and set HF_TOKEN"
    if isinstance(failure, errors.RevisionNotFoundError):
        return f"{name} has no revision {revision!r}; leave --revision out for the newest"
    if isinstance(failure, errors.RepositoryNotFoundError):
        return f"there is no {kind} {name} on the hub, or it is private and HF_TOKEN does not open it"
    what = reason(failure) if isinstance(failure, OSError) and failure.strerror else _first_line(failure)
    kept = f"; {part} keeps the files that have come, and the same command goes on" if part.exists() else ""
    return f"fetching {name} failed: {what}{kept}"


def _first_line(failure: Any) -> str:
    lines = str(failure).strip().splitlines() or [type(failure).__name__]
    return lines[0][:200].rstrip(". ")
