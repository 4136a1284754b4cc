"""Contenders' figures side by side: means over seeds, and what is established of their order."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from raygen.comparison.contenders import Contender
from raygen.evaluation.distances import Interval
from raygen.evaluation.metrics import DOMAIN, RANDOM_VGG, Direction, Metric, metric_of
from raygen.evaluation.seeds import differences_of_pairs, gain_of, means_over_seeds

QUESTIONS = (
    ("Overall", "features/fd"),
    ("On fidelity", "features/density"),
    ("On coverage", "features/coverage"),
    ("On originality", "features/authentic"),
    ("On colours and textures", "swd/by_real"),
    ("On reconstruction", "reconstruction/psnr"),
)
"""What is asked of the contenders, and the metric that answers it."""


@dataclass(frozen=True)
class Row:
    """A metric of all contenders.

    Attributes:
        values: its value in each run of each contender.
        means: the mean of each contender with its interval over seeds.
        floor: the value of real images; untrained: of each contender's untrained networks; NaN: not
            known.
        beats: pairs of contenders, by number, of which the first is better beyond doubt, and by how
            much, as a positive number.
        n: number of images that each value rests on.
    """

    tag: str
    values: Sequence[Sequence[float]]
    means: Sequence[Interval]
    floor: float
    untrained: Sequence[float]
    beats: dict[tuple[int, int], Interval]
    n: int

    @property
    def name(self) -> str:
        return metric_of(self.tag).name

    @property
    def direction(self) -> Direction:
        return metric_of(self.tag).direction

    @property
    def known(self) -> list[int]:
        """Numbers of the contenders that have the metric."""
        return [number for number, values in enumerate(self.values) if len(values)]

    @property
    def best(self) -> int | None:
        """The contender that is better than every other one beyond doubt, if there is one."""
        known = self.known
        for first in known:
            others = [second for second in known if second != first]
            if others and all((first, second) in self.beats for second in others):
                return first
        return None


def compare(contenders: Sequence[Contender]) -> list[Row]:
    """A row for each metric that some contender has, in the order of evaluations.

    Figures are compared only where all rest on equally many images and one extractor, because they
    depend on both.
    """
    tags = dict.fromkeys(
        tag for c in contenders for e in c.measured if e.evaluation for tag in e.evaluation.metrics
    )
    return [_row(tag, contenders) for tag in tags]


def _row(tag: str, contenders: Sequence[Contender]) -> Row:
    values = [contender.values(tag) for contender in contenders]
    measured = [
        e.evaluation.metrics[tag]
        for c in contenders
        for e in c.measured
        if e.evaluation and tag in e.evaluation.metrics
    ]
    counts = {m.n for m in measured}
    metric = metric_of(tag)
    sign = 1 if metric.direction == "min" else -1
    beats: dict[tuple[int, int], Interval] = {}
    if len(counts) == 1 and len(_networks(tag, contenders)) <= 1 and metric.ranks:
        for pair, d in differences_of_pairs(values).items():
            gain = gain_of(d, sign)
            if gain.low > 0:
                beats[pair] = gain
    floors = [m.floor for m in measured if math.isfinite(m.floor)]
    return Row(
        tag,
        values,
        [_inside(mean, metric) for mean in means_over_seeds(values)],
        floors[0] if floors else math.nan,
        [_untrained(contender, tag) for contender in contenders],
        beats,
        min(counts),
    )


def _networks(tag: str, contenders: Sequence[Contender]) -> set[str]:
    """Hashes of the extractors whose features the values of a metric rest on."""
    hashes = set()
    for contender in contenders:
        for entry in contender.measured:
            assert entry.evaluation
            measured = entry.evaluation.metrics.get(tag)
            known = entry.evaluation.about.get("extractors")
            if measured and measured.extractor and isinstance(known, Mapping):
                hashes.add(str(known.get(measured.extractor, {}).get("sha256")))
    return hashes


def _inside(interval: Interval, metric: Metric) -> Interval:
    """An interval without what the metric cannot be."""
    low, high = max(interval.low, metric.least), min(interval.high, metric.most)
    return replace(interval, low=low, high=high) if math.isfinite(interval.low) else interval


def _untrained(contender: Contender, tag: str) -> float:
    for entry in contender.measured:
        if entry.evaluation and (found := entry.evaluation.metrics.get(tag)):
            return found.untrained
    return math.nan


def warnings(rows: Sequence[Row], contenders: Sequence[Contender], extractor: str) -> list[str]:
    """Which contenders are no better than their networks before the training."""
    overall = QUESTIONS[0][1].replace("features", extractor)
    found = []
    for row in rows:
        if row.tag != overall:
            continue
        for contender, mean, before in zip(contenders, row.means, row.untrained, strict=True):
            if mean.value >= before:
                found.append(
                    f"{contender.name} is no better than without training ({row.name} "
                    f"{mean.value:.4g} against {before:.4g}), so that other figures say little of "
                    "it; train for longer."
                )
    return found


def extractor_for_all(contenders: Sequence[Contender]) -> str:
    """The extractor whose features the answers are given in."""
    has_own = [
        f"{DOMAIN}/fd" in (e.evaluation.metrics if e.evaluation else {})
        for c in contenders
        for e in c.measured
    ]
    return DOMAIN if has_own and all(has_own) else RANDOM_VGG


def answers(rows: Sequence[Row], contenders: Sequence[Contender], extractor: str) -> list[str]:
    """A sentence for each question: who is better than whom, or that this is not established."""
    by_tag = {row.tag: row for row in rows}
    names = [contender.name for contender in contenders]
    found = []
    for question, tag in QUESTIONS:
        row = by_tag.get(tag.replace("features/", f"{extractor}/"))
        if row is None or len(row.known) < 2:
            continue
        found.append(f"{question} ({row.name}), {_order(row, names)}.")
    return found


def _order(row: Row, names: Sequence[str]) -> str:
    if row.best is not None:
        others = [names[second] for second in row.known if second != row.best]
        beaten = "all others" if len(others) > 2 else _listed(others)
        return f"{names[row.best]} is better than {beaten}"
    if not row.beats:
        if max(map(len, row.values)) < 2:
            return "one seed of each cannot establish a difference"
        return "no difference is established"
    # Those that are better than the same ones are told together.
    better: dict[tuple[str, ...], list[str]] = {}
    for first in dict.fromkeys(f for f, _ in sorted(row.beats)):
        worse = tuple(names[s] for f, s in sorted(row.beats) if f == first)
        better.setdefault(worse, []).append(names[first])
    parts = [
        f"{_listed(firsts)} {'is' if len(firsts) == 1 else 'are'} better than {_listed(worse)}"
        for worse, firsts in better.items()
    ]
    return "; ".join(parts) + "; other differences are not established"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
