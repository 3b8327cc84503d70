"""The pages in a browser: no error, nothing fetched, controls change the picture, on a desk and a phone.

Screenshots go to $GOLLM_SCREENSHOTS where that is set."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import gollm
from gollm.pictures import heads, inspection, map, report
from gollm.pictures.live import LiveReport
from gollm.pictures.run_curves import run_curves

pytest.importorskip("altair")
pytest.importorskip("vl_convert")
playwright = pytest.importorskip("playwright.sync_api")

CHROMIUM = Path("/usr/bin/chromium")
PROMPT = "the quick brown fox\njumps over"
# page -> its control, the figure that it changes
CONTROLS = {
    "report": ("axis", "tokens", "loss"),
    "attention": ("head", "1", "head"),
    "inspection": ("parameter", "blocks.1.mlp.up.weight", "weights"),
    "map": ("colours", "id", "map"),
}
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def pages(run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each page of the small run and its model."""
    folder, model = tmp_path_factory.mktemp("pages"), gollm.load(run)
    paths = {name: folder / f"{name}.html" for name in CONTROLS}
    prompt = "bako rinu\nsela bako"
    report.write_report([run], paths["report"])
    heads.write_attention(model, prompt, paths["attention"], layer=1)
    inspection.write_inspection(model, prompt, paths["inspection"], run=run)
    map.write_embeddings(model, paths["map"], text=prompt)
    return paths


class Opened:
    """A page that is drawn, and what went wrong on the way."""

    def __init__(self, browser: Any, url: str, width: int, scheme: str) -> None:
        self.trouble: list[str] = []
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.trouble.append(message.text))
        self.page.on("pageerror", lambda error: self.trouble.append(str(error)))
        self.page.on("request", lambda request: self._asked(request.url, url))
        self.page.goto(url)
        self.wait()

    def _asked(self, wanted: str, own: str) -> None:
        if wanted != own and not wanted.startswith(("data:", "blob:", own + "news")):
            self.trouble.append(f"asked for {wanted}")

    def wait(self) -> None:
        """Until every figure is drawn."""
        self.page.wait_for_function("Object.keys(figures).filter(place).every((name) => place(name).drawn)")

    def turn(self, figure: str) -> int:
        """How often a figure was drawn."""
        return int(self.page.evaluate(f"+place('{figure}').dataset.drawn"))

    def picture(self, figure: str) -> bytes:
        return bytes(self.page.locator(f"[data-figure='{figure}']").screenshot())

    def close(self) -> None:
        self.context.close()
        assert self.trouble == []


@pytest.fixture
def opened(browser: Any) -> Callable[..., Opened]:
    return lambda url, width=1280, scheme="light": Opened(browser, url, width, scheme)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", CONTROLS)
def test_a_page_is_drawn_and_its_control_changes_it(
    opened: Callable[..., Opened], pages: dict[str, Path], name: str, width: int, scheme: str
) -> None:
    found = opened(pages[name].as_uri(), width, scheme)
    page, (control, value, figure) = found.page, CONTROLS[name]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    empty = page.evaluate(
        "[...document.querySelectorAll('[data-figure]')].filter((f) => !f.querySelector('canvas, svg'))"
    )
    assert empty == []
    if folder := os.environ.get("GOLLM_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}-{scheme}-{width}.png", full_page=True)
    before, turn = found.picture(figure), found.turn(figure)
    page.select_option(f"#{control}", value)
    page.wait_for_function(f"+place('{figure}').dataset.drawn > {turn}")
    assert found.picture(figure) != before
    found.close()


def test_losses_have_a_logarithmic_scale(opened: Callable[..., Opened], pages: dict[str, Path]) -> None:
    found = opened(pages["report"].as_uri())
    before, turn = found.picture("loss"), found.turn("loss")
    found.page.select_option("#scale", "log")
    found.page.wait_for_function(f"+place('loss').dataset.drawn > {turn}")
    assert found.picture("loss") != before
    found.close()


def test_the_keyboard_is_enough(opened: Callable[..., Opened], pages: dict[str, Path]) -> None:
    """Tab reaches the layer; an arrow changes it and the picture."""
    found = opened(pages["attention"].as_uri())
    turn = found.turn("head")
    for _ in range(10):
        found.page.keyboard.press("Tab")
        if found.page.evaluate("document.activeElement.id") == "layer":
            break
    found.page.keyboard.press("ArrowUp")
    found.page.wait_for_function(f"+place('head').dataset.drawn > {turn}")
    assert found.page.input_value("#layer") == "0"
    found.close()


def test_the_page_shows_the_weights(opened: Callable[..., Opened], pages: dict[str, Path], run: Path) -> None:
    from gollm.pictures.attention import attention_weights

    weights = attention_weights(gollm.load(run), "bako rinu\nsela bako").weights
    found = opened(pages["attention"].as_uri())
    rows = found.page.evaluate("place('head').drawn.view.data('cells')")
    T = weights.shape[-1]
    assert len(rows) == T * (T + 1) // 2
    for row in rows:
        i, j = int(row["query"].split()[0]), int(row["key"].split()[0])
        assert row["weight"] == pytest.approx(float(weights[1, 0, i, j]), abs=1e-7)
    found.close()


def test_a_token_is_searched_and_its_neighbours_shown(opened: Callable[..., Opened], pages: dict[str, Path]) -> None:
    found = opened(pages["map"].as_uri())
    found.page.fill("#search", "k")
    found.page.press("#search", "Enter")
    assert found.page.inner_text("#chosen") == "Nearest neighbours of k"
    shown = found.page.locator("#neighbours tbody tr").all_inner_texts()
    assert len(shown) == 8
    found.page.locator("#neighbours button").first.click()
    assert found.page.inner_text("#chosen") != "Nearest neighbours of k"
    found.close()


def test_text_of_a_run_is_text(opened: Callable[..., Opened], run: Path, tmp_path: Path) -> None:
    """Samples and names may look like HTML and JavaScript."""
    curves = run_curves(run)
    hostile = "</script><script>throw 1</script><img src=x onerror=alert(1)>{{ 7 * 7 }}"
    changed = type(curves)(hostile, curves.points, curves.validation, [(6, hostile)], {"data": hostile}, curves.summary)
    (tmp_path / "hostile.html").write_text(report.report_page([changed]))
    found = opened((tmp_path / "hostile.html").as_uri())
    assert found.page.inner_text("h1") == hostile
    assert found.page.inner_text("#samples pre") == hostile
    found.close()


def test_a_live_report_follows_the_run(opened: Callable[..., Opened], made_run: Callable[..., Path]) -> None:
    line = '{"step": %d, "loss": %f, "ms": 9.0, "tokens_per_second": 1e3, "lr": 0.1, "grad_norm": 1.0}\n'
    folder = made_run("live", [], lr=0.1)
    (folder / "metrics.jsonl").write_text(line % (1, 4.0) + line % (2, 3.0))
    server = LiveReport([folder])
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        found = opened(server.url)
        assert "3.0000" in found.page.inner_text("#summary")
        with (folder / "metrics.jsonl").open("a") as file:
            file.write(line % (3, 1.25))
        found.page.wait_for_function("document.getElementById('summary').innerText.includes('1.2500')")
        found.page.wait_for_function("place('loss').drawn.view.data('points').length === 3")
        found.close()
    finally:
        server.shutdown()
        server.server_close()
