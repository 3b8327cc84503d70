"""Corpora by name, fetched with the hub's own library from a server on this machine."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from gollm.data.corpora import PARQUET_BRANCH
from hub_server import Hub, run, serving

pytest.importorskip("huggingface_hub")

SHAKESPEARE = Path(__file__).parents[3] / "shared" / "data" / "tinyshakespeare.txt"
TRAIN = ("--steps", 1, "--preset", "tiny", "--tokenizer", "character", "--batch-size", 1, "--sample-tokens", 0)


def rows(*texts: str) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pa.table({"text": texts}), file)
    return file.getvalue()


def dataset(name: str, files: dict[str, bytes]) -> Hub:
    return Hub(f"datasets/{name}", {"README.md": b"words", **files}, PARQUET_BRANCH, checked=files)


def test_a_corpus_is_fetched_once(tmp_path: Path) -> None:
    stories = {f"default/train/000{i}.parquet": rows("One day, " * 300, f"Part {i}. " * 300) for i in range(2)}
    with serving(dataset("roneneldan/TinyStories", stories)) as hub:
        assert "tinystories" in run(hub, tmp_path, "data", "list").stdout
        done = run(hub, tmp_path, "train", "tinystories", *TRAIN)
        assert done.returncode == 0, done.stderr
        assert "data       tinystories" in done.stdout
        assert [request.split()[0] for request in hub.requests] == sorted(stories)
    state = run(hub, tmp_path, "data", "list").stdout
    assert "CDLA-Sharing-1.0; on this machine" in state
    assert run(hub, tmp_path, "train", "tinystories", *TRAIN).returncode == 0  # nothing answers any more


def test_what_is_not_shakespeare_is_refused(tmp_path: Path) -> None:
    splits = {f"default/{name}/0000.parquet": rows("To be or not") for name in ("train", "validation", "test")}
    with serving(dataset("karpathy/tiny_shakespeare", splits)) as hub:
        done = run(hub, tmp_path, "train", "shakespeare", *TRAIN)
    assert done.returncode != 0 and "is not what it should be; delete the folder" in done.stderr
    (tmp_path / "cache" / "corpora" / "tinystories").mkdir(parents=True)  # emptied by somebody
    with serving(dataset("somebody/else", {})) as hub:
        done = run(hub, tmp_path, "train", "tinystories", *TRAIN)
    assert done.returncode != 0 and "the corpus 'tinystories' in " in done.stderr and "delete the folder" in done.stderr
    (tmp_path / "cache" / "corpora" / "tinystories").rmdir()
    with serving(dataset("somebody/else", {})) as hub:
        done = run(hub, tmp_path, "train", "tinystories", *TRAIN)
    assert done.stderr.count("\n") == 1
    assert "cannot fetch the corpus 'tinystories': there is no dataset roneneldan/TinyStories" in done.stderr


@pytest.mark.skipif(not SHAKESPEARE.is_file(), reason="needs the shared data")
def test_shakespeare_is_known_by_its_sha256(tmp_path: Path) -> None:
    text = SHAKESPEARE.read_text()
    parts = {"train": text[:1003854], "validation": text[1003854:1059624], "test": text[1059624:]}
    with serving(
        dataset("karpathy/tiny_shakespeare", {f"default/{k}/0000.parquet": rows(v) for k, v in parts.items()})
    ) as hub:
        done = run(hub, tmp_path, "train", "shakespeare", *TRAIN)
    assert done.returncode == 0, done.stderr


def test_a_file_of_that_name_comes_first(tmp_path: Path) -> None:
    (tmp_path / "shakespeare").write_text("not from the hub " * 200)
    with serving(dataset("karpathy/tiny_shakespeare", {})) as hub:
        done = run(hub, tmp_path, "train", "shakespeare", *TRAIN)
    assert done.returncode == 0, done.stderr
