"""What raygen reads, file by file, and a process of its own in which damaged ones are read.

A damaged file may do to a process what no test could report: end it by a signal, take all memory,
or never return. So the process that reads is another one, with a bound on its memory.
"""

import contextlib
import hashlib
import io
import json
import math
import multiprocessing
import os
import resource
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from helpers import build_any, save_run, small_config, write_dataset
from PIL import Image

from raygen.cli import TrainCommand, TuneCommand, parse_options, parse_run
from raygen.cluster import lease
from raygen.comparison.index import read_index
from raygen.comparison.index_page import render_index
from raygen.comparison.suite import read_suite
from raygen.config import domains as search_space
from raygen.config.domains import random_trials, read_space
from raygen.config.fields import read_json_object, updated
from raygen.config.run import PRESETS
from raygen.core import marker
from raygen.core.errors import UserError
from raygen.core.history import Measurement, cut_history, last_values, read_history
from raygen.core.storage import Folder
from raygen.data.images import BadImage
from raygen.data.inspect import contact_sheet, table, verify
from raygen.data.options import FolderOptions
from raygen.data.prepare import prepare
from raygen.data.prepare.parts import Target
from raygen.data.shards.manifest import MANIFEST, Manifest, write_shard
from raygen.data.shards.reader import ShardReader
from raygen.data.sources.huggingface import huggingface
from raygen.data.splits import TRAIN
from raygen.evaluation import domain
from raygen.evaluation.grids import encode_png
from raygen.evaluation.objective import Objective
from raygen.evaluation.record import (
    EvaluatedCheckpoint,
    Evaluation,
    Measured,
    add_evaluation,
    read_evaluations,
)
from raygen.inference.model import load
from raygen.inference.options import SampleOptions
from raygen.jobs.suite import PLAN as SUITE_STATE
from raygen.jobs.suite import State, saved_state
from raygen.jobs.tune import resumed
from raygen.training import checkpoint
from raygen.training.run import RunFolder
from raygen.training.summary import Best, Summary, read_summary
from raygen.tuning.confirming import LIST, candidates, compare, read_list
from raygen.tuning.confirming import sentence as sentence_of_seeds
from raygen.tuning.findings import as_csv, over_seeds, sentence
from raygen.tuning.options import SweepOptions
from raygen.tuning.outcome import CONFIRMED, Outcome
from raygen.tuning.planning import Plan, continued, read_trials
from raygen.tuning.records import Report, SweepFolder, Trial, best_trial
from raygen.tuning.table import trial_rows

