"""gollm pull with the hub's own library, from a server on this machine that speaks as much of the hub as it asks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

import gollm
from gollm.formats.huggingface import model as huggingface
from gollm.formats.source import Source
from gollm.model.config import ModelConfig
from gollm.tokenizers import BPETokenizer

pytest.importorskip("huggingface_hub")

SHA = "0123456789abcdef" * 2 + "01234567"
CONFIG = ModelConfig(n_layers=2, n_heads=2, d_model=64, vocab_size=270, context=64)


class Hub(ThreadingHTTPServer):
    """One model, org/small; `requests` is what was asked for."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = files
        self.requests: list[str] = []
        self.cut_off = ""  # a file whose answers end in their middle


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        name = path.rpartition("/")[2]
        if path in ("/api/models/org/small", "/api/models/org/small/revision/v1"):
            siblings = [{"rfilename": file} for file in self.server.files]
            self.reply(200, json.dumps({"id": "org/small", "sha": SHA, "siblings": siblings}).encode())
        elif path.startswith("/api/models/org/small/revision/"):
            self.reply(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif path.startswith(f"/org/small/resolve/{SHA}/") and name in self.server.files:
            if with_body:
                self.server.requests.append(f"{name} {self.headers.get('Range') or 'whole'}")
            self.reply_file(name, with_body)
        else:
            self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def reply_file(self, name: str, with_body: bool) -> None:
        data = self.server.files[name]
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        headers = {"ETag": f'"{hash(data):x}"', "X-Repo-Commit": SHA, "Accept-Ranges": "bytes"}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        body = data[start:]
        if name == self.server.cut_off and with_body:
            self.reply(206 if start else 200, body[: len(body) // 2], headers, length=len(body))
            self.close_connection = True
        else:
            self.reply(206 if start else 200, body if with_body else b"", headers, length=len(body))

    def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None, length: int | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body) if length is None else length), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    tokenizer = BPETokenizer.train("hello world, this is a text\n" * 3, 270, special_tokens=["<|endoftext|>"])
    huggingface.write(Source(CONFIG, lambda name, out: np.copyto(out, 0.5), tokenizer), tmp_path / "there", "f32")
    files = {file.name: file.read_bytes() for file in (tmp_path / "there").iterdir()}
    files |= {"README.md": b"words", "pytorch_model.bin": b"pickle", "model.Q8_0.gguf": b"GGUF", "tf_model.h5": b"h5"}
    server = Hub(files)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def pull(hub: Hub, folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the library reads its environment when it is imported."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    environment |= {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(folder / "cache")}
    environment["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    command = [sys.executable, "-m", "gollm", "pull", *map(str, words)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def refusal(hub: Hub, folder: Path, *words: object) -> str:
    done = pull(hub, folder, *words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done
    assert done.stderr.startswith("gollm: ") and "inside of gollm" not in done.stderr
    return done.stderr


def test_what_is_needed_comes_and_loads(hub: Hub, tmp_path: Path) -> None:
    done = pull(hub, tmp_path, "org/small")
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
    done = pull(hub, tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert [entry.name for entry in (tmp_path / "x").iterdir()] == ["model.Q8_0.gguf"]
    assert hub.requests == ["model.Q8_0.gguf whole"]


def test_what_is_not_there(hub: Hub, tmp_path: Path) -> None:
    assert "there is no model org/none on the hub" in refusal(hub, tmp_path, "org/none")
    assert "org/small has no revision 'v2'" in refusal(hub, tmp_path, "org/small", "--revision", "v2")
    assert "org/small has no file 'b.gguf'" in refusal(hub, tmp_path, "org/small", "--file", "b.gguf")
    assert "must be ORG/NAME" in refusal(hub, tmp_path, "../org/small")
    del hub.files["model.safetensors"]
    message = refusal(hub, tmp_path, "org/small")
    assert "no safetensors" in message and "model.Q8_0.gguf, pytorch_model.bin" in message and "--file" in message
    hub.shutdown()
    hub.server_close()
    assert "fetching org/small failed" in refusal(hub, tmp_path, "org/small")
    assert {entry.name for entry in tmp_path.iterdir()} <= {"there", "cache"}


def test_an_interrupted_download_looks_like_none_and_goes_on(hub: Hub, tmp_path: Path) -> None:
    hub.cut_off = "model.safetensors"
    message = refusal(hub, tmp_path, "org/small")
    assert "small.part keeps the files that have come" in message
    assert not (tmp_path / "small").exists()
    hub.cut_off = ""
    hub.requests.clear()
    assert pull(hub, tmp_path, "org/small").returncode == 0
    assert [request.partition(" ")[0] for request in hub.requests] == ["model.safetensors"]  # the others were there
    assert (tmp_path / "small" / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    gollm.load(tmp_path / "small")
