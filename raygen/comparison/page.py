"""The page that compares contenders: one HTML file without anything beside it."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raygen.comparison import curves, rendering
from raygen.comparison.contenders import Contender, differences
from raygen.comparison.curves import Line
from raygen.comparison.pictures import Guess, Shown, encode
from raygen.comparison.rendering import number
from raygen.comparison.table import Row
from raygen.config.families import FD
from raygen.core.checked import finite_or_none
from raygen.core.errors import UserError
from raygen.core.history import Measurement, read_history
from raygen.core.progress import duration
from raygen.core.storage import Folder
from raygen.evaluation.metrics import DOMAIN, RANDOM_VGG, in_features, metric_of

HEADLINE = (
    "features/fd",
    "features/precision",
    "features/recall",
    "features/density",
    "features/coverage",
    "features/authentic",
    "features/distance_ratio",
    "swd/by_real",
    "diversity/ms_ssim",
    "reconstruction/psnr",
    "reconstruction/ssim",
)
"""Metrics of the first table; the others are in the last one."""
CURVES = (
    in_features(FD, DOMAIN),
    in_features(FD, RANDOM_VGG),
    "quality/swd",
    "validation/mse",
)
"""Curves that are drawn where runs have them."""
PICTURE_BYTES, GUESS_BYTES = 3 * 2**20, 2**20
"""Upper limits of all pictures together, and of the images that are to be told apart."""
NOTHING = "-"
Histories = Mapping[str, Sequence[Measurement]]
"""What each run measured, by its folder."""
COSTS = ("parameters", "images seen", "updates", "time", "images/s", "worker-hours")


@dataclass(frozen=True)
class Cost:
    """A cell of the table of costs. Attributes: sort: the number to sort by."""

    shown: str
    sort: float | str = ""


@dataclass(frozen=True)
class Published:
    """Figures of others to stand beside the contenders'.

    Attributes: source: where they were published; figures: by tag of the metric.
    """

    name: str
    source: str
    figures: Mapping[str, float]


@dataclass(frozen=True)
class Comparison:
    """All that a page shows.

    Attributes:
        answers: sentences on who is better; notes: on what the reader has to know.
        extractor: whose features the first table shows.
        parameters: number of weights of each contender, all networks together.
        pictures: of each contender; problems: what could not be drawn, and why.
        guesses: images to tell apart, by contender.
        published: figures of others, for the tables.
        tuning: the best to expect of so many trials, for each sweep, by the metric's name.
        protocol: names and values; command: rebuilds the page.
        price: per worker and hour; 0: not known.
    """

    title: str
    contenders: Sequence[Contender]
    rows: Sequence[Row]
    answers: Sequence[str]
    extractor: str
    parameters: Sequence[int]
    pictures: Sequence[Shown] = ()
    problems: Sequence[str] = ()
    guesses: Mapping[str, Sequence[Guess]] = field(default_factory=dict)
    published: Sequence[Published] = ()
    tuning: Mapping[str, Sequence[Line]] = field(default_factory=dict)
    notes: Sequence[str] = ()
    protocol: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    price: float = 0.0


def render(comparison: Comparison) -> str:
    """The page as HTML. All texts of users are escaped."""
    contenders = comparison.contenders
    wanted = [tag.replace("features/", f"{comparison.extractor}/") for tag in HEADLINE]
    headline = [row for row in comparison.rows if row.tag in wanted]
    headline.sort(key=lambda row: wanted.index(row.tag))
    sheets, guesses = _pictures(comparison)
    runs = [entry.run.uri for contender in contenders for entry in contender.entries]
    histories = {run: _history(run) for run in runs}
    return rendering.render(
        "page.html",
        title=comparison.title,
        subtitle=_subtitle(comparison),
        answers=comparison.answers,
        notes=comparison.notes,
        headline=[_columns(row, comparison.published) for row in headline],
        everything=[_columns(row, comparison.published) for row in comparison.rows],
        published=comparison.published,
        contenders=[
            {"name": c.name, "runs": _runs(c), "costs": costs(c, p, comparison.price, histories)}
            for c, p in zip(contenders, comparison.parameters, strict=True)
        ],
        cost_names=[*COSTS, *(["price"] if comparison.price else [])],
        sheets=sheets,
        problems=comparison.problems,
        guesses=guesses,
        charts=[*_charts(contenders, histories), *_tuning_charts(comparison.tuning)],
        differing=differences(contenders),
        protocol=list(comparison.protocol.items()),
        command=comparison.command,
    )


def _pictures(comparison: Comparison) -> tuple[list[Any], list[Any]]:
    """Titles with their pictures, and contenders with the images to tell apart."""
    images = [guess.pixels for guesses in comparison.guesses.values() for guess in guesses]
    guessed = iter(encode(images, GUESS_BYTES))
    guesses = [
        (name, [{"image": next(guessed), "answer": guess.answer} for guess in own])
        for name, own in comparison.guesses.items()
    ]
    encoded = encode([picture.pixels for picture in comparison.pictures], PICTURE_BYTES)
    sheets: dict[str, list[Any]] = {}
    for picture, image in zip(comparison.pictures, encoded, strict=True):
        sheets.setdefault(picture.title, []).append(
            {"contender": picture.contender, "image": image}
        )
    return list(sheets.items()), guesses


def _subtitle(comparison: Comparison) -> str:
    runs = sum(len(contender.entries) for contender in comparison.contenders)
    return f"{len(comparison.contenders)} contenders, {runs} trainings"


def _runs(contender: Contender) -> str:
    count = len(contender.entries)
    text = f"{count} seed{'s'[count == 1 :]}"
    return f"{text}, {contender.failed} failed" if contender.failed else text


def _columns(row: Row, published: Sequence[Published]) -> dict[str, Any]:
    """What the page's table shows of a metric."""
    known = [v for values in row.values for v in values]
    ends = [e for m in row.means for e in (m.low, m.high) if math.isfinite(e)]
    low, high = min([*known, *ends], default=0.0), max([*known, *ends], default=1.0)
    untrained = [value for value in row.untrained if math.isfinite(value)]
    return {
        "name": row.name,
        "description": metric_of(row.tag).description,
        "arrow": _arrow(row),
        "best": row.best,
        "shown": [number(mean.value) for mean in row.means],
        "sort": [mean.value if math.isfinite(mean.value) else "" for mean in row.means],
        "ranges": [
            f"{number(mean.low)} to {number(mean.high)}" if math.isfinite(mean.low) else "one seed"
            for mean in row.means
        ],
        "strips": [
            curves.strip(values, mean, low, high, place)
            for place, (values, mean) in enumerate(zip(row.values, row.means, strict=True))
        ],
        "floor": number(row.floor),
        "untrained": _range(untrained),
        "published": [number(p.figures.get(row.tag, math.nan)) for p in published],
    }


