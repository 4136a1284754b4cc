"""Train, tune and compare the contenders of a suite, within a budget of time.

Each contender is a sweep of its own, in a folder of its name: over its seeds alone, or a search
with its share of the budget, followed by trainings of its best setting and of its defaults with new
seeds. Only trainings whose seeds had no part in a choice are compared.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from raygen.cli import TuneCommand, given_options, parse_contender
from raygen.cluster import connection as cluster
from raygen.comparison.options import CompareOptions
from raygen.comparison.page import Comparison
from raygen.comparison.suite import Member, read_suite
from raygen.config.families import FD
from raygen.config.fields import option, require, seconds_of
from raygen.config.job import JobOptions
from raygen.config.machines import machines_of
from raygen.config.run import DRAWN, PRESETS, RunConfig
from raygen.core.errors import Interrupted, RunError, UserError, one_line
from raygen.core.progress import ProgressLine, Silence, duration
from raygen.core.storage import Folder
from raygen.data.dataset import open_dataset
from raygen.data.shards.manifest import Manifest
from raygen.data.sources.drawn import DrawnFaces
from raygen.data.splits import TEST, TRAIN
from raygen.inference.options import LEAST_SAMPLES
from raygen.jobs.compare import Group, again, common_images, compare_groups, dataset_for
from raygen.jobs.evaluate import open_data
from raygen.jobs.tune import tune
from raygen.measuring.subjects import RealImages
from raygen.training.run import CONFIG
from raygen.tuning.confirming import START_SECONDS, read_list
from raygen.tuning.options import AS_MANY_AS_FIT, TRIAL_DEFAULTS, SweepOptions
from raygen.tuning.planning import make_plan
from raygen.tuning.records import REPORTS, SEED, SWEEP, SweepFolder, Trial
from raygen.tuning.speed import training_speeds

PLAN = "suite.json"
SEARCH_SHARE = 0.5
"""Share of the budget for searches, in equal parts; the rest is for trainings with new seeds."""
OVERHEAD = 1.4
"""Time of a training over that of its steps alone: reading, measuring, and saving take some."""
DECIDED = {
    **dict.fromkeys(("steps", "epochs"), "a suite's trainings all see --images"),
    "seed": "a suite's trainings have seeds of their own",
    "data": "a suite's data is named by --data",
    **dict.fromkeys(
        ("num_workers", "max_failures", "on_nan", "checkpoint_images", "sample_images")
        + ("stall_timeout", "checkpoint_every"),
        "a suite's trainings are trials of sweeps, which decide it",
    ),
    "validate_images": "a suite's trainings are trials of sweeps, which decide it",
}
"""Options of trainings that a suite decides, and why."""


@dataclass(frozen=True)
class Planned:
    """A contender, and what is planned for it.

    Attributes:
        run: the options of its trainings, but for their length.
        steps: their length.
        trainings: number of trainings with new seeds.
        seconds: what these are expected to take together.
    """

    member: Member
    run: RunConfig
    steps: int
    trainings: int
    seconds: float


@dataclass(frozen=True)
class Suite:
    """All that a suite is to do.

    Attributes:
        images: that each training sees.
        search_seconds: for each contender's search; 0: contenders are not tuned.
        at_once: number of trainings that run at the same time.
        notes: what the user should know of the plan.
    """

    contenders: Sequence[Planned]
    images: int
    search_seconds: float
    at_once: int
    notes: Sequence[str] = ()

    @property
    def seconds(self) -> float:
        """Time for all searches and trainings together."""
        return sum(self.search_seconds + planned.seconds for planned in self.contenders)


@dataclass
class State:
    """What a suite has done so far, kept in its folder.

    Attributes:
        asked: what the user asked for, which may not change.
        images, at_once: see `Suite`; seconds: see `Planned`, by contender.
        ended: names of the contenders that have been trained.
    """

    asked: Mapping[str, Any]
    images: int
    at_once: int
    seconds: Sequence[float]
    ended: list[str] = field(default_factory=list)

    def save(self, out: Folder) -> None:
        out.write_json(
            PLAN,
            {
                "format_version": 1,
                "asked": dict(self.asked),
                "images": self.images,
                "at_once": self.at_once,
                "seconds": list(self.seconds),
                "ended": self.ended,
            },
        )


def run_suite(
    options: CompareOptions, words: Sequence[str] = (), line: ProgressLine | None = None
) -> Comparison | None:
    """Train the contenders of a suite and make the page; what was done before is not done again.

    Args: words: options of trainings, as on a command line, which apply to all contenders.
    Returns: what the page shows; None with --dry-run.
    Raises: UserError, RunError, Interrupted.
    """
    line = line or ProgressLine()
    # Everything that could refuse is asked before anything takes time.
    out = Folder.at(options.folder)
    contenders = read_suite(options.suite)
    members = contenders.members
    runs = [_run_of(member, options, words) for member in members]
    asked = _asked(options, words, members)
    saved = saved_state(out, asked, len(members))
    manifests = _manifests(members, runs, out)
    for member, run in zip(members, runs, strict=True):
        with _naming(member):
            make_plan(run, _search(member, options))
    with cluster.connected(options.verbose):
        suite = _plan(options, members, runs, manifests, saved, line)
        _announce(suite, options, saved, line)
        if options.dry_run:
            return None
        out.check_writable()
        out = out.patient(options.patience)
        seconds = [planned.seconds for planned in suite.contenders]
        state = saved or State(asked, suite.images, suite.at_once, seconds)
        state.save(out)
        command = again(options, words)
        try:
            problems = _train(suite, state, options, out, line)
        except (Interrupted, KeyboardInterrupt):
            line.tell(f"to go on: {command}")
            raise
        groups = [
            group
            for planned in suite.contenders
            for group in _groups(planned, options.tune, out, problems.get(planned.member.name, ""))
        ]
        return compare_groups(options, groups, line, contenders.published, command, to_the_end=True)


def _train(
    suite: Suite, state: State, options: CompareOptions, out: Folder, line: ProgressLine
) -> dict[str, str]:
    """Train the contenders that have not been trained. Returns: why some failed, by name."""
    problems: dict[str, str] = {}
    for number, planned in enumerate(suite.contenders):
        name = planned.member.name
        if name in state.ended:
            continue
        line.tell(f"contender {number + 1} of {len(suite.contenders)}: {name}")
        try:
            # On a terminal a sweep shows a live table.
            quiet = line if isinstance(line, Silence) else None
            findings = tune(_command(planned, suite, options, out), quiet, of_suite=True)
        except (RunError, UserError) as error:
            # The others are trained all the same; the page says what happened to this one.
            problems[name] = one_line(error)
            line.tell(f"{name} failed: {problems[name]}")
            continue
        confirmed = findings.confirmed
        if left := confirmed.left if confirmed else 0 if options.tune else findings.left:
            problems[name] = f"{left} of its trainings did not end; the same command goes on"
            line.tell(f"{name}: {problems[name]}")
        else:
            state.ended.append(name)
            state.save(out)
    return problems


def _run_of(member: Member, options: CompareOptions, words: Sequence[str]) -> RunConfig:
    """The options of a contender's trainings; those on the command line apply to all.

    Raises: UserError.
    """
    for name in sorted(given_options(words) & DECIDED.keys()):
        raise UserError(f"{option(name)}: {DECIDED[name]}")
    with _naming(member):
        for name in sorted(member.options.keys() & DECIDED.keys()):
            raise UserError(f"{options.suite}: {name}: {DECIDED[name]}")
        saved = PRESETS[member.preset].updated(TRIAL_DEFAULTS | dict(member.options), options.suite)
        run = parse_contender(saved, words)
    return replace(run, data=dataset_for(options.data, run.size) or DRAWN)


@contextmanager
def _naming(member: Member) -> Iterator[None]:
    """Say of which contender a mistake is."""
    try:
        yield
    except UserError as error:
        raise UserError(f"contender {member.name}: {error}") from error


def _manifests(
    members: Sequence[Member], runs: Sequence[RunConfig], out: Folder
) -> list[Manifest | None]:
    """The manifests of the contenders' datasets; None for those that are still to be drawn.

    Raises: UserError if they could be trained on but not compared.
    """
    datasets: dict[str, RealImages] = {}
    for member, run in zip(members, runs, strict=True):
        with _naming(member):
            folder, manifest = open_dataset(run, out.uri)
            if manifest:
                datasets[member.name] = open_data(folder)
            else:
                tested = len(DrawnFaces(run.drawn_count).splits()[TEST])
                wish = f"be enough for {LEAST_SAMPLES} test images, not {tested}"
                require(tested >= LEAST_SAMPLES, "--drawn-count", run.drawn_count, wish)
    if datasets:
        common_images(datasets)
    return [
        datasets[member.name].manifest if member.name in datasets else None for member in members
    ]


def _plan(
    options: CompareOptions,
    members: Sequence[Member],
    runs: Sequence[RunConfig],
    manifests: Sequence[Manifest | None],
    saved: State | None,
    line: ProgressLine,
) -> Suite:
    """Decide how many images each training sees. Raises: UserError, RunError."""
    budget = seconds_of(options.budget, "--budget")
    # The best setting and the defaults, or the defaults alone.
    trainings = options.seeds * (2 if options.tune else 1)
    notes: list[str] = []
    if saved:
        images, at_once, seconds = saved.images, saved.at_once, list(saved.seconds)
    else:
        machines = machines_of(options.cluster_may_grow_to)
        speeds, at_once = training_speeds(runs, trainings, line, options.verbose, machines)
        rounds = -(-trainings // at_once)
        share = 1 - SEARCH_SHARE if options.tune else 1.0
        available = max(0.0, budget * share / rounds - len(runs) * START_SECONDS)
        images = int(available / sum(OVERHEAD / speed for speed in speeds))
        images = options.images or images
        shortest = min(_own_length(r, m) for r, m in zip(runs, manifests, strict=True))
        if shortest < images and not options.images:
            images = shortest
            notes.append("the presets' own lengths fit into the budget, so the shortest is taken")
        seconds = [rounds * (START_SECONDS + images * OVERHEAD / speed) for speed in speeds]
    planned = []
    for member, run, took in zip(members, runs, seconds, strict=True):
        steps = images // run.step_images
        if steps < REPORTS:
            least = f"but {REPORTS} steps take {REPORTS * run.step_images:,}"
            if options.images:
                raise UserError(f"--images {images}: is one training of {member.name}, {least}")
            raise UserError(
                f"--budget {options.budget}: leaves {images:,} images for each of {trainings} "
                f"trainings of {member.name}, {least}; allow more time, or choose a smaller --width"
            )
        planned.append(Planned(member, run, steps, trainings, took))
    # What the trainings do not need is the searches'.
    rest = max(budget - sum(seconds), budget * SEARCH_SHARE) if options.tune else 0.0
    suite = Suite(planned, images, rest / len(members), at_once, notes)
    if suite.seconds > 1.01 * budget:
        notes.append(f"that is more than --budget {options.budget}, because of --images")
    return suite


def _own_length(run: RunConfig, manifest: Manifest | None) -> int:
    """Images of a training of the preset's own length. Args: manifest: None for drawn faces."""
    drawn = len(DrawnFaces(run.drawn_count).splits()[TRAIN])
    return run.total_steps(manifest.rows(TRAIN) if manifest else drawn) * run.step_images


