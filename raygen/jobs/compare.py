"""Compare trained models side by side: the work of `jobs/compare.py`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

from raygen.cli import command_line
from raygen.comparison import table
from raygen.comparison.contenders import (
    Contender,
    Entry,
    gather,
    open_runs,
    settings_of,
    summary_of,
    sweep_of,
)
from raygen.comparison.curves import Line
from raygen.comparison.options import CompareOptions
from raygen.comparison.page import Comparison, Published, as_csv, as_json, render
from raygen.comparison.pictures import Guess, Shown, draw, guesses, load_first
from raygen.comparison.runs import RunInfo
from raygen.config.fields import option
from raygen.config.run import DRAWN, ImageFormat, RunConfig
from raygen.core.errors import RunError, UserError, one_line
from raygen.core.progress import ProgressLine, Silence
from raygen.core.retry import OUTAGES
from raygen.core.storage import Folder, opened_patiently
from raygen.data.originals import holds_originals
from raygen.data.shards.manifest import MANIFEST, Manifest
from raygen.evaluation.pretrained import load_weights
from raygen.evaluation.record import Evaluation
from raygen.inference.dataset import dataset_of
from raygen.inference.model import best_or_last, open_run
from raygen.inference.options import EvaluateOptions
from raygen.jobs.evaluate import measure, open_data
from raygen.measuring.common_size import reduction
from raygen.measuring.subjects import RealImages, Subject
from raygen.measuring.tasks import Extractors
from raygen.models.flops import on_meta
from raygen.tuning.expected_best import expected_best, searched_values
from raygen.tuning.outcome import read_outcome
from raygen.tuning.records import SEED, SweepFolder


class _ProgressAlone(ProgressLine):
    """Shows how far a job is, but not what it found, which is on the page."""

    def tell(self, text: str) -> None:
        pass


PAGE, FIGURES, SCORES = "index.html", "comparison.json", "comparison.csv"


@dataclass(frozen=True)
class Group:
    """A contender's trainings.

    Attributes:
        runs: their folders.
        problem: why there are none, or fewer than planned.
        note: what the reader should know of them.
    """

    name: str
    runs: Sequence[str]
    problem: str = ""
    note: str = ""


def compare(options: CompareOptions, line: ProgressLine | None = None) -> Comparison:
    """Measure runs that have not been measured yet, and make a page of all.

    Returns: what the page shows.
    Raises: UserError, RunError.
    """
    if len(options.runs) < 2:
        raise UserError("RUN: name two runs at least, such as runs/dcgan-celeba runs/vae-celeba")
    gathered = gather(open_runs(options.runs))
    groups = [Group(name, [run.uri for run in runs]) for name, _, runs in gathered]
    return compare_groups(options, groups, line or ProgressLine())


def compare_groups(
    options: CompareOptions,
    groups: Sequence[Group],
    line: ProgressLine,
    published: Sequence[Published] = (),
    command: str = "",
    to_the_end: bool = False,
) -> Comparison:
    """The same for runs that are gathered already.

    Args:
        to_the_end: leave out the runs that were not trained to their end.
        published: figures of others to show beside theirs.
        command: makes the page again; empty: names the runs.
    Raises: UserError, RunError.
    """
    out = Folder.at(options.folder)
    runs = {run.uri: run for run in open_runs([uri for group in groups for uri in group.runs])}
    if not runs:
        raise RunError(f"no contender was trained: {groups[0].problem}")
    extractors = {e.name: e for e in (load_weights(path) for path in options.weights)}
    ready = _prepared(list(runs.values()), options, to_the_end)
    if not ready.subjects:
        problem = next(iter(ready.problems.values()))
        raise UserError(f"RUN: none of the runs can be measured: {problem}")
    out.check_writable()
    # What was there until now is waited for.
    out, ready = out.patient(options.patience), ready.patient(options.patience)
    with opened_patiently(options.patience), OUTAGES.told_to(line.warn):
        problems = dict(ready.problems)
        evaluations = _measured(list(ready.subjects.values()), options, extractors, line, problems)
        if not evaluations:
            raise RunError(f"none of the runs could be measured: {next(iter(problems.values()))}")
        entries = {
            uri: Entry(run, summary_of(run), evaluations.get(uri), problems.get(uri, ""))
            for uri, run in runs.items()
        }
        contenders = []
        for group in groups:
            own = [runs[Folder.at(uri).uri] for uri in group.runs]
            settings = settings_of(own[0]) if own else {}
            contenders.append(Contender(group.name, settings, [entries[run.uri] for run in own]))
        failed = [f"{group.name}: {group.problem}" for group in groups if group.problem]
        comparison = _comparison(contenders, options, ready, failed, line)
        command = command or again(options)
        own_notes = [f"{group.name}: {group.note}" for group in groups if group.note]
        notes = [*own_notes, *_unfinished(contenders), *comparison.notes]
        comparison = replace(comparison, published=published, command=command, notes=notes)
        out.write_bytes(PAGE, render(comparison).encode())
        out.write_json(FIGURES, as_json(comparison))
        out.write_bytes(SCORES, as_csv(comparison).encode(errors="backslashreplace"))
        line.close()
        for answer in comparison.answers:
            line.tell(answer)
        line.tell(f"the page: {out.join(PAGE).uri}")
    return comparison


def _unfinished(contenders: Sequence[Contender]) -> list[str]:
    """Which contenders' figures rest on runs that were not trained to their end."""
    notes = []
    for contender in contenders:
        count = sum(entry.run.status != "finished" for entry in contender.measured)
        if count:
            notes.append(
                f"{contender.name}: {count} of {len(contender.measured)} trainings that are "
                "measured did not come to their end, or have not yet."
            )
    return notes