def _arrow(row: Row) -> str:
    if not metric_of(row.tag).ranks:
        return "≈"
    return "↓" if row.direction == "min" else "↑"


def _range(values: Sequence[float]) -> str:
    if not values:
        return ""
    low, high = number(min(values)), number(max(values))
    return low if low == high else f"{low} to {high}"


def costs(contender: Contender, parameters: int, price: float, histories: Histories) -> list[Cost]:
    """What a contender's trainings took, on average. Args: price: per worker and hour."""
    entries = contender.entries
    if not entries:
        return [Cost(NOTHING)] * (len(COSTS) + bool(price))
    summaries = [entry.summary for entry in entries if entry.summary]
    # The last measurement knows the time that a run has spent training, over all its sessions.
    ends = [found[-1] for entry in entries if (found := histories[entry.run.uri])]
    seconds = [end.seconds for end in ends if end.seconds]
    images = [entry.run.images_seen for entry in entries]
    mean_seconds = sum(seconds) / len(seconds) if seconds else math.nan
    workers = summaries[0].num_workers if summaries else 1
    # Where their number changes, only the run itself knows the workers' time.
    used = [summary.usage.worker_seconds / 3600 for summary in summaries]
    hours = sum(used) / len(used) if used and all(used) else mean_seconds * workers / 3600
    updates = entries[0].run.updates
    rates = [summary.images_per_second for summary in summaries]
    # Trials of sweeps have no summary.
    rates = rates or [end.images_seen / end.seconds for end in ends if end.seconds]
    rate = sum(rates) / len(rates) if rates else math.nan
    seen = sum(images) / len(images)
    cells = [
        Cost(f"{parameters:,}", parameters),
        Cost(f"{seen:,.0f}", seen),
        Cost(", ".join(f"{name} {count:,}" for name, count in updates.items()) or NOTHING),
        Cost(duration(mean_seconds), mean_seconds) if seconds else Cost(NOTHING),
        Cost(f"{rate:,.0f}", rate) if rates else Cost(NOTHING),
        Cost(f"{hours:.3g}", hours) if seconds else Cost(NOTHING),
    ]
    if price:
        cells.append(Cost(f"{hours * price:.2f}", hours * price) if seconds else Cost(NOTHING))
    return cells