MEMORY = 2 * 2**30
"""Bytes that reading a file may take, besides what Python and the libraries take by themselves."""
HANGS = 180
"""Seconds after which a file is taken for one that is never read to its end."""
PRESET, WIDTH = "dcgan-celeba", 0.0625
SUITE_ASKED = {"suite": "own.json", "seeds": 2}
SPACE = {"lr_g": [1e-4, 1e-3], "beta1": "uniform(0,0.5)", "batch_size": "randint(8,32)"}
RUN = PRESETS[PRESET].updated({"width": WIDTH}, "test")
SAMPLES = "samples-000000024.png"
OTHER_CLAIM = f".lease-{'0' * 32}.json"


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        file: its place below the folder of all.
        read: reads it, and uses all of what it says; given the folder of all.
        others: files that change with it, as the checksums of others.
        sign: brings those up to date.
    """

    file: str
    read: Callable[[Path], object]
    others: tuple[str, ...] = ()
    sign: Callable[[Path], None] | None = None


def _extractor_of(place: Path) -> tuple[Folder, str]:
    return Folder.at(place / "faces"), "own.safetensors"


def make(place: Path) -> None:
    """Write a valid file of each kind."""
    save_run(place / "run", PRESET, schedule="1:1")
    state = json.loads((place / STEP / "state.json").read_text())
    state["about"] |= {"dataset": "ab", "run": "run"}
    _write(place / STEP / "state.json", state)
    write_dataset(place / "data", (5, 7), (4,))
    folder = Folder.at(place / "faces")
    pixels = np.arange(6 * 48, dtype=np.uint8).reshape(6, 48)
    values = np.array([[1, -1], [0, 1], [1, 1], [-1, -1], [0, 0], [1, 0]])
    shard = write_shard(folder, "train-00000.parquet", pixels, [f"ü{k}" for k in range(6)], values)
    rejected = ({"id": "9", "split": "train", "reason": "not an image"},)
    source = {"kind": "files", "images": "x", "count": 7, "seed": 3}
    manifest = Manifest(4, 4, ("Bald", "Hat"), {TRAIN: (shard,)}, source, 0, rejected, ("4x4",))
    folder.write_json(MANIFEST, manifest.to_json())
    network = domain.AttributeClassifier(2, 16).eval()
    domain.save(
        domain.Domain(domain._extractor(network), ("a", "b"), 1.0, 0.5), *_extractor_of(place)
    )
    figures = Measured(1.5, 1.0, math.nan, 0.5, 9.0, 100, "domain")
    evaluation = Evaluation("domain/fd", {"domain/fd": figures}, {"split": "test", "notes": ["a"]})
    _write(place / "run/evaluation.json", evaluation.to_json())
    for step in (1, 2, 3):
        add_evaluation(Folder.at(place / "run"), EvaluatedCheckpoint(8 * step, step, evaluation))
    rows = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Folder.at(place / "run").join("samples").write_bytes(SAMPLES, encode_png(rows))
    begun = Folder.at(place / "begun")
    marker.write(begun, "dataset")
    records = begun.join(".prepare")
    records.write_json(prepare.PLAN, {"source": source, "decoded_for": ["4x4"]})
    record = {"file": manifest.to_json()["splits"][TRAIN][0], "rejected": list(rejected)}
    records.write_json("train-00000.parquet.json", record)
    sweep = SweepFolder(Folder.at(place / "sweep"))
    space = {name: str(domain) for name, domain in _space().items()}
    options = {"trials": "4", "set": ["lr_g=uniform(0,1)"], "search": "random"}
    about: dict[str, Any] = {
        "run": RUN.to_json(),
        "sweep": options,
        "space": space,
        "dataset": "ab" * 32,
    }
    about |= {"metric": "quality/fd_domain", "quality_samples": 256}
    sweep.folder.write_json("sweep.json", about)
    sweep.confirmation.folder.write_json(LIST, {"trainings": [[0, 1], [1, 1], [0, 2]]})
    best: dict[str, Any] = {"trial": 1, "values": {"lr_g": 1e-3, "beta1": 0.5, "batch_size": 16}}
    confirmed = {"seeds": 3, "established": True, "found": "confirmed", "settings": [best]}
    sweep.folder.write_json(CONFIRMED, confirmed)
    sweep.folder.write_json("summary.json", {"found": "best FD 21", "trials": 2})
    reports = [Report(100 * k, 1.0 / k, 1.5 * k, 1e9, {"quality/swd": 1.0 / k}) for k in (1, 2)]
    trial_values: Any = {"lr_g": 1e-3, "beta1": 0.5, "batch_size": 16}
    for number in range(2):
        sweep.write_trial(Trial(number, trial_values, "finished", "", ["a"], ["b"], reports))
    lines = [Measurement(k, 8 * k, k / 2, {"a": 1.0 / k, "b": math.nan}) for k in (1, 2, 3)]
    (place / HISTORY).write_bytes(b"".join(line.to_line() for line in lines))
    score = Best(0.5, "quality/swd", 2)
    summary = Summary(
        "dcgan-celeba", 24, 3, 1.5, 9, 0.5, 0, 2, "cpu", {"a": math.nan}, "x", best=score
    )
    _write(place / "run/summary.json", summary.to_json())
    _write(place / "best.json", RUN.to_json())
    _write(
        place / "prepare.json",
        {"out": "x", "size": ["32", "64x32"], "validation_share": 0.1, "test_share": 0.2},
    )
    _write(place / "sample.json", {"count": 4, "reconstruct": ["a.png"], "strength": "-1:1:3"})
    _write(place / "tune.json", {"trials": "4", "max_kl": 3, "set": ["a=b"], "time_budget": "3m"})
    _write(place / "space.json", SPACE)
    member = {"name": "A", "preset": PRESET, "options": {"width": 0.5}, "set": ["lr_g=fixed"]}
    published = {"name": "P", "source": "S", "figures": {"swd/published": 1.5}}
    (place / "suite").mkdir()
    _write(place / "suite/own.json", {"contenders": [member], "published": [published]})
    State(SUITE_ASKED, 48, 2, [3.5], ["A"]).save(Folder.at(place / "suite"))
    with lease.only_owner(Folder.at(place / "owned"), "--out", lambda text: None):
        [name] = [n for n in os.listdir(place / "owned") if lease.CLAIM.fullmatch(n)]
        text = (place / "owned" / name).read_bytes()
    (place / "owned").mkdir(exist_ok=True)
    (place / "owned" / OTHER_CLAIM).write_bytes(text)
    (place / "hf/train").mkdir(parents=True)
    _write(place / "hf/dataset_dict.json", {"splits": ["train"]})
    _write(place / "hf/train/state.json", {"_data_files": [{"filename": "data.arrow"}]})
    (place / "hf/train/data.arrow").write_bytes(arrow_bytes())


def _write(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value))


def _space() -> search_space.Space:
    known = RUN.to_json()
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(SPACE, file)
        file.flush()
        return read_space({}, file.name, (), known)


DESCRIBED = {
    "info": {
        "features": {
            "image": {"_type": "Image"},
            "kind": {"_type": "ClassLabel", "names": ["cat", "dog"]},
        }
    }
}


def arrow_bytes(features: bytes | None = None) -> bytes:
    """A file of images as Hugging Face's `datasets` saves it. Args: features: what it says."""
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG")
    rows = [{"bytes": file.getvalue(), "path": f"{k}.png"} for k in range(6)]
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {
        "image": pa.array(rows, image),
        "kind": pa.array([0, 1, None, 1, 0, -1], pa.int64()),
        "smiling": pa.array([True, None, False, True, True, False]),
        "caption": pa.array(["a", "ü", None, "", "b", "c"]),
    }
    text = json.dumps(DESCRIBED).encode() if features is None else features
    return stream_bytes(pa.table(columns).replace_schema_metadata({"huggingface": text}))