def dataset_for(places: Sequence[str], size: str) -> str:
    """The dataset of images of a size, among those that a user named.

    Args: places: datasets, or folders that hold one of each size, as jobs/prepare.py makes them;
        `drawn` counts as one of any size.
    Returns: its place; empty if none was named.
    Raises: UserError if none of them has this size.
    """
    for place in places:
        if place == DRAWN:
            return place
        folder = Folder.at(place)
        if holds_originals(folder):
            raise UserError(
                f"--data {place}: holds images that are not prepared, which models cannot be "
                "compared on; prepare them with jobs/prepare.py"
            )
        if folder.exists(MANIFEST):
            if Manifest.load(folder).size == size:
                return place
        elif folder.join(size).exists(MANIFEST):
            return folder.join(size).uri
    if places:
        raise UserError(
            f"--data {' '.join(places)}: holds no images of {size}; prepare them with --size {size}"
        )
    return ""


@dataclass(frozen=True)
class _Ready:
    """What there is to measure, by run.

    Attributes:
        common: the real images that all are compared with; own: those of each run's own size.
        problems: why other runs cannot be measured.
    """

    common: RealImages
    subjects: Mapping[str, Subject]
    own: Mapping[str, RealImages]
    problems: Mapping[str, str]

    def patient(self, seconds: float) -> "_Ready":
        """The same, retrying for so many seconds during outages of its storages."""
        return replace(
            self,
            common=self.common.patient(seconds),
            subjects={run: subject.patient(seconds) for run, subject in self.subjects.items()},
            own={run: images.patient(seconds) for run, images in self.own.items()},
        )


def common_images(datasets: Mapping[str, RealImages]) -> tuple[RealImages, dict[str, ImageFormat]]:
    """The real images that models are compared with: those of the smallest size.

    Args: datasets: what each was trained on, by its name.
    Returns: them, and how images of each model that has another size become like them.
    Raises: UserError if datasets are not the same images.
    """
    smallest = min(datasets, key=lambda name: datasets[name].manifest.image_bytes)
    common = datasets[smallest]
    becomes: dict[str, ImageFormat] = {}
    for name, own in datasets.items():
        if own.manifest.fingerprint == common.manifest.fingerprint:
            continue
        try:
            becomes[name] = reduction(own.manifest, common.manifest)
        except ValueError as error:
            raise UserError(
                f"{name}: was trained on {own.folder.uri}, but {smallest} on {common.folder.uri}, "
                f"which cannot be compared, because {error}"
            ) from error
    return common, becomes


def _prepared(runs: Sequence[RunInfo], options: CompareOptions, to_the_end: bool) -> _Ready:
    """Find what is to be measured, on one set of real images for all.

    Failed runs are not measured: what they learnt until then is not what their setting makes.

    Args: to_the_end: nor are those that were not trained to their end.
    Raises: UserError if runs were trained on other images, so that they cannot be compared.
    """
    datasets = {run.uri: _dataset_of(run, runs, options) for run in runs}
    common, becomes = common_images(datasets)
    subjects: dict[str, Subject] = {}
    problems: dict[str, str] = {}
    for run in runs:
        if run.status == "failed" or (to_the_end and run.status != "finished"):
            problems[run.uri] = run.problem or f"its training is not finished: {run.status}"
            continue
        try:
            folder, config = open_run(run.uri)
            step = best_or_last(folder)
        except (UserError, RunError) as error:
            problems[run.uri] = run.problem or one_line(error)
            continue
        subjects[run.uri] = Subject(
            run.uri,
            common,
            folder.folder,
            config,
            step,
            trained_on=folder.dataset(),
            becomes=becomes.get(run.uri),
        )
    return _Ready(common, subjects, datasets, problems)


