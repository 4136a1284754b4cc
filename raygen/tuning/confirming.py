"""Confirms a sweep's results: trains the best settings and the defaults again with new seeds.

The best of many trials owes part of its lead to luck: of its own seed, and of having been picked.
The trainings of a confirmation had no part in the search, so what they say of a setting is what a
user will find.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from raygen.config.domains import Choice, short
from raygen.core.checked import Checked, finite_or_none
from raygen.evaluation.distances import Interval
from raygen.evaluation.metrics import metric_of
from raygen.evaluation.objective import Objective
from raygen.evaluation.seeds import differences_from_control, gain_of, means_over_seeds
from raygen.tuning.options import MOST_TRIALS
from raygen.tuning.planning import Plan
from raygen.tuning.records import (
    NEARLY,
    REDUCTION,
    SEED,
    SweepFolder,
    Trial,
    best_trial,
    comparable,
    without_seed,
)
from raygen.tuning.table import describe_values

LIST = "trainings.json"
"""File in the confirmation's folder: which trial's values each training has, and which seed."""
START_SECONDS = 10.0
"""Approximate time from one training to the next."""


@dataclass(frozen=True)
class Training:
    """One training of a confirmation.

    Attributes: trial: number of the trial whose values it has.
    """

    trial: int
    seed: int


@dataclass(frozen=True)
class Setting:
    """A setting, and what came of its trainings.

    Attributes:
        trial: the trial of the search that had it.
        found: the metrics at the end of each training that has ended, without those that failed.
        failed, collapsed: numbers of trainings that failed, and whose samples repeat.
        left: number of trainings that have not ended.
    """

    trial: Trial
    found: list[Mapping[str, float]]
    failed: int = 0
    collapsed: int = 0
    left: int = 0

    def values(self, metric: str) -> list[float]:
        """A metric's value in each training, without those where it is not finite."""
        values = (metrics.get(metric, math.nan) for metrics in self.found)
        return [value for value in values if math.isfinite(value)]


@dataclass(frozen=True)
class Confirmed:
    """The results of a confirmation.

    Attributes:
        settings: the best first, those with failed or collapsed trainings last; the defaults are
            among them.
        seeds: number of seeds of each setting.
        means: the mean objective of each setting, with its interval over seeds.
        gains: by how much each setting is better than the defaults, with simultaneous intervals;
            negative: worse; None for the defaults, and where there is too little to compare.
        seconds: time that all the trainings have taken.
    """

    objective: Objective
    settings: list[Setting]
    seeds: int
    means: list[Interval]
    gains: list[Interval | None]
    seconds: float

    @property
    def best(self) -> Setting:
        return self.settings[0]

    @property
    def left(self) -> int:
        """Number of trainings that have not ended."""
        return sum(setting.left for setting in self.settings)

    @property
    def is_established(self) -> bool:
        """Whether the best setting is better than the defaults beyond doubt."""
        gain = self.gains[0]
        return gain is not None and gain.low > 0

    def to_json(self) -> dict[str, Any]:
        settings = [
            {
                "trial": setting.trial.number,
                "values": setting.trial.values,
                "trainings": setting.found,
                "failed": setting.failed,
                "collapsed": setting.collapsed,
                "left": setting.left,
                "mean": _as_json(mean),
                "gain": gain and _as_json(gain),
            }
            for setting, mean, gain in zip(self.settings, self.means, self.gains, strict=True)
        ]
        return {
            "metric": self.objective.metric,
            "mode": self.objective.mode,
            "seeds": self.seeds,
            "established": self.is_established,
            "found": sentence(self),
            "settings": settings,
        }


def _as_json(interval: Interval) -> dict[str, float | None]:
    return finite_or_none({"value": interval.value, "low": interval.low, "high": interval.high})


def candidates(trials: Sequence[Trial], plan: Plan, most: int) -> list[Trial]:
    """The settings to confirm: the defaults, then at most so many of the best other ones.

    Those that the end of the time cut off while they led come first, then those that were trained
    to the end, then those that were stopped early, of which the ones that got farther come first.
    """
    defaults = next((t for t in trials if t.number == 0), None) or Trial(0, plan.defaults)
    leading = leaders(trials, plan.objective)
    chosen: list[Trial] = []
    for left in (leading, [trial for trial in trials if trial not in leading]):
        while len(chosen) < most and (best := best_trial(left, plan.objective)):
            left.remove(best)
            if best.number and without_seed(best.values) not in (
                without_seed(t.values) for t in (defaults, *chosen)
            ):
                chosen.append(best)
    return [replace(defaults, values=plan.defaults), *chosen]


