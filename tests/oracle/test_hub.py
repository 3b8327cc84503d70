"""gollm pull with the hub's own library, from a server on this machine that speaks as much of the hub as it asks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import gollm
from gollm.formats.huggingface import model as huggingface
from gollm.formats.source import Source
from gollm.model.config import ModelConfig
from gollm.tokenizers import BPETokenizer
from hub_server import Hub, run, serving

pytest.importorskip("huggingface_hub")

CONFIG = ModelConfig(n_layers=2, n_heads=2, d_model=64, vocab_size=270, context=64)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    tokenizer = BPETokenizer.train("hello world, this is a text\n" * 3, 270, special_tokens=["<|endoftext|>"])
    huggingface.write(Source(CONFIG, lambda name, out: np.copyto(out, 0.5), tokenizer), tmp_path / "there", "f32")
    files = {file.name: file.read_bytes() for file in (tmp_path / "there").iterdir()}
    files |= {"README.md": b"words", "pytorch_model.bin": b"pickle", "model.Q8_0.gguf": b"GGUF", "tf_model.h5": b"h5"}
    with serving(Hub("models/org/small", files, checked=["model.safetensors"])) as server:
        yield server


def refusal(hub: Hub, folder: Path, *words: object, status: int = 1) -> str:
    done = run(hub, folder, "pull", *words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (status, "", 1), done
    assert done.stderr.startswith("gollm: ") and "inside of gollm" not in done.stderr
    return done.stderr


def test_what_is_needed_comes_and_loads(hub: Hub, tmp_path: Path) -> None:
    done = run(hub, tmp_path, "pull", "org/small")
    assert (done.returncode, done.stdout) == (0, "small\n"), done.stderr
    assert {entry.name for entry in (tmp_path / "small").iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert not (tmp_path / "small.part").exists()
    model = gollm.load(tmp_path / "small")
    assert model.config.n_layers == 2 and model.tokenizer is not None
    assert (model.decoder.parameters["norm.weight"].data == 0.5).all()
    assert "small is there already" in refusal(hub, tmp_path, "org/small")


def test_files_by_name_a_revision_and_a_folder(hub: Hub, tmp_path: Path) -> None:
    words = ("--model", "org/small", "--revision", "v1", "--out", tmp_path / "x", "--file", "model.Q8_0.gguf")
    done = run(hub, tmp_path, "pull", *words)
    assert done.returncode == 0, done.stderr
    assert [entry.name for entry in (tmp_path / "x").iterdir()] == ["model.Q8_0.gguf"]
    assert hub.requests == ["model.Q8_0.gguf whole"]


def test_what_is_not_there(hub: Hub, tmp_path: Path) -> None:
    assert "there is no model org/none on the hub" in refusal(hub, tmp_path, "org/none")
    assert "org/small has no revision 'v2'" in refusal(hub, tmp_path, "org/small", "--revision", "v2")
    assert "org/small has no file 'b.gguf'" in refusal(hub, tmp_path, "org/small", "--file", "b.gguf")
    assert "must be ORG/NAME" in refusal(hub, tmp_path, "../org/small", status=2)
    del hub.files["model.safetensors"]
    message = refusal(hub, tmp_path, "org/small")
    assert "no safetensors" in message and "model.Q8_0.gguf, pytorch_model.bin" in message and "--file" in message
    hub.shutdown()
    hub.server_close()
    assert "fetching org/small failed" in refusal(hub, tmp_path, "org/small")
    assert {entry.name for entry in tmp_path.iterdir()} <= {"there", "cache"}


def test_a_file_that_is_not_what_the_hub_says_is_refused(hub: Hub, tmp_path: Path) -> None:
    hub.sha256["model.safetensors"] = "0" * 64
    assert "model.safetensors came damaged: its SHA-256 is not what the hub says" in refusal(hub, tmp_path, "org/small")
    assert not (tmp_path / "small").exists() and not (tmp_path / "small.part" / "model.safetensors").exists()


def test_an_interrupted_download_looks_like_none_and_goes_on(hub: Hub, tmp_path: Path) -> None:
    hub.cut_off = "model.safetensors"
    message = refusal(hub, tmp_path, "org/small")
    assert "small.part keeps the files that have come" in message
    assert not (tmp_path / "small").exists()
    hub.cut_off = ""
    hub.requests.clear()
    assert run(hub, tmp_path, "pull", "org/small").returncode == 0
    assert [request.partition(" ")[0] for request in hub.requests] == ["model.safetensors"]  # the others were there
    assert (tmp_path / "small" / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    gollm.load(tmp_path / "small")