def _dataset_of(run: RunInfo, runs: Sequence[RunInfo], options: CompareOptions) -> RealImages:
    """The images that a run was trained on. Raises: UserError."""
    config = RunConfig.from_json(run.config, run.uri)
    named = dataset_for(options.data, config.size)
    command = command_line("jobs/compare.py", *(r.uri for r in runs), "--data", config.data)
    folder = Folder.at(run.uri)
    return open_data(dataset_of(folder, config, "" if named == DRAWN else named, run.uri, command))


def _measured(
    subjects: Sequence[Subject],
    options: CompareOptions,
    extractors: Extractors,
    line: ProgressLine,
    problems: dict[str, str],
) -> dict[str, Evaluation]:
    """The runs' evaluations; those that are missing or rest on something else are made.

    Args: problems: where to note why a run cannot be measured.
    """
    wanted = EvaluateOptions(
        samples=options.samples,
        weights=options.weights,
        seed=options.seed,
        storage_timeout=options.storage_timeout,
        verbose=options.verbose,
    )
    found = {subject.name: _evaluation(subject) for subject in subjects}
    missing = [s for s in subjects if not _rests_on(found[s.name], s, options, extractors)]
    if missing:
        line.tell(f"measuring {len(missing)} of {len(subjects)} runs")
        quiet = line if isinstance(line, Silence) else _ProgressAlone()
        measure(missing, wanted, extractors, quiet, problems)
        found |= {subject.name: _evaluation(subject) for subject in missing}
    return {
        name: evaluation
        for name, evaluation in found.items()
        if evaluation and name not in problems
    }


def _rests_on(
    known: Evaluation | None, subject: Subject, options: CompareOptions, extractors: Extractors
) -> bool:
    """Whether an evaluation is the one that is wanted of a subject."""
    real = subject.real
    if known is None:
        return False
    wanted = {
        "step": subject.step,
        "samples": min(options.samples, real.manifest.rows(real.split)),
        "seed": options.seed,
        "split": real.split,
        "dataset": real.manifest.fingerprint,
    }
    same = all(known.about.get(name) == value for name, value in wanted.items())
    return same and all(f"{name}/fd" in known.metrics for name in extractors)


def _evaluation(subject: Subject) -> Evaluation | None:
    assert subject.run
    try:
        return Evaluation.read(subject.run, f"{subject.evaluation_name}.json")
    except (FileNotFoundError, UserError):
        return None


def _comparison(
    contenders: Sequence[Contender],
    options: CompareOptions,
    ready: _Ready,
    failed: Sequence[str],
    line: ProgressLine,
) -> Comparison:
    rows = table.compare(contenders)
    extractor = table.extractor_for_all(contenders)
    pictures: list[Shown] = []
    guessed: dict[str, Sequence[Guess]] = {}
    entries = [entry for contender in contenders for entry in contender.entries]
    problems = [*failed, *(f"{e.run.uri}: {e.problem}" for e in entries if e.problem)]
    for contender in contenders:
        line.show(f"drawing {contender.name}")
        if not contender.measured:
            continue
        run = contender.measured[0].run.uri
        try:
            trained = load_first(contender)
            pictures += draw(
                contender, trained, ready.own[run], ready.subjects[run].pictures, options.seed
            )
            guessed[contender.name] = guesses(trained, ready.own[run], options.seed)
        except (UserError, RunError) as error:
            problems.append(f"{contender.name}: {one_line(error)}")
    titles = list(dict.fromkeys(picture.title for picture in pictures))
    pictures.sort(key=lambda picture: titles.index(picture.title))
    return Comparison(
        title=options.title,
        contenders=contenders,
        rows=rows,
        answers=table.answers(rows, contenders, extractor),
        extractor=extractor,
        parameters=[_parameters(contender) for contender in contenders],
        pictures=pictures,
        problems=problems,
        guesses=guessed,
        tuning=_tuning(contenders),
        notes=[
            *table.warnings(rows, contenders, extractor),
            *_sizes(contenders, ready),
            *_notes(contenders),
        ],
        protocol=_protocol(contenders, options, ready.common),
        price=options.price,
    )