def leaders(trials: Sequence[Trial], objective: Objective) -> list[Trial]:
    """The trials that were cut off while they were better than all that have got to the end.

    They are compared at the images that they had seen by then. Before the last rung of successive
    halving, the numbers say too little.
    """
    furthest = max((trial.images_seen for trial in trials), default=0)
    ended = [trial for trial in comparable(trials) if trial.status == "finished"]

    def value_after(trial: Trial, images: float) -> float:
        values = [r.objective for r in trial.reports if r.images_seen <= images]
        return values[-1] if values else math.nan

    def leads(trial: Trial) -> bool:
        value, seen = trial.objective, trial.images_seen / NEARLY
        if value is None or not ended or seen < furthest / REDUCTION:
            return False
        others = (value_after(other, seen) for other in ended)
        return all(not math.isfinite(o) or objective.is_better(value, o) for o in others)

    cut_off = [trial for trial in trials if trial.status == "interrupted"]
    usable = [trial for trial in cut_off if trial.is_measured and not trial.has_collapsed]
    return [trial for trial in usable if leads(trial)]


def fresh_seeds(trials: Sequence[Trial], plan: Plan, count: int) -> list[int]:
    """Seeds that no trial has had."""
    used = {plan.config.seed, *(trial.values.get(SEED, plan.config.seed) for trial in trials)}
    highest = max(seed for seed in used if isinstance(seed, int))
    return [highest + 1 + number for number in range(count)]


def plan_confirmation(
    folder: SweepFolder, trials: Sequence[Trial], plan: Plan, seeds: int, most: int
) -> tuple[Plan, list[Training], list[Trial]]:
    """Decide what to train, and note it down.

    What an earlier session has begun is trained to its end, even if the search has gone on since
    and has found other settings.

    Args:
        folder: the confirmation's; trials, plan: of the search.
        seeds: of each setting; most: settings besides the defaults.
    Returns: the plan, the trainings by number, and those that have begun.
    Raises: UserError if the records of an earlier session are damaged.
    """
    chosen = {trial.number: trial for trial in candidates(trials, plan, most)}
    fresh = fresh_seeds(trials, plan, seeds)
    # Seed by seed, so that settings can be compared wherever the time ends.
    wanted = [Training(number, seed) for seed in fresh for number in chosen]
    known = read_list(folder)
    begun = folder.read_trials()
    kept = known[: max((trial.number + 1 for trial in begun), default=0)]
    listed = kept + [training for training in wanted if training not in kept]
    folder.folder.write_json(LIST, {"trainings": [[t.trial, t.seed] for t in listed]})
    settings = {trial.number: without_seed(trial.values) for trial in trials}
    settings |= {number: without_seed(trial.values) for number, trial in chosen.items()}
    values = tuple(settings[t.trial] | {SEED: t.seed} for t in listed)
    space = plan.space | {SEED: Choice(tuple(sorted({t.seed for t in listed})))}
    defaults = plan.defaults | {SEED: plan.config.seed}
    listed_plan = replace(
        plan, space=space, defaults=defaults, count=len(values), search="random", listed=values
    )
    return listed_plan, listed, begun


def read_list(folder: SweepFolder) -> list[Training]:
    """The trainings that an earlier session planned. Raises: UserError if the file is damaged."""
    if not folder.folder.exists(LIST):
        return []
    advice = "delete the folder to have the sweep's results confirmed again"
    values = folder.folder.read_checked(LIST, advice=advice)
    return [_training(pair) for pair in values.entry("trainings").items()]


def _training(values: Checked) -> Training:
    trial, seed = values.pair()
    return Training(trial.integer(0, MOST_TRIALS), seed.integer())


def compare(
    settings: Sequence[Trial],
    listed: Sequence[Training],
    trained: Sequence[Trial],
    objective: Objective,
    seeds: Sequence[int],
) -> Confirmed:
    """Compare settings by their trainings with new seeds.

    Args:
        settings: see `candidates`; listed: the trainings by number; trained: those that have begun;
        seeds: those that count.
    """
    by_number = {trial.number: trial for trial in trained}
    found = []
    for trial in settings:
        numbers = [k for k, t in enumerate(listed) if t.trial == trial.number and t.seed in seeds]
        runs = [by_number[k] for k in numbers if k in by_number]
        ended = [run for run in runs if run.status in ("finished", "failed")]
        good = [run for run in ended if run.status == "finished" and run.is_measured]
        found.append(
            Setting(
                trial,
                [_at_end(run, objective) for run in good],
                failed=len(ended) - len(good),
                collapsed=sum(run.has_collapsed for run in good),
                left=len(seeds) - len(ended),
            )
        )
    metric = objective.metric

    def place(setting: Setting) -> tuple[int, int, float]:
        values = setting.values(metric)
        mean = objective.sign * math.fsum(values) / len(values) if values else math.inf
        return setting.failed, setting.collapsed, mean

    found.sort(key=place)
    return Confirmed(
        objective,
        found,
        len(seeds),
        means_over_seeds([setting.values(metric) for setting in found]),
        gains_over_defaults(found, metric, objective.sign),
        sum(training.seconds for training in trained),
    )


