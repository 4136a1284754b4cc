"""Results of a sweep: the best options as a file, all trials as a table, pictures, a sentence."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from statistics import mean, stdev
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from raygen.config.domains import Choice, Range, Space, Value, short
from raygen.config.run import PRESETS, RunConfig
from raygen.core.storage import Folder
from raygen.evaluation.objective import Objective
from raygen.tuning.confirming import Confirmed
from raygen.tuning.expected_best import expected_best, searched_values
from raygen.tuning.options import TRIAL_DEFAULTS
from raygen.tuning.outcome import CONFIRMED
from raygen.tuning.records import SEED, Trial, best_trial, comparable
from raygen.tuning.table import describe_values

BEST = "best.json"
TABLE = "trials.csv"
PARALLEL = "parallel-coordinates.png"
SENSITIVITY = "sensitivity.png"
EXPECTED_BEST = "expected-best.png"
_DPI = 120
_ROBUST = 0.8
"""Share of trials that a picture's axis spans; the others are outliers, drawn at its end."""


def best_config(config: RunConfig, trial: Trial) -> RunConfig:
    """A trial's options at the preset's full length. Args: config: the options not searched."""
    preset = PRESETS[config.preset]
    shorter = (*TRIAL_DEFAULTS, "quality_samples")
    own: dict[str, Any] = {name: getattr(preset, name) for name in shorter}
    return replace(config.updated(trial.values, "trial"), steps=0, epochs=0.0, **own)


def sentence(trials: Sequence[Trial], objective: Objective) -> str:
    """Summarise as `best SWD 21.4 against 34.0 for the defaults, trial 17: lr_g 2.1e-04, ...`."""
    best = best_trial(trials, objective)
    if best is None or best.objective is None:
        return "no trial has been measured yet"
    text = f"best {objective.name} {best.objective:.4g}"
    default = next((trial for trial in trials if trial.number == 0 and trial.reports), None)
    if best.number == 0:
        return f"{text}: the defaults, trial 0; no other trial is better"
    if default and default.objective is not None:
        text += f" against {default.objective:.4g} for the defaults"
        if default.images_seen != best.images_seen:
            text += f" (after {default.images_seen:,} of {best.images_seen:,} images)"
    return f"{text}, trial {best.number}: {describe_values(best)}"


def counts(trials: Sequence[Trial]) -> str:
    """Count the trials as `16 trials: 2 failed, 1 collapsed (samples repeat)`."""
    failed = sum(trial.status == "failed" for trial in trials)
    collapsed = sum(trial.has_collapsed for trial in trials)
    parts = [f"{failed} failed"] if failed else []
    if collapsed:
        parts.append(f"{collapsed} collapsed (samples repeat)")
    text = f"{len(trials):,} trial{'s'[len(trials) == 1 :]}"
    return f"{text}: {', '.join(parts)}" if parts else text


def over_seeds(trials: Sequence[Trial], objective: Objective) -> list[list[str]]:
    """A heading and a row for each setting that was tried with several seeds, the best first.

    Only trials that have got as far as the furthest count; the spread is the sample standard
    deviation.
    """
    measured = _measured(trials)
    far = comparable(trial for trial, _ in measured)
    settings: dict[tuple[Value, ...], list[float]] = {}
    names = [name for name in trials[0].values if name != SEED] if trials else []
    for trial, value in measured:
        if trial in far:
            settings.setdefault(tuple(trial.values[name] for name in names), []).append(value)
    several = {key: values for key, values in settings.items() if len(values) > 1}
    rows = [
        [*map(short, key), str(len(values)), f"{mean(values):.4g}", f"{stdev(values):.2g}"]
        for key, values in sorted(several.items(), key=lambda item: objective.sign * mean(item[1]))
    ]
    return (
        [[*names, "seeds", f"mean {objective.name}", "standard deviation"], *rows] if rows else []
    )


def write_findings(
    folder: Folder,
    config: RunConfig,
    space: Space,
    trials: Sequence[Trial],
    objective: Objective,
    is_random: bool = True,
    confirmed: Confirmed | None = None,
) -> list[str]:
    """Write all results of the trials so far.

    Args:
        is_random: whether the trials' values were drawn independently of one another.
        confirmed: the results of a confirmation, which decide what is best.
    Returns: the names of the files.
    """
    names = [TABLE]
    folder.write_bytes(TABLE, as_csv(trials, space, objective).encode())
    best = best_trial(trials, objective)
    if best is not None:
        chosen = confirmed.best.trial if confirmed else best
        folder.write_json(BEST, best_config(config, chosen).to_json())
        for name, figure in (
            (PARALLEL, parallel_coordinates(trials, space, objective)),
            (SENSITIVITY, sensitivity(trials, space, objective)),
            (EXPECTED_BEST, best_of_trials(trials, objective, is_random, confirmed)),
        ):
            file = io.BytesIO()
            figure.savefig(file, format="png", dpi=_DPI)
            folder.write_bytes(name, file.getvalue())
        names += [BEST, PARALLEL, SENSITIVITY, EXPECTED_BEST]
    if confirmed:
        folder.write_json(CONFIRMED, confirmed.to_json())
        names.append(CONFIRMED)
    return names


