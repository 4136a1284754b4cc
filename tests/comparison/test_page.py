"""The page, as a browser shows it."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contenders import EVIL, some

from raygen.comparison import curves
from raygen.comparison.curves import Line, chart, strip
from raygen.comparison.page import Comparison, as_csv, as_json, render
from raygen.comparison.pictures import LADDER, Guess, Shown, encode
from raygen.comparison.rendering import number
from raygen.comparison.table import answers, compare
from raygen.evaluation.distances import Interval


def comparison() -> Comparison:
    contenders = some()
    rows = compare(contenders)
    random = np.random.default_rng(0)
    pictures = [
        Shown(title, c.name, random.integers(0, 256, (side, 2 * side, 3), dtype=np.uint8))
        for title, side in (("samples", 40), ("evolution", 300))
        for c in contenders[:2]
    ]
    guesses = {
        contenders[0].name: [Guess(pictures[0].pixels, "real"), Guess(pictures[1].pixels, EVIL)]
    }
    return Comparison(
        title=f"A & B {EVIL}",
        contenders=contenders,
        rows=rows,
        answers=answers(rows, contenders, "random-vgg"),
        extractor="random-vgg",
        parameters=[1234, 5678, 9],
        pictures=pictures,
        problems=[f"runs/c: {EVIL}"],
        guesses=guesses,
        notes=["a note"],
        protocol={"machine": EVIL},
        command=f"compare '{EVIL}'",
        price=2.5,
    )


def test_texts_of_users_are_texts() -> None:
    text = render(comparison())
    assert EVIL not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "<title>A &amp; B" in text
    # Nothing is asked of any network.
    assert "http://" not in text
    assert "https://" not in text
    assert len(text) < 5 * 2**20


@pytest.mark.slow
@pytest.mark.parametrize("width", [1200, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it(tmp_path: Path, page: Any, width: int, scheme: str) -> None:
    file = tmp_path / "index.html"
    file.write_text(render(comparison()))
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    page.goto(file.as_uri())
    widths = page.eval_on_selector_all(
        "img", "images => Promise.all(images.map(async i => (await i.decode(), i.naturalWidth)))"
    )
    assert len(widths) == 6
    assert min(widths) > 0
    assert page.title() == f"A & B {EVIL}"
    # Wide tables scroll by themselves, and the page does not.
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (back == "rgb(255, 255, 255)") == (scheme == "light")

    def order() -> list[str]:
        return [
            text.split("\n")[0].strip()
            for text in page.locator("tbody").first.locator("tr td:first-child").all_inner_texts()
        ]

    first = order()
    assert first[0] == "a"
    head = page.locator("thead th button").first
    head.click()
    assert order()[0] == "a"
    assert head.evaluate("b => b.closest('th').getAttribute('aria-sort')") == "ascending"
    head.click()
    # What has no value stays last.
    assert order() == [first[1], first[0], first[2]]
    guess = page.locator(".guess button").first
    assert not guess.locator("span").is_visible()
    guess.click()
    assert guess.locator("span").is_visible()
    bold = page.locator("td.best").all_inner_texts()
    assert any(text.strip().startswith("11") for text in bold)
    assert said == []
    assert {url.split(":")[0] for url in asked} <= {"file", "data"}
    shot = page.screenshot(full_page=True)
    assert len(shot) > 10_000
    (tmp_path / "page.png").write_bytes(shot)


def test_many_pictures_are_made_smaller_until_they_fit() -> None:
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (500, 500, 3), np.uint8) for _ in range(3)]
    small = random.integers(0, 256, (20, 30, 3), np.uint8)
    best = encode([*pictures, small], 2**24)
    assert [(p.width, p.height) for p in best] == [(480, 480)] * 3 + [(30, 20)]
    assert best[3].uri.startswith("data:image/png;")
    size = sum(len(picture.uri) for picture in best)
    for most in (size - 1, size // 3):
        found = encode([*pictures, small], most)
        assert sum(len(picture.uri) for picture in found) <= most
    # What cannot fit is as small as it gets.
    assert [picture.width for picture in encode([*pictures, small], 0)] == [LADDER[-1][0]] * 3 + [
        30
    ]


def test_the_figures_are_written_with_every_seed_s_scores() -> None:
    values = json.loads(json.dumps(as_json(comparison()), allow_nan=False))
    distance = values["metrics"]["random-vgg/fd"]
    assert distance["values"] == [[10, 11, 12], [30, 31, 32], []]
    assert distance["best"] == 0
    assert distance["established"][0]["better"] == 0
    assert distance["means"][2]["value"] is None
    assert values["contenders"][2]["runs"][0]["problem"] == "has no checkpoint yet"
    rows = list(csv.DictReader(io.StringIO(as_csv(comparison()))))
    assert len(rows) == 6 * 3
    assert rows[0]["metric"] == "random-vgg/fd"
    assert float(rows[0]["value"]) == 10


def test_curves_are_drawn_as_they_are() -> None:
    assert chart([], "images", "FD") == ""
    assert chart([Line("a", 0, [(1.0, float("nan"))])], "images", "FD") == ""
    drawn = chart([Line("<a>", 1, [(0, 1.0), (50, 10.0), (100, 100.0)])], "images", "FD")
    # Logarithmic, because the values span two powers of ten: the middle is in the middle.
    points = drawn.split('points="')[1].split('"')[0].split()
    heights = [float(point.split(",")[1]) for point in points]
    assert heights[1] == pytest.approx((heights[0] + heights[2]) / 2, abs=0.2)
    assert "&lt;a&gt;" in drawn
    many = chart([Line("a", 0, [(k, k % 7 + 1.0) for k in range(10_000)])], "images", "FD")
    assert len(many.split('points="')[1].split('"')[0].split()) <= curves.MOST_POINTS + 1
    assert "circle" in chart([Line("a", 0, [(1, 1.0)])], "images", "FD")
    assert strip([1.0, 2.0], Interval(1.5, -np.inf, np.inf), 1, 2, 3).count("circle ") == 2
    assert [number(v) for v in (12345.678, float("nan"), 0.00012)] == ["1.235e+04", "", "0.00012"]
