"""gollm data list"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """List the named datasets for gollm train NAME. Datasets on the Hub are downloaded at first use."""


def run(_: Options) -> None:
    from gollm.data.corpora import CORPORA, corpus_folder

    width = max(map(len, CORPORA))
    for corpus in CORPORA.values():
        here = not corpus.repository or corpus_folder(corpus.name).is_dir()
        state = "on this machine" if here else f"to be fetched from {corpus.repository}"
        print(f"{corpus.name:{width}}  {corpus.about}; {state}")