def as_csv(trials: Sequence[Trial], space: Space, objective: Objective) -> str:
    """Format the trials as CSV, a row for each, by number."""
    file = io.StringIO()
    writer = csv.writer(file)
    # The objective may exceed the metric, because KL beyond its bound is added.
    writer.writerow(
        ["trial", "status", "images_seen", "seconds", "sweep_objective", objective.metric, *space]
        + ["reason", "failures"]
    )
    for trial in trials:
        metric = trial.reports[-1].metrics.get(objective.metric) if trial.reports else None
        row: list[Any] = [trial.number, trial.status, trial.images_seen, round(trial.seconds, 2)]
        row += ["" if value is None else value for value in (trial.objective, metric)]
        row += [trial.values[name] for name in space]
        writer.writerow([*row, trial.reason, "; ".join(trial.failures)])
    return file.getvalue()


def _measured(trials: Sequence[Trial]) -> list[tuple[Trial, float]]:
    return [
        (trial, trial.objective)
        for trial in trials
        if trial.objective is not None and math.isfinite(trial.objective)
    ]


def _limits(values: Sequence[float], sign: int) -> tuple[float, float]:
    """The best and the worst value that a picture's axis spans."""
    ordered = sorted(values, key=lambda value: sign * value)
    best, worst = ordered[0], ordered[min(len(ordered) - 1, int(_ROBUST * len(ordered)))]
    if abs(ordered[-1] - best) <= 1.5 * abs(worst - best):
        worst = ordered[-1]
    return (best, worst) if worst != best else (best, best + sign * max(abs(best), 1e-9))


def _by_logarithm(best: float, worst: float) -> bool:
    """Whether the axis must be logarithmic for good objectives to be distinguishable."""
    return min(best, worst) > 0 and max(best, worst) > 3 * min(best, worst)


def parallel_coordinates(trials: Sequence[Trial], space: Space, objective: Objective) -> Figure:
    """Draw a line for each trial through its values to its objective; the best are darkest."""
    measured = _measured(trials)
    names = [*space, objective.name]
    figure = Figure(figsize=(max(7.0, 1.7 * len(names)), 5), layout="constrained")
    axes: Axes = figure.subplots()
    best, worst = _limits([value for _, value in measured], objective.sign)
    colours = mpl.colormaps["viridis"]
    chosen = best_trial(trials, objective)

    def quality(value: float) -> float:
        """1 for the best, 0 for the worst that is shown."""
        if _by_logarithm(best, worst):
            share = math.log(worst / max(value, 1e-9)) / math.log(worst / best)
        else:
            share = (worst - value) / (worst - best)
        return min(1.0, max(0.0, share))

    for trial, value in sorted(measured, key=lambda pair: -objective.sign * pair[1]):
        heights = [min(1.1, max(-0.1, d.share(trial.values[n]))) for n, d in space.items()]
        heights.append(quality(value))
        is_best, is_default = trial is chosen, trial.number == 0
        label = "best" if is_best else "defaults" if is_default else None
        axes.plot(
            range(len(names)),
            heights,
            color="crimson" if is_best else colours(1 - quality(value)),
            linestyle="--" if is_default and not is_best else "-",
            linewidth=3 if is_best or is_default else 1.2,
            alpha=1 if is_best or is_default else 0.7,
            label=label and f"trial {trial.number}, {label}",
            zorder=3 if is_best or is_default else 2,
        )
    for index, domain in enumerate(space.values()):
        axes.axvline(index, color="0.6", linewidth=0.8, zorder=1)
        marks = domain.values if isinstance(domain, Choice) else [domain.at(s) for s in (0, 0.5, 1)]
        for mark in marks:
            axes.annotate(
                short(mark),
                (index, domain.share(mark)),
                xytext=(4, 0),
                textcoords="offset points",
                fontsize=8,
                va="center",
                bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.5},
                zorder=4,
            )
    last = len(names) - 1
    axes.axvline(last, color="0.6", linewidth=0.8, zorder=1)
    for height, value in ((1.0, best), (0.0, worst)):
        beyond = " or worse" if height == 0 and len(measured) > 1 else ""
        axes.annotate(f" {value:.4g}{beyond}", (last, height), fontsize=8, va="center")
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks([])
    axes.set_ylim(-0.15, 1.15)
    axes.set_xlim(-0.1, last + 0.45)
    for side in ("top", "left", "right", "bottom"):
        axes.spines[side].set_visible(False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.1), ncols=2, frameon=False)
    return figure


