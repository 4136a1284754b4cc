"""The page of runs and sweeps, as a browser shows it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contenders import EVIL
from storages import confirm, encoded, picture, write_run, write_sweep

from raygen.comparison.index import read_index
from raygen.comparison.index_page import render_index

HOSTILE = EVIL.replace("/", "\u2215")
"""As a folder may be called."""
MANY = 300


def write_storage(place: Path) -> None:
    """Runs `run-1`, `run-2`, `run-10`, a hostile and a damaged one, and two sweeps."""
    for k, (name, fd) in enumerate((("run-1", 30.0), ("run-2", 9.0), ("run-10", None))):
        write_run(place / name, k, fd, 40.0 - k, [picture((200, 60 * k, 60))])
    write_run(place / f"it's {HOSTILE}", 3, 100.0, 7.0, [picture()], dataset="cd" * 32)
    write_run(place / "damaged", 4)
    (place / "damaged/config.json").write_text('{"preset": "<b>"}')
    for name in ("sweep", "confirmed"):
        write_sweep(place / name, EVIL)
    confirm(place / "confirmed", established=True)


def write_page(place: Path) -> Path:
    write_storage(place / "runs")
    file = place / "index.html"
    file.write_text(render_index(read_index(str(place / "runs")), "Runs", "uv run jobs/compare.py"))
    return file


class Browser:
    """A page, and what it said and asked for."""

    def __init__(self, page: Any, file: Path) -> None:
        self.page = page
        self.said: list[str] = []
        self.asked: list[str] = []
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", lambda request: self.asked.append(request.url))
        page.goto(file.as_uri())

    def names(self, table: str = "runs") -> list[str]:
        """The first column of the rows that are shown."""
        labels = self.page.locator(f"table[aria-label={table}] tbody label:visible")
        return [text.strip() for text in labels.all_inner_texts()]

    def sort(self, column: str, table: str = "runs") -> None:
        self.page.locator(f"table[aria-label={table}] th button", has_text=column).first.click()

    def choose(self, name: str) -> None:
        self.page.get_by_label(name, exact=True).click()

    @property
    def command(self) -> str:
        return str(self.page.locator("#command").inner_text())


@pytest.mark.slow
@pytest.mark.parametrize("width", [1200, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_all_runs_and_sweeps(
    tmp_path: Path, page: Any, width: int, scheme: str
) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    browser = Browser(page, write_page(tmp_path))
    widths = page.eval_on_selector_all(
        "img", "images => Promise.all(images.map(async i => (await i.decode(), i.naturalWidth)))"
    )
    assert widths == [160] * 4
    # Wide tables scroll by themselves, and the page does not.
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (back == "rgb(255, 255, 255)") == (scheme == "light")
    assert browser.names() == ["damaged", f"it's {HOSTILE}", "run-10", "run-2", "run-1"]
    assert sorted(browser.names("sweeps")) == ["confirmed", "sweep"]
    text = page.inner_text("body")
    for shown in (
        *("5 runs, 2 sweeps", "\nconfig.json: damaged (preset is '<b>'", EVIL, "10,000 images"),
        *("3 finished, 1 failed", "SWD 20, trial 2", "lr_g 2.0e-03"),
        *("trial 1 is better than the defaults", "confirmed with 3 new seeds", "not confirmed"),
        *("stands for 2 trainings of the confirmed setting", "stands for trial 2"),
        f"{tmp_path}/runs/run-10",
    ):
        assert shown in text, shown
    assert not page.locator(".command").is_visible()
    browser.choose("run-1")
    assert page.locator(".command").is_visible()
    (tmp_path / "page.png").write_bytes(page.screenshot())
    assert browser.said == []
    assert {url.split(":")[0] for url in browser.asked} <= {"file", "data"}


@pytest.mark.slow
def test_rows_are_sorted_filtered_and_chosen(tmp_path: Path, page: Any) -> None:
    browser = Browser(page, write_page(tmp_path))
    evil = f"it's {HOSTILE}"
    browser.sort("run")
    assert browser.names() == ["damaged", evil, "run-1", "run-2", "run-10"]
    browser.sort("run")
    assert browser.names() == ["run-10", "run-2", "run-1", evil, "damaged"]
    browser.sort("FD (random-vgg)")
    # What was not evaluated comes last, either way.
    assert browser.names() == ["run-2", "run-1", evil, "run-10", "damaged"]
    browser.sort("FD (random-vgg)")
    assert browser.names() == [evil, "run-1", "run-2", "run-10", "damaged"]
    browser.sort("confirmation", "sweeps")
    assert browser.names("sweeps") == ["confirmed", "sweep"]

    runs = f"{tmp_path}/runs"
    start = "uv run jobs/compare.py"
    browser.choose("run-2")
    assert browser.command == f"{start} {runs}/run-2"
    assert page.inner_text("#chosen") == "1 run chosen; a comparison needs two at least"
    page.fill("#filter", "IT'S  finished")
    assert browser.names() == [evil]
    assert browser.names("sweeps") == []
    assert page.inner_text("#matching") == "1 of 7 shown"
    browser.choose(evil)
    page.fill("#filter", "")
    assert len(browser.names()) == 5
    # What the filter hid is still chosen, and the order is that of choosing.
    quoted = f"'{runs}/it'\"'\"'s {HOSTILE}'"
    assert browser.command == f"{start} {runs}/run-2 {quoted}"
    assert "their datasets differ, and have to be of the same images" in page.inner_text("#chosen")
    browser.choose(evil)
    browser.choose("confirmed")
    trials = f"{runs}/confirmed/confirmation/trials"
    assert browser.command == f"{start} {runs}/run-2 {trials}/001 {trials}/002"
    assert page.inner_text("#chosen") == "3 runs chosen"
    page.click("#none")
    assert not page.locator(".command").is_visible()
    assert page.locator("input:checked").count() == 0
    assert browser.said == []


@pytest.mark.slow
def test_many_runs_fit_on_a_page(tmp_path: Path, page: Any) -> None:
    random = np.random.default_rng(0)
    # Noise is what compresses least.
    noise = [encoded(random.integers(0, 256, (70, 274, 3), np.uint8)) for _ in range(8)]
    for k in range(MANY):
        write_run(tmp_path / f"runs/run-{k}", k, k + 1.0, 50.0, [noise[k % 8]])
    text = render_index(read_index(str(tmp_path / "runs")), "Runs", "compare")
    assert len(text.encode()) <= 5 * 2**20
    (tmp_path / "index.html").write_text(text)
    browser = Browser(page, tmp_path / "index.html")
    assert browser.names() == [f"run-{k}" for k in reversed(range(MANY))]
    browser.sort("FD (random-vgg)")
    assert browser.names()[:2] == ["run-0", "run-1"]
    page.fill("#filter", "run-29")
    assert len(browser.names()) == 11
    assert browser.said == []