def _announce(
    suite: Suite, options: CompareOptions, saved: State | None, line: ProgressLine
) -> None:
    line.close()
    kind = "tuned, and their best settings and defaults trained" if options.tune else "trained"
    line.tell(
        f"{len(suite.contenders)} contenders, {kind} with {options.seeds} seeds, "
        f"{suite.images:,} images a training, {suite.at_once} at once"
    )
    for planned in suite.contenders:
        text = (
            f"{planned.trainings} trainings of {planned.steps:,} steps of "
            f"{planned.run.step_images} images, about {duration(planned.seconds)}"
        )
        if options.tune:
            text = f"a search of {duration(suite.search_seconds)}, {text}"
        done = ", done" if saved and planned.member.name in saved.ended else ""
        line.tell(f"  {planned.member.name}: {text}{done}")
    line.tell(f"about {duration(suite.seconds)}, and some minutes to measure and draw")
    for note in suite.notes:
        line.tell(note)


def _asked(
    options: CompareOptions, words: Sequence[str], members: Sequence[Member]
) -> dict[str, Any]:
    """What a suite that goes on has to have in common with the one that was begun."""
    return {
        "suite": options.suite,
        "contenders": [[m.name, m.preset, dict(m.options), list(m.set), m.space] for m in members],
        "data": list(options.data),
        "options": list(words),
        "tune": options.tune,
        "seeds": options.seeds,
        "budget": options.budget,
        "images": options.images,
    }


