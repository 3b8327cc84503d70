"""A local server that answers as the Hugging Face hub does, for one model or dataset."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

SHA = "0123456789abcdef" * 2 + "01234567"


class Hub(ThreadingHTTPServer):
    """One model or dataset; `requests` is what was asked for.

    name    as the hub calls it in addresses: models/org/small, datasets/org/text
    files   path -> content; those of `checked` have a published SHA-256
    """

    daemon_threads = True

    def __init__(self, name: str, files: dict[str, bytes], revision: str = "v1", checked: Collection[str] = ()) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.name, self.files, self.revision = name, files, revision
        self.sha256 = {file: hashlib.sha256(files[file]).hexdigest() for file in checked}
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
        hub = self.server
        path = unquote(self.path.partition("?")[0])
        name = path.partition(f"/resolve/{SHA}/")[2]
        if path in (f"/api/{hub.name}", f"/api/{hub.name}/revision/{hub.revision}"):
            siblings = [{"rfilename": file, **self.published(file)} for file in hub.files]
            body = {"id": hub.name.partition("/")[2], "sha": SHA, "siblings": siblings}
            self.reply(200, json.dumps(body).encode())
        elif path.startswith(f"/api/{hub.name}/revision/"):
            self.reply(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif path.startswith(f"/{hub.name.removeprefix('models/')}/resolve/{SHA}/") and name in hub.files:
            if with_body:
                self.server.requests.append(f"{name} {self.headers.get('Range') or 'whole'}")
            self.reply_file(name, with_body)
        else:
            self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def published(self, file: str) -> dict[str, object]:
        if file not in self.server.sha256:
            return {}
        size, sha256 = len(self.server.files[file]), self.server.sha256[file]
        return {"size": size, "blobId": "0", "lfs": {"size": size, "sha256": sha256, "pointerSize": 100}}

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


@contextlib.contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    thread = threading.Thread(target=hub.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


def run(hub: Hub, folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """gollm in a process of its own: the library reads its environment when it is imported."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    environment |= {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_HOME": str(folder / "cache")}
    environment |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "GOLLM_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "gollm", *map(str, words)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
