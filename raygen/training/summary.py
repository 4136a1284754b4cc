"""`summary.json`: the options, progress and outcome of a training or a trial."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, cast, get_args

from raygen.core.checked import Checked, finite_or_none
from raygen.core.retry import Retries
from raygen.core.storage import Folder
from raygen.training.run import SUMMARY
from raygen.training.usage import Usage

RunKind = Literal["training", "trial"]
RunStatus = Literal["running", "finished", "interrupted", "stopped", "failed"]
ADVICE = "restore the file, or delete it; the run's own files do not depend on it"


@dataclass(frozen=True)
class Best:
    """The best checkpoint of a run.

    Attributes:
        score: lower is better; negative for a metric of which high values are good.
        metric: the metric's name.
        step: the checkpoint's step.
    """

    score: float
    metric: str
    step: int


@dataclass(frozen=True)
class Summary:
    """The content of `summary.json`. Entries with defaults are missing in older files.

    Attributes:
        images_seen, global_step: progress over all sessions of the run.
        seconds: duration of the last session, including its start.
        images_per_second: throughput of all workers after the first step.
        seconds_to_first_step: duration of the last session's start; None if it took no step.
        data_wait_fraction: share of the time after the first step spent waiting for data.
        device: cpu or cuda.
        metrics: the last value of each metric; NaN, written as null, where one was not finite.
        data: folder or URI of the dataset.
        kind: whether the run is a training or a sweep's trial.
        run_name: name of the run's folder.
        status: stays `running` if the job was killed and could not record its end.
        best: None if the run has not been measured on validation images.
        dataset: the dataset's fingerprint.
        began_at, ended_at: times of the last session in Unix seconds; None if unknown.
        raygen_version, torch_version: the versions that the run used.
        total_steps: length of the run in steps; 0 if unknown.
        updates: optimizer steps that each network has taken, by name.
        usage: what the run has taken, over all its sessions.
        retries: the storage's requests that the last session repeated; left out if there are none.
    """

    preset: str
    images_seen: int
    global_step: int
    seconds: float
    images_per_second: float
    seconds_to_first_step: float | None
    data_wait_fraction: float
    num_workers: int
    device: str
    metrics: dict[str, float]
    data: str
    kind: RunKind = "training"
    run_name: str = ""
    status: RunStatus = "finished"
    best: Best | None = None
    dataset: str = ""
    began_at: float | None = None
    ended_at: float | None = None
    raygen_version: str = ""
    torch_version: str = ""
    total_steps: int = 0
    updates: dict[str, int] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)
    retries: Retries = field(default_factory=Retries)

    @property
    def is_final(self) -> bool:
        """Whether the run has ended. Earlier versions kept an old summary when a run went on."""
        return self.status != "running" and bool(self.raygen_version)

    def to_json(self) -> dict[str, Any]:
        best = self.best and {f.name: getattr(self.best, f.name) for f in fields(self.best)}
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values |= {"metrics": finite_or_none(self.metrics), "best": best}
        values["usage"] = asdict(self.usage)
        retries = values.pop("retries")
        return values | ({"retries": asdict(retries)} if retries.requests else {})

    @staticmethod
    def from_json(values: Checked) -> "Summary":
        """Read what `to_json` of this or an earlier version wrote. Unknown entries, as of later
        versions, are ignored.

        Raises: UserError.
        """
        found = values.entries()

        def seconds(name: str) -> float | None:
            known = found.get(name)
            return None if known is None or known.value is None else known.number(at_least=0)

        def text(name: str) -> str:
            return found[name].text() if name in found else ""

        kind, status, best = found.get("kind"), found.get("status"), found.get("best")
        metrics = values.entry("metrics").entries()
        updates = found["updates"].entries() if "updates" in found else {}
        return Summary(
            preset=values.entry("preset").text(),
            images_seen=values.entry("images_seen").integer(),
            global_step=values.entry("global_step").integer(),
            seconds=values.entry("seconds").number(at_least=0),
            images_per_second=values.entry("images_per_second").number(at_least=0),
            seconds_to_first_step=seconds("seconds_to_first_step"),
            data_wait_fraction=values.entry("data_wait_fraction").number(at_least=0),
            num_workers=values.entry("num_workers").integer(),
            device=values.entry("device").text(),
            # Earlier versions wrote NaN, which is not JSON.
            metrics={n: m.number_or_nan(finite=False) for n, m in metrics.items()},
            data=values.entry("data").text(),
            kind=cast(RunKind, kind.choice(get_args(RunKind))) if kind else "training",
            run_name=text("run_name"),
            # Earlier versions wrote the file only when a run had finished.
            status=cast(RunStatus, status.choice(get_args(RunStatus))) if status else "finished",
            best=None if best is None or best.value is None else _best(best),
            dataset=text("dataset"),
            began_at=seconds("began_at"),
            ended_at=seconds("ended_at"),
            raygen_version=text("raygen_version"),
            torch_version=text("torch_version"),
            total_steps=found["total_steps"].integer() if "total_steps" in found else 0,
            updates={name: count.integer() for name, count in updates.items()},
            usage=_usage(found["usage"]) if "usage" in found else Usage(),
            retries=_retries(found["retries"]) if "retries" in found else Retries(),
        )


def _usage(values: Checked) -> Usage:
    nodes = values.entry("node_seconds").entries()
    return Usage(
        worker_seconds=values.entry("worker_seconds").number(at_least=0),
        node_seconds={kind: seconds.number(at_least=0) for kind, seconds in nodes.items()},
        restarts=values.entry("restarts").integer(),
        images_lost=values.entry("images_lost").integer(),
    )


def _best(values: Checked) -> Best:
    return Best(
        score=values.entry("score").number(),
        metric=values.entry("metric").text(),
        step=values.entry("step").integer(),
    )


def _retries(values: Checked) -> Retries:
    return Retries(
        requests=values.entry("requests").integer(),
        seconds=values.entry("seconds").number(at_least=0),
    )


def read_summary(folder: Folder) -> Summary:
    """Read a run's summary. Args: folder: the run's. Raises: FileNotFoundError; UserError."""
    return Summary.from_json(folder.read_checked(SUMMARY, advice=ADVICE))