def sensitivity(trials: Sequence[Trial], space: Space, objective: Objective) -> Figure:
    """Plot the objective against each searched option. Trials stopped early are hollow."""
    measured = _measured(trials)
    columns = min(3, max(1, len(space)))
    rows = max(1, math.ceil(len(space) / columns))
    figure = Figure(figsize=(4.2 * columns, 3.4 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    best, worst = _limits([value for _, value in measured], objective.sign)
    logarithmic = _by_logarithm(best, worst)
    low, high = min(best, worst), max(best, worst)
    margin = 0.08 * (high - low)
    limits = (low * 0.85, high / 0.85) if logarithmic else (low - margin, high + margin)
    chosen = best_trial(trials, objective)
    far = comparable(trial for trial, _ in measured)
    panels = [axes for line in grid for axes in line]
    for axes, (name, domain) in zip(panels, space.items(), strict=False):
        for trial, value in measured:
            x: Any = trial.values[name]
            if isinstance(domain, Choice):
                if x not in domain.values:
                    continue
                x = domain.values.index(x)
            shown = min(value, worst) if objective.sign > 0 else max(value, worst)
            colour = "crimson" if trial is chosen else "black" if trial.number == 0 else "C0"
            axes.plot(
                [x],
                [shown],
                marker="^" if shown != value else "o",
                color=colour,
                markerfacecolor=colour if trial in far else "none",
                markersize=8 if trial is chosen or trial.number == 0 else 6,
                linestyle="",
            )
        axes.set_xlabel(name)
        if logarithmic:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("{x:g}")
        axes.set_ylim(limits)
        if isinstance(domain, Range) and domain.log:
            axes.set_xscale("log")
        elif isinstance(domain, Choice):
            axes.set_xticks(range(len(domain.values)), [short(value) for value in domain.values])
            axes.set_xlim(-0.5, len(domain.values) - 0.5)
        axes.grid(alpha=0.3)
    for axes in panels[len(space) :]:
        axes.set_visible(False)
    better = "lower" if objective.mode == "min" else "higher"
    for line in grid:
        line[0].set_ylabel(f"{objective.name} ({better} is better)")
    figure.suptitle(
        "red: best - black: defaults - hollow: not trained to the end - triangle: beyond the axis",
        fontsize=9,
    )
    return figure


def best_of_trials(
    trials: Sequence[Trial], objective: Objective, is_random: bool, confirmed: Confirmed | None
) -> Figure:
    """Plot the best value against the number of trials: what to expect of a smaller sweep.

    Trials that failed count as the worst that was measured. What a confirmation found stands at
    the right.

    Args: is_random: whether any other choice of the trials might have been made; otherwise the
        best so far is drawn, trial by trial.
    """
    measured = _measured(trials)
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes: Axes = figure.subplots()
    values = searched_values(trials, objective)
    if values:
        _plot_best(axes, values, objective, is_random)
    default = next((value for trial, value in measured if trial.number == 0), None)
    if default is not None:
        axes.axhline(default, color="black", linestyle="--", label="defaults")
    if confirmed:
        _plot_confirmed(axes, confirmed, len(values) + 1)
    better = "lower" if objective.mode == "min" else "higher"
    axes.set_xlabel("trials" + (" - new seeds at the right" if confirmed else ""))
    axes.set_ylabel(f"{objective.name} ({better} is better)")
    ticks = MaxNLocator(integer=True).tick_values(0, max(1, len(values)))
    axes.set_xticks([tick for tick in ticks if 1 <= tick <= max(1, len(values))])
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)
    return figure


def _plot_best(axes: Axes, values: Sequence[float], objective: Objective, is_random: bool) -> None:
    if is_random:
        found = expected_best(values, objective.sign)
        axes.fill_between(found.trials, found.low, found.high, alpha=0.2, linewidth=0)
        axes.plot(found.trials, found.mean, marker="." if len(found.trials) < 30 else "")
        title = "the best of so many random trials: mean, and where 80 % of them lie"
    else:
        so_far = accumulate(values, min if objective.sign > 0 else max)
        axes.plot(range(1, len(values) + 1), list(so_far), drawstyle="steps-post")
        title = "the best so far, trial by trial"
    axes.set_title(title, fontsize=10)


def _plot_confirmed(axes: Axes, confirmed: Confirmed, first: int) -> None:
    """Args: first: where the best setting stands."""
    found = zip(confirmed.settings, confirmed.means, strict=True)
    for place, (setting, interval) in enumerate(found):
        if not setting.found:
            continue
        is_default = setting.trial.number == 0
        name = "defaults" if is_default else f"trial {setting.trial.number}"
        half = interval.high - interval.value
        axes.errorbar(
            first + place,
            interval.value,
            half if math.isfinite(half) else None,
            fmt="s" if is_default else "o",
            color="black" if is_default else "crimson" if place == 0 else f"C{place}",
            capsize=3,
            label=f"{name}, {len(setting.found)} new seeds",
        )