def saved_state(out: Folder, asked: Mapping[str, Any], contenders: int) -> State | None:
    """The state of a suite that goes on; None for a new one.

    Raises: UserError if another suite was begun in this folder, or its file is damaged.
    """
    if not out.exists(PLAN):
        return None
    advice = "choose another --out for a new suite"
    values = out.read_checked(PLAN, advice=advice)
    known = values.entry("asked").entries()
    for name, value in asked.items():
        before = known[name].value if name in known else None
        if before != value:
            other = f"{name} {before!r}, not {value!r}"
            other = "other contenders" if name == "contenders" else other
            raise UserError(f"--out {out.uri}: holds a suite that was begun with {other}; {advice}")
    seconds = [entry.number(at_least=0) for entry in values.entry("seconds").items()]
    if len(seconds) != contenders:
        values.refuse(f"seconds has {len(seconds)} entries, not one for each contender")
    return State(
        asked,
        values.entry("images").integer(1),
        values.entry("at_once").integer(1),
        seconds,
        list(values.entry("ended").texts()),
    )


def _search(member: Member, options: CompareOptions) -> SweepOptions:
    """How a contender is searched, or trained with several seeds."""
    if options.tune:
        return SweepOptions(
            trials=str(AS_MANY_AS_FIT),
            # Contenders are compared by one metric, also those that are usually chosen by another.
            metric=FD,
            confirm=options.seeds,
            confirm_best=1,
            set=member.set,
            space=member.space,
        )
    if options.seeds == 1:
        # The first trial of any search has the defaults.
        return SweepOptions(trials="1", metric=FD, confirm=0)
    seeds = ",".join(map(str, range(options.seeds)))
    return SweepOptions(
        search="grid",
        scheduler="none",
        metric=FD,
        confirm=0,
        set=(f"{SEED}=choice({seeds})",),
        space="none",
    )


