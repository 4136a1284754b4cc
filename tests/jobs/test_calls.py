"""The Python API: from images to samples without a command line."""

from pathlib import Path
from typing import Any

import pytest
from helpers import write_dataset

import raygen
from raygen.core.errors import UserError
from raygen.core.status import Callbacks, Progress
from raygen.core.storage import Folder
from raygen.evaluation.record import Evaluation

SMALL: dict[str, Any] = {"width": 0.05, "batch_size": 8, "latent_size": 8, "validation_count": 16}


class Watching(Callbacks):
    def __init__(self) -> None:
        self.seen: list[int] = []
        self.steps: list[int] = []
        self.swd: list[float] = []

    def started(self, step: int) -> None:
        self.steps.append(step)

    def progress(self, progress: Progress) -> bool:
        self.seen.append(progress.images_seen)
        return False

    def measured(self, progress: Progress) -> None:
        self.swd.append(progress.metrics["quality/swd"])


def measured_on(place: Path) -> str:
    """A dataset with as many test images as an evaluation needs."""
    write_dataset(place / "other", [70], [60], 32, test=[60])
    return str(place / "other")


@pytest.mark.slow
def test_images_are_prepared_trained_on_tuned_measured_and_sampled_from_python(
    ray_session: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage, data = str(tmp_path / "runs"), str(tmp_path / "data")
    [manifest] = raygen.prepare("drawn", data, count=60, size=32, quiet=True)
    assert (manifest.size, manifest.rows("train")) == ("32x32", 48)

    watching = Watching()
    common = SMALL | {"data": data, "storage": storage, "quiet": True}
    summary = raygen.train(
        "dcgan-celeba", callbacks=watching, steps=6, num_workers=1, validate_images=24, **common
    )
    assert (summary.status, summary.global_step, summary.images_seen) == ("finished", 6, 48)
    assert watching.steps == [0]
    assert len(watching.swd) == 2
    assert watching.swd[-1] == pytest.approx(summary.metrics["quality/swd"])
    assert capsys.readouterr().out == ""
    again = raygen.train("dcgan-celeba", steps=6, num_workers=1, validate_images=24, **common)
    assert again == summary

    found = raygen.tune("dcgan-celeba", steps=4, trials=2, scheduler="none", confirm=0, **common)
    assert [trial.status for trial in found.trials] == ["finished", "finished"]
    assert (found.left, found.best.preset) == (0, "dcgan-celeba")
    more = raygen.tune("dcgan-celeba", trials=3, resume=True, **common)
    assert [trial.number for trial in more.trials] == [0, 1, 2]
    assert more.confirmed is None

    known = {run.name: run.kind for run in raygen.list_runs(storage)}
    assert list(known.values()).count("trial") == 3
    [evaluation] = raygen.evaluate(
        f"{storage}/dcgan-celeba",
        checkpoint="last",
        samples=60,
        data=measured_on(tmp_path),
        quiet=True,
    )
    assert evaluation.metrics[evaluation.objective].n == 60
    assert evaluation.about["step"] == 6
    assert evaluation == Evaluation.read(Folder.at(f"{storage}/dcgan-celeba"))
    assert capsys.readouterr().out == ""
    images = raygen.load(f"{storage}/dcgan-celeba").sample(3, seed=1)
    assert images.shape == (3, 3, 32, 32)


def test_mistakes_in_options_are_told_as_on_the_command_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown option 'stepz'"):
        raygen.train(stepz=3)
    with pytest.raises(UserError, match="preset 'gan': unknown; choose one of vae-celeba"):
        raygen.tune("gan")
    with pytest.raises(UserError, match="kind 'show': must be one of celeba"):
        raygen.prepare("show", str(tmp_path))
    with pytest.raises(UserError, match="--size 48x48: must be one of 32, 64, 128"):
        raygen.train("dcgan-anime", size=48)
    with pytest.raises(UserError, match="--trials 0: must be auto"):
        raygen.tune(trials=0)
    with pytest.raises(UserError, match="unknown option 'sample'"):
        raygen.evaluate("runs/a", sample=60)
    with pytest.raises(UserError, match="--samples 3"):
        raygen.evaluate("runs/a", samples=3)
    with pytest.raises(UserError, match="name one run or more"):
        raygen.evaluate()
    with pytest.raises(UserError, match=r"nowhere: holds no config\.json"):
        raygen.evaluate([tmp_path / "nowhere"])