def _sizes(contenders: Sequence[Contender], ready: _Ready) -> list[str]:
    """Which contenders' images were reduced, and how."""
    notes = []
    for contender in contenders:
        for entry in contender.measured[:1]:
            becomes = ready.subjects[entry.run.uri].becomes
            if becomes:
                cut = (
                    f"a square of {becomes.crop} pixels is cut out of them and"
                    if becomes.crop
                    else "they are"
                )
                notes.append(
                    f"The images of {contender.name} have {ready.own[entry.run.uri].manifest.size} "
                    f"pixels; before they are compared, {cut} reduced to {becomes.size}, as the "
                    "real images were. What needs images of a model's own size is not compared."
                )
    return notes


def _tuning(contenders: Sequence[Contender]) -> dict[str, list[Line]]:
    """Expected best of each sweep that contenders' trainings belong to, by the metric's name."""
    # Of the contenders of a sweep, the tuned one comes last.
    sweeps = {
        uri: number
        for number, contender in enumerate(contenders)
        for entry in contender.entries[:1]
        if (uri := sweep_of(entry.run.uri))
    }
    found: dict[str, list[Line]] = {}
    for uri, number in sweeps.items():
        folder = Folder.at(uri)
        outcome = read_outcome(SweepFolder(folder))
        objective = outcome.objective
        # Trials that differ in their seeds alone are no search.
        if not objective or not outcome.saved or not outcome.saved.space.keys() - {SEED}:
            continue
        if values := searched_values(outcome.trials, objective):
            best = expected_best(values, objective.sign)
            points = list(zip(best.trials.tolist(), best.mean.tolist(), strict=True))
            line = Line(f"search of {folder.name}", number, points)
            found.setdefault(objective.name, []).append(line)
    return found


def _parameters(contender: Contender) -> int:
    if not contender.entries:
        return 0
    config = RunConfig.from_json(contender.entries[0].run.config, contender.name)
    networks = on_meta(config).networks
    return sum(p.numel() for network in networks.values() for p in network.parameters())


def _notes(contenders: Sequence[Contender]) -> list[str]:
    """What the evaluations had to say, each once."""
    notes = [
        str(note)
        for c in contenders
        for e in c.measured
        if e.evaluation
        for note in e.evaluation.about.get("notes", ())
    ]
    return list(dict.fromkeys(note for note in notes if "--weights" not in note))


def _protocol(
    contenders: Sequence[Contender], options: CompareOptions, real: RealImages
) -> dict[str, str]:
    [about, *_] = [e.evaluation.about for c in contenders for e in c.measured if e.evaluation]
    extractors = "; ".join(
        f"{name} ({values['dimensions']} features, SHA-256 {values['sha256'][:12]}, "
        f"{values['resizer']})"
        for name, values in about.get("extractors", {}).items()
    )
    manifest, split = real.manifest, real.split
    splits = ", ".join(f"{manifest.rows(name):,} {name}" for name in manifest.splits)
    return {
        "images": f"{real.folder.uri}: {splits}; {manifest.size}, {manifest.fingerprint[:12]}",
        "measured on": f"{about['samples']:,} samples of each training and as many {split} images",
        "checkpoints": "the best by validation images, or the last where none was measured",
        "extractors": extractors,
        "seeds": "; ".join(
            f"{c.name}: {', '.join(str(e.seed) for e in c.entries)}" for c in contenders
        ),
        "intervals": "95 %, Student's t with the spread of seeds pooled over contenders; "
        "differences by Tukey and Kramer, which hold for all pairs at once",
        "machine of the measurement": str(about.get("machine", "")),
        "versions": f"raygen {about.get('raygen', '')}, torch {about.get('torch', '')}",
        "seed of samples": str(options.seed),
    }


def again(options: CompareOptions, words: Sequence[str] = ()) -> str:
    """The command that makes the page again, or goes on with a suite.

    Args: words: options of a suite's trainings.
    """
    default = CompareOptions()
    named = list(options.runs)
    for each in fields(options):
        value, name = getattr(options, each.name), option(each.name)
        if value == getattr(default, each.name) or each.name in ("runs", "config", "verbose"):
            continue
        if isinstance(value, tuple):
            repeated = each.name == "data"
            named += [w for v in value for w in (name, v)] if repeated else [name, *value]
        else:
            named += [name] if value is True else [name, str(value)]
    return command_line("jobs/compare.py", *named, *words)