def _at_end(run: Trial, objective: Objective) -> dict[str, float]:
    """A training's metrics at its end, with the objective in its metric's place."""
    last = run.reports[-1]
    return {**last.metrics, objective.metric: last.objective}


def gains_over_defaults(
    settings: Sequence[Setting], metric: str, sign: int
) -> list[Interval | None]:
    """By how much each setting is better than the defaults in a metric; see `Confirmed.gains`.

    Args: sign: 1 if low values are good, else -1.
    """
    control = next((s.values(metric) for s in settings if s.trial.number == 0), [])
    others = [s for s in settings if s.trial.number and s.values(metric)]
    if not control or not others:
        return [None] * len(settings)
    differences = differences_from_control([s.values(metric) for s in others], control)
    gains = {
        setting.trial.number: gain_of(difference, sign)
        for setting, difference in zip(others, differences, strict=True)
    }
    return [gains.get(setting.trial.number) for setting in settings]


def sentence(found: Confirmed) -> str:
    """Summarise as `confirmed with 3 new seeds: trial 7 has FD 21 (19 to 23), ...`."""
    objective, best = found.objective, found.best
    defaults = next(k for k, s in enumerate(found.settings) if s.trial.number == 0)
    parts = []
    if found.left:
        total = found.seeds * len(found.settings)
        parts.append(f"{total - found.left} of {total} trainings have ended")
    for name, count in (
        ("failed", sum(s.failed for s in found.settings)),
        ("collapsed", sum(s.collapsed for s in found.settings)),
    ):
        if count:
            parts.append(f"{count} {name}")
    text = f"confirmed with {found.seeds} new seed{'s'[found.seeds == 1 :]}"
    text += f" ({', '.join(parts)}): " if parts else ": "
    of_defaults = _told(found.means[defaults])
    if best.trial.number == 0:
        return f"{text}no setting is better than the defaults, {objective.name} {of_defaults}"
    text += f"trial {best.trial.number} has {objective.name} {_told(found.means[0])}, the defaults "
    text += of_defaults
    gain = found.gains[0]
    if gain is None or not math.isfinite(gain.low):
        text += "; there are too few trainings to say whether it is better"
    elif found.is_established:
        text += f"; it is better by {_told(gain)}"
    else:
        text += f"; that it is better, by {_told(gain)}, is not established"
    return f"{text}: {describe_values(best.trial)}"


def _told(interval: Interval) -> str:
    if not math.isfinite(interval.value):
        return "nothing"
    if not math.isfinite(interval.low):
        return f"{interval.value:.4g}"
    return f"{interval.value:.4g} ({interval.low:.4g} to {interval.high:.4g})"


def rows(found: Confirmed, plan: Plan) -> list[list[str]]:
    """A heading and a row for each setting: its means over seeds, with their intervals."""
    metric = found.objective.metric
    tags = [metric, *sorted(_other_metrics(found.settings, metric))]
    heading = ["setting", "seeds", *(metric_of(tag).name for tag in tags), *plan.space, "trainings"]
    columns = [means_over_seeds([s.values(tag) for s in found.settings]) for tag in tags]
    lines = []
    for k, setting in enumerate(found.settings):
        name = f"trial {setting.trial.number}" if setting.trial.number else "defaults"
        counts = {"failed": setting.failed, "collapsed": setting.collapsed, "to come": setting.left}
        told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        values = [short(setting.trial.values[option]) for option in plan.space]
        lines.append(
            [name, str(len(setting.found)), *(_told(c[k]) for c in columns), *values, told or "all"]
        )
    return [heading, *lines]


def _other_metrics(settings: Sequence[Setting], metric: str) -> set[str]:
    tags = {tag for s in settings for metrics in s.found for tag in metrics}
    return {tag for tag in tags if tag.startswith("quality/")} - {metric}


def reserve_seconds(
    trials: Sequence[Trial], trainings: int, total_images: int, at_once: int
) -> float:
    """Estimate how long a confirmation of so many trainings will take, from the trials so far."""
    rates = [trial.seconds / trial.images_seen for trial in trials if trial.images_seen]
    if not rates or not trainings:
        return 0.0
    each = START_SECONDS + total_images * sorted(rates)[len(rates) // 2]
    return math.ceil(trainings / at_once) * each