def _history(run: str) -> list[Measurement]:
    try:
        return read_history(Folder.at(run))
    except (FileNotFoundError, UserError):
        return []


def _charts(contenders: Sequence[Contender], histories: Histories) -> list[tuple[str, str]]:
    """Curves of what runs measured, against images and against seconds."""
    runs = [(k, e, histories[e.run.uri]) for k, c in enumerate(contenders) for e in c.entries]
    found = []
    for tag in CURVES:
        for label in ("images", "seconds"):
            lines = [
                Line(
                    f"{contenders[k].name}, seed {entry.seed}",
                    k,
                    [
                        (m.images_seen if label == "images" else m.seconds, m.values[tag])
                        for m in history
                        if tag in m.values
                    ],
                )
                for k, entry, history in runs
            ]
            if drawn := curves.chart(lines, label, metric_of(tag).name):
                found.append((f"{metric_of(tag).name} against {label}", drawn))
    return found


def _tuning_charts(tuning: Mapping[str, Sequence[Line]]) -> list[tuple[str, str]]:
    """What to expect of tuning: the best value of so many random trials, on average."""
    return [
        (f"expected best {name} against trials", curves.chart(lines, "trials", name))
        for name, lines in tuning.items()
    ]


def as_json(comparison: Comparison) -> dict[str, Any]:
    """The figures of a page, every seed's."""
    return {
        "format_version": 1,
        "answers": list(comparison.answers),
        "contenders": [
            {
                "name": c.name,
                "settings": dict(c.settings),
                "parameters": parameters,
                "runs": [
                    {"run": e.run.uri, "seed": e.seed, "status": e.run.status, "problem": e.problem}
                    for e in c.entries
                ],
            }
            for c, parameters in zip(comparison.contenders, comparison.parameters, strict=True)
        ],
        "metrics": {
            row.tag: {
                "direction": row.direction,
                "n": row.n,
                "floor": _finite(row.floor),
                "best": row.best,
                "values": [list(values) for values in row.values],
                "means": [
                    finite_or_none({"value": m.value, "low": m.low, "high": m.high})
                    for m in row.means
                ],
                "untrained": [_finite(value) for value in row.untrained],
                "established": [
                    {"better": first, "than": second, "by": gain.value, "low": gain.low}
                    for (first, second), gain in sorted(row.beats.items())
                ],
            }
            for row in comparison.rows
        },
        "protocol": dict(comparison.protocol),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def as_csv(comparison: Comparison) -> str:
    """A row for each training and metric."""
    file = io.StringIO()
    writer = csv.writer(file)
    names = ["value", "low", "high", "floor", "untrained", "n", "extractor"]
    writer.writerow(["contender", "run", "seed", "metric", *names])
    for contender in comparison.contenders:
        for entry in contender.measured:
            assert entry.evaluation
            for tag, measured in entry.evaluation.metrics.items():
                values = measured.to_json()
                writer.writerow(
                    [contender.name, entry.run.uri, entry.seed, tag, *(values[n] for n in names)]
                )
    return file.getvalue()
