"""`summary.json`: what a training or a trial was, how far it came and how it ended."""

from dataclasses import dataclass, fields
from typing import Any, Literal, cast, get_args

from raygen.core.checked import Checked, finite_or_none
from raygen.core.storage import Folder
from raygen.training.run import SUMMARY

Kind = Literal["training", "trial"]
Status = Literal["running", "finished", "interrupted", "stopped", "failed"]
ADVICE = "restore the file, or delete it; the run's own files do not depend on it"


@dataclass(frozen=True)
class Best:
    """The best checkpoint of a run.

    Attributes:
        score: lower is better; negative for a metric of which high values are good.
        metric: its name.
        step: the checkpoint's.
    """

    score: float
    metric: str
    step: int


@dataclass(frozen=True)
class Summary:
    """What `summary.json` says. The entries that have defaults are missing in older files.

    Attributes:
        images_seen, global_step: over all sessions of the run.
        seconds: that its last session took, the start included.
        images_per_second: of all workers, after the first step.
        seconds_to_first_step: of the last session; None if it made none.
        data_wait_fraction: of the time after the first step, spent waiting for data.
        device: cpu or cuda.
        metrics: the last value of each; NaN, which stands as null, where one was not finite.
        data: folder or URI of the dataset.
        kind: whether it is a sweep's trial.
        run_name: the name of its folder.
        status: `running` also after its job was killed, which could not say so any more.
        best: None if it has not been measured on validation images.
        dataset: the dataset's fingerprint.
        began_at, ended_at: of the last session, in Unix seconds; None where it is not known.
        raygen_version, torch_version: that it ran with.
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
    kind: Kind = "training"
    run_name: str = ""
    status: Status = "finished"
    best: Best | None = None
    dataset: str = ""
    began_at: float | None = None
    ended_at: float | None = None
    raygen_version: str = ""
    torch_version: str = ""

    @property
    def is_final(self) -> bool:
        """Whether the run has not gone on since. Earlier versions let the file stand then."""
        return self.status != "running" and bool(self.raygen_version)

    def to_json(self) -> dict[str, Any]:
        best = self.best and {f.name: getattr(self.best, f.name) for f in fields(self.best)}
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return values | {"metrics": finite_or_none(self.metrics), "best": best}

    @staticmethod
    def from_json(values: Checked) -> "Summary":
        """What `to_json` made, also that of earlier versions. Entries that it does not know, as of
        later ones, are left out.

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
            # Earlier versions wrote NaN, which is no JSON.
            metrics={n: m.number_or_nan(finite=False) for n, m in metrics.items()},
            data=values.entry("data").text(),
            kind=cast(Kind, kind.choice(get_args(Kind))) if kind else "training",
            run_name=text("run_name"),
            # Earlier versions wrote the file when a run had come to its end.
            status=cast(Status, status.choice(get_args(Status))) if status else "finished",
            best=None if best is None or best.value is None else _best(best),
            dataset=text("dataset"),
            began_at=seconds("began_at"),
            ended_at=seconds("ended_at"),
            raygen_version=text("raygen_version"),
            torch_version=text("torch_version"),
        )


def _best(values: Checked) -> Best:
    return Best(
        score=values.entry("score").number(),
        metric=values.entry("metric").text(),
        step=values.entry("step").integer(),
    )


def read_summary(folder: Folder) -> Summary:
    """The summary of a run. Args: folder: the run's. Raises: FileNotFoundError; UserError."""
    return Summary.from_json(folder.read_checked(SUMMARY, advice=ADVICE))