def stream_bytes(content: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, content.schema) as stream:
        stream.write_table(content, 4)
    return sink.getvalue()


def _read_run(place: Path) -> None:
    load(str(place / "run"), "best").sample(1)
    config = small_config(PRESET, ema_images=1000, schedule="1:1")
    RunFolder(Folder.at(place / "run")).check(config, False)


def _read_checkpoint(place: Path) -> None:
    run = RunFolder(Folder.at(place / "run"))
    run.position()
    run.check_dataset("data", "ab")
    latest = run.latest_checkpoint()
    if latest:
        model = build_any(small_config(PRESET, ema_images=1000, schedule="1:1"))
        checkpoint.load(latest, model)
        for optimizer in model.optimizers.values():
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = parameter.detach().clone()
            optimizer.step()


def _read_either(place: Path) -> None:
    """What trains and what only draws. Raises: UserError, if one of them does."""
    problems: list[UserError] = []
    for read in (_read_checkpoint, _read_run):
        try:
            read(place)
        except UserError as error:
            problems.append(error)
    if problems:
        raise problems[0]


def _read_dataset(name: str) -> Callable[[Path], None]:
    def read(place: Path) -> None:
        folder = Folder.at(place / name)
        manifest = Manifest.load(folder)
        table(folder, manifest)
        problems = verify(folder, manifest)
        contact_sheet(folder, manifest, 4, 0)
        for split in manifest.splits:
            reader = ShardReader(folder, manifest, split)
            rows = np.arange(manifest.rows(split))
            reader.images(rows)
            reader.labels(rows)
            reader.ids()
            for attribute in manifest.attributes:
                reader.attribute(attribute)
        if problems:
            raise UserError(problems[0])

    return read


def _read_begun(place: Path) -> None:
    source = {"kind": "files", "images": "x", "count": 7, "seed": 3}
    target = Target(Folder.at(place / "begun"), PRESETS[PRESET].image)
    target = Target(target.folder, type(target.image)(4, 4))
    prepare._begin(target, {"source": source, "decoded_for": ["4x4"]})


def _read_sweep(place: Path) -> None:
    _list_sweep(place)
    argv = [PRESET, "--storage", str(place), "--run-name", "sweep", "--resume"]
    command = resumed(parse_run(TuneCommand, argv, "", "-sweep"), argv)
    sweep = SweepFolder(Folder.at(place / "sweep"))
    sweep.marker()
    space = _space()
    plan = Plan(command.run, Objective("quality/fd"), space, {}, 4, "random")
    plan = continued(plan, sweep.saved(), command.sweep)
    objective = Objective("quality/swd")
    trials = read_trials(sweep, plan)
    listed = read_list(sweep.confirmation)
    sentence_of_seeds(compare(candidates(trials, plan, 3), listed, trials, objective, [1, 2]))
    trial_rows(trials, objective, space, {})
    as_csv(trials, space, objective)
    sentence(trials, objective)
    over_seeds(trials, objective)
    best_trial(trials, objective)


