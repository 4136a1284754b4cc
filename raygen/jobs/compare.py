"""Compare trained models side by side: the work of `jobs/compare.py`."""

from collections.abc import Sequence

from raygen.cli import command_line
from raygen.comparison import table
from raygen.comparison.contenders import Contender, Entry, gather, open_runs, summary_of
from raygen.comparison.options import CompareOptions
from raygen.comparison.page import Comparison, as_csv, as_json, render
from raygen.comparison.pictures import Guess, Shown, draw, guesses, load_first
from raygen.comparison.runs import RunInfo
from raygen.config.run import RunConfig
from raygen.core.errors import RunError, UserError, one_line
from raygen.core.progress import ProgressLine, Silence
from raygen.core.storage import Folder
from raygen.data.shards.manifest import Manifest
from raygen.data.splits import TEST, VALIDATION
from raygen.evaluation.pretrained import load_weights
from raygen.evaluation.record import Evaluation
from raygen.inference.dataset import dataset_of
from raygen.inference.model import best_or_last, open_run
from raygen.inference.options import EvaluateOptions
from raygen.jobs.evaluate import evaluate
from raygen.models.flops import on_meta


class _ProgressAlone(ProgressLine):
    """Shows how far a job is, but not what it found, which is on the page."""

    def tell(self, text: str) -> None:
        pass


PAGE, FIGURES, SCORES = "index.html", "comparison.json", "comparison.csv"


def compare(options: CompareOptions, line: ProgressLine | None = None) -> Comparison:
    """Measure runs that have not been measured yet, and make a page of all.

    Returns: what the page shows.
    Raises: UserError, RunError.
    """
    if len(options.runs) < 2:
        raise UserError("RUN: name two runs at least, such as runs/dcgan-celeba runs/vae-celeba")
    line = line or ProgressLine()
    out = Folder.at(options.out)
    runs = open_runs(options.runs)
    data, manifest = _one_dataset(runs)
    out.check_writable()
    problems = {run.uri: _problem(run) for run in runs}
    wanted = [run for run in runs if not problems[run.uri]]
    if not wanted:
        raise UserError(f"RUN: none of the runs can be measured: {problems[runs[0].uri]}")
    _measure(wanted, options, manifest, line)
    contenders = [
        Contender(name, settings, [_entry(run, problems[run.uri]) for run in group])
        for name, settings, group in gather(runs)
    ]
    comparison = _comparison(contenders, options, data, manifest, line)
    out.write_bytes(PAGE, render(comparison).encode())
    out.write_json(FIGURES, as_json(comparison))
    out.write_bytes(SCORES, as_csv(comparison).encode())
    line.close()
    for answer in comparison.answers:
        line.tell(answer)
    line.tell(f"the page: {out.join(PAGE).uri}")
    return comparison


def _one_dataset(runs: Sequence[RunInfo]) -> tuple[Folder, Manifest]:
    """The dataset that all runs were trained on. Raises: UserError if there are several."""
    found: tuple[Folder, Manifest] | None = None
    for run in runs:
        config = RunConfig.from_json(run.config, run.uri)
        again = command_line("jobs/compare.py", *(r.uri for r in runs))
        data = dataset_of(Folder.at(run.uri), config, "", run.uri, again)
        manifest = Manifest.load(data)
        if found and manifest.fingerprint != found[1].fingerprint:
            raise UserError(
                f"{run.uri}: was trained on {data.uri}, but {runs[0].uri} on {found[0].uri}; "
                "figures of different images cannot be compared"
            )
        found = found or (data, manifest)
    assert found
    return found


def _problem(run: RunInfo) -> str:
    """Why a run cannot be measured, in one line; empty if it can."""
    try:
        _step_of(run)
    except (UserError, RunError) as error:
        return run.problem or one_line(error)
    return ""


def _step_of(run: RunInfo) -> int:
    """The step of the checkpoint that is measured. Raises: UserError."""
    return best_or_last(open_run(run.uri)[0])


def _measure(
    runs: Sequence[RunInfo], options: CompareOptions, manifest: Manifest, line: ProgressLine
) -> None:
    """Evaluate the runs whose figures are missing or rest on something else."""
    extractors = [load_weights(path).name for path in options.weights]
    split = TEST if manifest.rows(TEST) else VALIDATION
    count = min(options.samples, manifest.rows(split))
    missing = []
    for run in runs:
        known = _evaluation(run)
        wanted = {"step": _step_of(run), "samples": count, "seed": options.seed, "split": split}
        wanted["dataset"] = manifest.fingerprint
        has = known is not None and all(known.about.get(n) == v for n, v in wanted.items())
        if not has or not all(f"{name}/fd" in known.metrics for name in extractors if known):
            missing.append(run.uri)
    if missing:
        line.tell(f"measuring {len(missing)} of {len(runs)} runs")
        evaluate(
            EvaluateOptions(
                runs=tuple(missing),
                samples=options.samples,
                weights=options.weights,
                seed=options.seed,
                verbose=options.verbose,
            ),
            line if isinstance(line, Silence) else _ProgressAlone(),
        )


def _evaluation(run: RunInfo) -> Evaluation | None:
    try:
        return Evaluation.read(Folder.at(run.uri))
    except (FileNotFoundError, UserError):
        return None


def _entry(run: RunInfo, problem: str) -> Entry:
    return Entry(run, summary_of(run), None if problem else _evaluation(run), problem)


def _comparison(
    contenders: Sequence[Contender],
    options: CompareOptions,
    data: Folder,
    manifest: Manifest,
    line: ProgressLine,
) -> Comparison:
    rows = table.compare(contenders)
    extractor = table.extractor_for_all(contenders)
    split = TEST if manifest.rows(TEST) else VALIDATION
    pictures: list[Shown] = []
    guessed: dict[str, Sequence[Guess]] = {}
    entries = [entry for contender in contenders for entry in contender.entries]
    problems = [f"{entry.run.uri}: {entry.problem}" for entry in entries if entry.problem]
    for contender in contenders:
        line.show(f"drawing {contender.name}")
        if not contender.measured:
            continue
        try:
            trained = load_first(contender)
            pictures += draw(contender, trained, data, manifest, split, options.seed)
            guessed[contender.name] = guesses(trained, data, manifest, split, options.seed)
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
        notes=_notes(contenders),
        protocol=_protocol(contenders, options, data, manifest, split),
        command=command_line("jobs/compare.py", *_arguments(options)),
        price=options.price,
    )


def _parameters(contender: Contender) -> int:
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
    contenders: Sequence[Contender],
    options: CompareOptions,
    data: Folder,
    manifest: Manifest,
    split: str,
) -> dict[str, str]:
    [about, *_] = [e.evaluation.about for c in contenders for e in c.measured if e.evaluation]
    extractors = "; ".join(
        f"{name} ({values['dimensions']} features, SHA-256 {values['sha256'][:12]}, "
        f"{values['resizer']})"
        for name, values in about.get("extractors", {}).items()
    )
    splits = ", ".join(f"{manifest.rows(name):,} {name}" for name in manifest.splits)
    return {
        "images": f"{data.uri}: {splits}; {manifest.size}, {manifest.fingerprint[:12]}",
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


def _arguments(options: CompareOptions) -> list[str]:
    default = CompareOptions()
    words = list(options.runs)
    for name in ("out", "title", "samples", "price", "seed"):
        value = getattr(options, name)
        if value != getattr(default, name):
            words += [f"--{name}", str(value)]
    return words + (["--weights", *options.weights] if options.weights else [])
