"""The page in a real browser: nothing goes wrong there, nothing is requested, and everything is in sight.

``LIEQ_SCREENSHOTS`` names a folder in which the pictures of the pages stay.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from page_reports import SCORES, bare, preset, report, tensors
from runner import kill_below

from lieq_edge.page import Answer, write_page

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")

# Seconds that a test may take.
_PATIENCE = 180
WIDTHS = (320, 400, 861, 1021, 1400)
_HIDDEN = """
() => [...document.querySelectorAll('main *')].filter(element => {
  if (!element.checkVisibility() || element.closest('.scroll, thead, details')) return false;
  const box = element.getBoundingClientRect();
  const frame = element.closest('section').getBoundingClientRect();
  const edge = document.documentElement.clientWidth;
  return box.width > 0 && (box.left < frame.left - 0.5 || box.right > frame.right + 0.5 || frame.right > edge);
}).map(element => element.outerHTML.slice(0, 200))
"""
_CONTRAST = """
() => {
  const light = color => {
    const parts = color.match(/[\\d.]+/g).slice(0, 3).map(value => {
      const share = value / 255;
      return share <= 0.03928 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  return [...document.querySelectorAll('.heat g')].filter(group => group.checkVisibility()).map(group => {
    const [a, b] = [...group.querySelectorAll('rect, text')].map(element => light(getComputedStyle(element).fill));
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  });
}
"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        # Without its sandbox it runs as root, too, and in containers, which have little shared memory.
        flags = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        with _limited():
            browser.close()


@pytest.fixture(autouse=True)
def _no_test_hangs() -> Iterator[None]:
    with _limited():
        yield


@contextmanager
def _limited() -> Iterator[None]:
    """Playwright waits for ever for a browser that hangs, and goes on when it is killed."""
    timer = threading.Timer(_PATIENCE, kill_below, (os.getpid(), "chrom"))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = os.environ.get("LIEQ_SCREENSHOTS")
    path = Path(folder) if folder else tmp_path_factory.mktemp("screenshots")
    path.mkdir(parents=True, exist_ok=True)
    return path


def pages(folder: Path) -> dict[str, Path]:
    """A page with everything, one of several budgets, and one of a file of which little is known."""
    answers = [
        Answer("Name three colours.", "Red, green and blue.", "Red, green and blue."),
        Answer("Write a function.", "```python\ndef f(x):\n    return x\n```", "def f(x): return " + "x" * 200),
    ]
    several = [
        report(
            out=f"model-{mb}MB.gguf",
            file_bytes=mb * 1_000_000,
            validation=replace(SCORES, kld=1 / mb),
            tensors=tensors(30),
        )
        for mb in (80, 100, 140)
    ]
    paths = {name: folder / f"{name}.html" for name in ("full", "several", "bare")}
    made = report(tensors=tensors(30))
    write_page(
        paths["full"], [made], compared=[preset(), preset("P" * 70, kld=0.001)], answers=answers, command="c" * 300
    )
    write_page(paths["several"], several, compared=[preset()], command="lieq-edge export m")
    write_page(paths["bare"], [bare()])
    return paths


@pytest.mark.parametrize("name", ["full", "several", "bare"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_is_in_order(chromium: Any, tmp_path: Path, screenshots: Path, name: str, scheme: str) -> None:
    path = pages(tmp_path)[name]
    for width in WIDTHS:
        page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        spoken: list[str] = []
        requested: list[str] = []
        page.on("console", lambda message, spoken=spoken: spoken.append(message.text))
        page.on("pageerror", lambda error, spoken=spoken: spoken.append(str(error)))
        page.on("request", lambda request, requested=requested: requested.append(request.url))
        page.goto(path.as_uri())
        assert spoken == []
        assert [url for url in requested if not url.startswith("data:")] == [path.as_uri()]
        # Nothing is wider than the screen.
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate(_HIDDEN) == []
        # Of every picture one form is there, and it has a size.
        boxes = [picture.bounding_box() for picture in page.locator("svg.chart:visible").all()]
        assert len(boxes) == page.locator("svg.chart").count() / 2 > 0
        assert all(box["width"] > 150 and box["height"] > 50 for box in boxes)
        # Letters are read on every colour.
        contrasts = page.evaluate(_CONTRAST)
        assert len(contrasts) >= 9
        assert min(contrasts) >= 4.5
        # Both colour schemes are real.
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (int(background.split("(")[1].split(",")[0]) < 100) == (scheme == "dark")
        # No frame is empty.
        assert all(text.strip() for text in page.locator("section").all_inner_texts())
        page.screenshot(path=screenshots / f"{name}-{width}-{scheme}.png", full_page=True)
        page.close()


def test_names_of_others_run_nothing(chromium: Any, tmp_path: Path) -> None:
    evil = "<img src=http://example.invalid/x onerror=\"document.title='run'\"><script>document.title='run'</script>"
    path = tmp_path / "evil.html"
    made = report(model=evil.replace("/", "|"), warnings=(evil,))
    write_page(path, [made], compared=[preset(evil)], answers=[Answer(evil, evil, "")])
    page = chromium.new_page()
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.goto(path.as_uri())
    assert "<script>" in page.title()  # not "run"
    assert [url for url in requested if not url.startswith("data:")] == [path.as_uri()]
    assert page.locator("h1").inner_text().startswith("<img")
    page.close()
