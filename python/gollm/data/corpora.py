"""Corpora with names: `gollm train shakespeare`. What is not on the machine is fetched once, into the cache folder.

The hub keeps every public dataset as Parquet files, too, on a branch of their own: one row for each document.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gollm.data.parquet import parquet_pieces
from gollm.errors import DataError, HubError
from gollm.system.files import cache_folder, open_regular
from gollm.system.hub import fetch_folder

PARQUET_BRANCH = "refs/convert/parquet"


@dataclass(frozen=True)
class Corpus:
    """A text by name.

    about       content, size, and licence
    repository  dataset on the hub, with a column "text"; "" for one that comes with Python
    splits      its splits, in the order in which they are read
    sha256      of all documents joined, in UTF-8, where it is known
    """

    name: str
    about: str
    repository: str = ""
    splits: tuple[str, ...] = ()
    sha256: str | None = None


CORPORA = {
    corpus.name: corpus
    for corpus in (
        Corpus("python", "the source of Python's own standard library, 8 MiB, PSF licence"),
        Corpus(
            "shakespeare",
            "40,000 lines of Shakespeare's plays, 1.1 MB, public domain",
            "karpathy/tiny_shakespeare",
            ("train", "validation", "test"),
            "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        ),
        Corpus(
            "tinystories",
            "2.1 million short stories in simple words (arXiv:2305.07759), 1.9 GB, CDLA-Sharing-1.0",
            "roneneldan/TinyStories",
            ("train",),
        ),
    )
}


def named_corpus(name: str) -> list[Path]:
    """The files of a corpus of the hub, fetched if they are not in the cache folder.

    Raises DataError where it cannot be fetched or is not what it should be.
    """
    corpus, folder = CORPORA[name], corpus_folder(name)

    def choose(there: Sequence[str]) -> list[str]:
        files = [f for split in corpus.splits for f in sorted(fnmatch.filter(there, f"default/{split}/*.parquet"))]
        if not files:
            raise HubError(f"the dataset {corpus.repository} has no Parquet files")
        return files

    if not folder.is_dir():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            fetch_folder(corpus.repository, folder, choose, kind="dataset", revision=PARQUET_BRANCH)
        except (HubError, OSError) as failure:
            instead = "Name a file or folder of yours, or try again with a network"
            raise DataError(f"cannot fetch the corpus {name!r}: {failure}. {instead}") from failure
    files = [file for split in corpus.splits for file in sorted(folder.glob(f"default/{split}/*.parquet"))]
    if not files or (corpus.sha256 and _text_hash(files) != corpus.sha256):
        raise DataError(f"the corpus {name!r} in {folder} is not what it should be; delete the folder and try again")
    return files


def corpus_folder(name: str) -> Path:
    """Where a fetched corpus lies."""
    return cache_folder() / "corpora" / name


def _text_hash(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        with open_regular(path, buffering=1 << 16) as stream:
            for piece in parquet_pieces(stream, os.fspath(path), "text", lambda _: None):
                digest.update(piece.text.encode())
    return digest.hexdigest()
