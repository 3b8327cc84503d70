"""A report that follows its runs: the page asks this server for its news while it is open."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from gollm.errors import GollmError, PictureError
from gollm.pictures import output
from gollm.pictures.report import report_page
from gollm.pictures.run_curves import all_curves
from gollm.system.files import reason
from gollm.system.strict_json import shorten

__all__ = ["LiveReport"]

ADDRESS = "127.0.0.1"  # this machine alone


class LiveReport(ThreadingHTTPServer):
    """Serves the report of runs at `url`, until shutdown(): / is the page, /news what has changed since.

    Raises TrainingError for a folder without a run or without a step, PictureError for a port that cannot be used."""

    daemon_threads = True

    def __init__(self, paths: Sequence[str | Path], port: int = 0) -> None:
        """`port` 0 is any that is free."""
        if type(port) is not int or not 0 <= port < 1 << 16:
            raise PictureError(f"port is {shorten(port)}; it must be from 0 to {(1 << 16) - 1}")
        output.ready_for("report.html")
        self.paths = tuple(paths)
        all_curves(self.paths)
        try:
            super().__init__((ADDRESS, port), _Handler)
        except OSError as failure:
            raise PictureError(f"cannot use port {port}: {reason(failure)}; choose another with --port") from None

    @property
    def url(self) -> str:
        return f"http://{ADDRESS}:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away while it is answered is no error."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def page(self, *, scripts: bool) -> str:
        """The page as it is now."""
        return report_page(all_curves(self.paths), live=True, scripts=scripts)


class _Handler(BaseHTTPRequestHandler):
    server: LiveReport

    def do_GET(self) -> None:
        host = (self.headers.get("Host") or "").rpartition(":")[0]
        if self.path not in ("/", "/news") or host not in (
            ADDRESS,
            "localhost",
        ):  # no other site's name for this address
            self.send_error(404)
            return
        try:
            page = self.server.page(scripts=self.path == "/").encode()
        except GollmError as error:  # a run that was removed meanwhile
            self.send_error(503, explain=str(error))
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(page)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, format: str, *args: object) -> None:
        """The terminal belongs to the command."""