def _command(planned: Planned, suite: Suite, options: CompareOptions, out: Folder) -> TuneCommand:
    """The sweep that trains a contender, or goes on with it."""
    storage, member = out.join("runs"), planned.member
    sweep = SweepFolder(storage.join(member.folder))
    search = replace(_search(member, options), resume=sweep.folder.exists(SWEEP))
    if options.tune:
        spent = busy_seconds(sweep.read_trials()) if search.resume else 0.0
        search = replace(search, time_budget=f"{max(1, int(suite.search_seconds - spent))}s")
    job = JobOptions(
        storage=storage.uri,
        run_name=member.folder,
        cluster_may_grow_to=options.cluster_may_grow_to,
        storage_timeout=options.storage_timeout,
        verbose=options.verbose,
    )
    run = replace(planned.run, steps=planned.steps, epochs=0.0)
    return TuneCommand(run, job, search)


def _groups(planned: Planned, tuned: bool, out: Folder, problem: str) -> list[Group]:
    """The trainings of a contender that are compared.

    Args:
        tuned: whether its best setting and its defaults were trained with new seeds.
        problem: why trainings are missing; empty: they are not.
    """
    name = planned.member.name
    sweep = SweepFolder(out.join("runs", planned.member.folder))
    if not tuned:
        return [Group(name, _begun(sweep, range(planned.trainings)), problem)]
    listed = read_list(sweep.confirmation)
    numbers: dict[int, list[int]] = {0: []}
    for number, training in enumerate(listed):
        numbers.setdefault(training.trial, []).append(number)
    note = (
        "" if len(numbers) > 1 or problem else "its search found nothing better than the defaults"
    )
    return [
        Group(
            f"{name} ({'tuned' if trial else 'defaults'})",
            _begun(sweep.confirmation, own),
            problem,
            note,
        )
        for trial, own in numbers.items()
    ]


def busy_seconds(trials: Sequence[Trial]) -> float:
    """Time in which at least one of the trials was training, by their reports."""
    spans = []
    for trial in trials:
        before = 0.0
        for report in trial.reports:
            spans.append((report.at - (report.seconds - before), report.at))
            before = report.seconds
    total, end = 0.0, -math.inf
    for first, last in sorted(spans):
        total += max(0.0, last - max(first, end))
        end = max(end, last)
    return total


def _begun(sweep: SweepFolder, numbers: Iterable[int]) -> list[str]:
    """The folders of the trials with these numbers that have begun."""
    runs = [sweep.trial_run(number).folder for number in numbers]
    return [run.uri for run in runs if run.exists(CONFIG)]