def _list_sweep(place: Path) -> Outcome:
    index = read_index(str(place / "sweep"))
    render_index(index, "title", "command")
    return index.sweeps[0].outcome


def _read_outcome(place: Path) -> None:
    if problems := _list_sweep(place).problems:
        raise UserError(problems[0])


def _read_listed(place: Path) -> None:
    index = read_index(str(place / "run"))
    render_index(index, "title", "command")
    if index.runs[0].problem:
        raise UserError(index.runs[0].problem)


def _read_suite(place: Path) -> None:
    for member in read_suite(str(place / "suite/own.json")).members:
        PRESETS[member.preset].updated(member.options, "the suite")


def _read_suite_state(place: Path) -> None:
    saved_state(Folder.at(place / "suite"), SUITE_ASKED, 1)


def _read_space(place: Path) -> None:
    known = RUN.to_json()
    space = read_space({}, str(place / "space.json"), (), known)
    for name, range_ in space.items():
        for value in range_.extremes:
            RUN.updated({name: value}, f"--set {name}={range_}")
    defaults = {name: known[name] for name in space}
    for _, values in zip(range(3), random_trials(space, defaults, 0), strict=False):
        RUN.updated(values, "trial")


def _read_huggingface(place: Path) -> None:
    source = huggingface(str(place / "hf"))
    source.description()
    for position in range(len(source.ids)):
        # An image that cannot be read is left out when its dataset is prepared.
        with contextlib.suppress(BadImage):
            source.open(position, source.read(position))


def _options(kind: Any, name: str) -> Callable[[Path], None]:
    return lambda place: parse_options(kind, ["--config", str(place / name)], "") and None


def _read_sweep_options(place: Path) -> None:
    values = read_json_object("--config", str(place / "tune.json"))
    updated(SweepOptions(), values, "tune.json").budget_seconds()


def _read_claims(place: Path) -> None:
    for claim in lease.claims(Folder.at(place / "owned")):
        if claim.owner and claim.owner.is_here:
            assert claim.owner.is_running in (True, False)


def _read_history(place: Path) -> None:
    folder = Folder.at(place / "run")
    history = read_history(folder)
    last_values(history)
    cut_history(folder, 16)


def _sign_tensors(place: Path) -> None:
    saved = place / STEP
    state = json.loads((saved / "state.json").read_text())
    for name, about in state["files"].items():
        data = (saved / name).read_bytes()
        about |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    _write(saved / "state.json", state)


def _sign_shards(place: Path) -> None:
    manifest = json.loads((place / "faces" / MANIFEST).read_text())
    for files in manifest["splits"].values():
        for about in files:
            data = (place / "faces" / about["name"]).read_bytes()
            about |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    _write(place / "faces" / MANIFEST, manifest)


