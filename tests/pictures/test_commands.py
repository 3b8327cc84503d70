"""The commands, their files and their mistakes."""

from __future__ import annotations

import http.client
import sys
import threading
from pathlib import Path

import pytest

from gollm.cli.main import main
from gollm.errors import PictureError, TrainingError
from gollm.pictures import output
from gollm.pictures.live import LiveReport

from .conftest import TRAINING

pytest.importorskip("altair")
pytest.importorskip("vl_convert")

PNG = b"\x89PNG\r\n\x1a\n"
COMMANDS = {
    "report": [],
    "visualize": ["bako rinu", "--layer", "1"],
    "inspect": ["--prompt", "bako rinu", "--max-tokens", "4"],
    "embeddings": ["--method", "pca"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_each_writes_a_page_and_images(command: str, run: Path, tmp_path: Path, capsys) -> None:
    for name, beginning in (("a.html", b"<!doctype html>"), ("a.svg", b"<svg"), ("a.png", PNG)):
        assert main([command, str(run), *COMMANDS[command], "--output", str(tmp_path / name)]) == 0
        assert capsys.readouterr().out == f"{tmp_path / name}\n"
        content = (tmp_path / name).read_bytes()
        assert content.startswith(beginning) and len(content) > 3000
    page = (tmp_path / "a.html").read_text()
    assert len(page) < 2_000_000 and 'src="http' not in page and 'href="http' not in page


@pytest.mark.parametrize("command", COMMANDS)
def test_mistakes_are_one_sentence(command: str, run: Path, tmp_path: Path, capsys) -> None:
    for status, words in (
        (1, [command, str(tmp_path / "nothing"), *COMMANDS[command]]),
        (2, [command, str(run), *COMMANDS[command], "--output", str(tmp_path / "a.pdf")]),
        (1, [command, str(run), *COMMANDS[command], "--output", str(tmp_path / "no" / "a.html")]),
    ):
        assert main(words) == status
        said = capsys.readouterr().err
        assert said.startswith("gollm: ") and said.count("\n") == 1


def test_a_layer_that_is_not_there_is_a_mistake_in_the_command_line(run: Path, tmp_path: Path, capsys) -> None:
    assert main(["visualize", str(run), "bako", "--layer", "99", "--output", str(tmp_path / "a.html")]) == 2
    assert capsys.readouterr().err.startswith("gollm: layer is 99; this model has layers 0 to ")


def test_training_writes_its_report(run: Path, tmp_path: Path) -> None:
    words = [f"--{name.replace('_', '-')}={value}" for name, value in TRAINING.items()]
    data, out = run.parent / "words.txt", tmp_path / "run"
    words += [
        "--steps=2",
        "--sample-tokens=0",
        f"--out={out}",
        "--report",
        f"--metrics={tmp_path / 'm.html'}",
        "--json",
    ]
    assert main(["train", str(data), *words]) == 0
    page = (out / "report.html").read_text()
    assert page.startswith("<!doctype html>") and (tmp_path / "m.html").read_text() == page
    assert "report" not in (out / "config.yaml").read_text()


def test_a_report_that_cannot_be_written_is_refused_before_training(tmp_path: Path, capsys) -> None:
    assert main(["train", "x.txt", "--metrics", "a.doc", "--out", str(tmp_path / "run")]) == 2
    assert "its name must end with .html, .png, .svg" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert main(["train", "x.txt", "--metrics", f"{tmp_path}/no/a.html", "--out", str(tmp_path / "run")]) == 1
    assert f"the folder {tmp_path}/no does not exist" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_missing_library_is_named(run: Path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "altair", None)
    assert main(["report", str(run)]) == 1
    said = "pictures need altair, which is not installed: pip install 'gollm[report]'"
    assert said in capsys.readouterr().err
    with pytest.raises(PictureError):
        output.ready_for("a.html")


def test_the_server_answers_this_machine_alone(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = LiveReport([run])
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        host, port = server.server_address[:2]
        assert host == "127.0.0.1"

        def get(path: str, **headers: str) -> tuple[int, str]:
            connection = http.client.HTTPConnection("127.0.0.1", port)
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

        status, page = get("/")
        assert status == 200 and "vegaEmbed" in page
        status, news = get("/news")
        assert status == 200 and "vegaEmbed" not in news and 'id="data"' in news
        assert get("/metrics.jsonl")[0] == 404
        assert get("/", Host=f"evil.example:{port}")[0] == 404
        with pytest.raises(PictureError, match=f"cannot use port {port}: .*; choose another with --port"):
            LiveReport([run], port)
        for failure, said in ((BrokenPipeError(), False), (ValueError("a bug"), True)):
            try:
                raise failure
            except Exception:
                server.handle_error(None, ("127.0.0.1", 1))
            assert ("Traceback" in capsys.readouterr().err) == said
    finally:
        server.shutdown()
        server.server_close()
    with pytest.raises(TrainingError, match="there is no run"):
        LiveReport([run / "nothing"])
    for port in (-1, 70_000, "80"):
        with pytest.raises(PictureError, match=f"port is {port!r}; it must be from 0 to 65535"):
            LiveReport([run], port)