STEP = "run/checkpoints/step-00000002"
HISTORY = "run/metrics.jsonl"
_TENSORS = ((f"{STEP}/state.json",), _sign_tensors)
JSON = {
    "config": Kind("run/config.json", _read_run),
    "state": Kind(f"{STEP}/state.json", _read_either),
    "manifest": Kind(f"data/{MANIFEST}", _read_dataset("data")),
    "manifest with attributes": Kind(f"faces/{MANIFEST}", _read_dataset("faces")),
    "plan": Kind(f"begun/.prepare/{prepare.PLAN}", _read_begun),
    "record": Kind("begun/.prepare/train-00000.parquet.json", _read_begun),
    "sweep": Kind("sweep/sweep.json", _read_sweep),
    "trainings": Kind(f"sweep/confirmation/{LIST}", _read_sweep),
    "trial": Kind("sweep/trials/001/trial.json", _read_sweep),
    "confirmed": Kind(f"sweep/{CONFIRMED}", _read_outcome),
    "summary of a sweep": Kind("sweep/summary.json", _read_outcome),
    "summary": Kind("run/summary.json", lambda place: read_summary(Folder.at(place / "run"))),
    "best": Kind(
        "best.json",
        lambda place: parse_run(TrainCommand, ["--config", str(place / "best.json")], ""),
    ),
    "options of prepare": Kind("prepare.json", _options(FolderOptions, "prepare.json")),
    "options of sample": Kind("sample.json", _options(SampleOptions, "sample.json")),
    "options of sweeps": Kind("tune.json", _read_sweep_options),
    "space": Kind("space.json", _read_space),
    "suite": Kind("suite/own.json", _read_suite),
    "state of a suite": Kind(f"suite/{SUITE_STATE}", _read_suite_state),
    "dataset_dict": Kind("hf/dataset_dict.json", _read_huggingface),
    "state of a saved dataset": Kind("hf/train/state.json", _read_huggingface),
    "marker": Kind("begun/raygen.json", lambda place: marker.read(Folder.at(place / "begun"))),
    "claim": Kind(f"owned/{OTHER_CLAIM}", _read_claims),
    "evaluation": Kind("run/evaluation.json", _read_listed),
}
LINES = {
    "history": Kind(HISTORY, _read_history),
    "evaluations": Kind(
        "run/evaluations.jsonl", lambda place: read_evaluations(Folder.at(place / "run"))
    ),
}
"""Files of a line of JSON for each thing."""
BINARY = {
    "weights": Kind(f"{STEP}/generator_ema.safetensors", _read_either, *_TENSORS),
    "optimizers": Kind(f"{STEP}/optimizers.safetensors", _read_either, *_TENSORS),
    "shard": Kind(
        "faces/train-00000.parquet", _read_dataset("faces"), (f"faces/{MANIFEST}",), _sign_shards
    ),
    "picture": Kind(f"run/samples/{SAMPLES}", _read_listed),
    "arrow": Kind("hf/train/data.arrow", _read_huggingface),
    "extractor": Kind(
        "faces/extractors/own.safetensors", lambda place: domain.load(*_extractor_of(place))
    ),
}
KINDS = JSON | LINES | BINARY


def _serve(pipe: Connection) -> None:
    """Read damaged files until the pipe is closed; runs in the other process."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        make(place)
        whole = {
            file: (place / file).read_bytes()
            for kind in KINDS.values()
            for file in (kind.file, *kind.others)
        }
        for kind in KINDS.values():
            # All that is loaded on first use, loaded; and whether whole files are read at all.
            kind.read(place)
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        pipe.send(whole)
        while True:
            try:
                key, data, signed = pipe.recv()
            except EOFError:
                return
            kind = KINDS[key]
            (place / kind.file).write_bytes(data)
            if signed and kind.sign:
                kind.sign(place)
            try:
                kind.read(place)
                found = ("read", "")
            except UserError as error:
                found = ("refused", str(error))
            except BaseException as error:
                found = (type(error).__name__, repr(error)[:500])
            for file_name in (kind.file, *kind.others):
                (place / file_name).write_bytes(whole[file_name])
            pipe.send(found)


class Reader:
    """The other process, begun when it is first needed and again after it died.

    No dataclass, because Hypothesis prints all fields of those, and `whole` is long.

    Attributes: whole: the content of a valid file of each place.
    """

    def __init__(self) -> None:
        self.whole: dict[str, bytes] = {}
        self._process: Any = None
        self._pipe: Any = None

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self.whole = self._pipe.recv()

    def read(self, key: str, data: bytes, signed: bool = False) -> tuple[str, str]:
        """Read a file of a kind with this content.

        Args: signed: with the sizes and checksums that other files say of it.
        Returns: read, refused, or what else happened; and the error's text.
        """
        found = self._read(key, data, signed)
        if found[0] == "MemoryError":
            # Whether this file takes too much, or the ones before it left too little, shows in a
            # process that has read no others.
            self.stop()
            found = self._read(key, data, signed)
        return found

    def _read(self, key: str, data: bytes, signed: bool) -> tuple[str, str]:
        if self._process is None:
            self.start()
        self._pipe.send((key, data, signed))
        if not self._pipe.poll(HANGS):
            self.stop()
            return "hangs", ""
        try:
            found: tuple[str, str] = self._pipe.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            self.stop()
            return f"died with {code}", ""
        return found

    def stop(self) -> None:
        if self._process is not None:
            self._pipe.close()
            self._process.kill()
            self._process.join()
            self._process = None
