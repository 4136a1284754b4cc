"""The example in CONTRIBUTING.md: one file and one preset make a family that trains."""

import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from helpers import build_any, random_images, run_processes, write_dataset

import raygen
from raygen import config
from raygen.config import PRESETS
from raygen.data.pixels import as_images
from raygen.data.rows import Rows
from raygen.data.stream import ImageStream
from raygen.storage import Folder
from raygen.training.control import Control
from raygen.training.run import RunFolder
from raygen.training.session import Session, run_session
from raygen.training.workers import Workers

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()


def install() -> None:
    """Put the example's file and preset where the text says they go."""
    family, preset = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    module = types.ModuleType("raygen.models.linear")
    exec(compile(family, "linear.py", "exec"), module.__dict__)
    sys.modules["raygen.models.linear"] = module
    PRESETS.update(eval("{" + preset + "}", vars(config)))


def learn(rank: int, folder: str, world_size: int) -> None:
    """A whole session of the example's preset, on this worker."""
    install()

    def batches(
        self: ImageStream, first: int, stop: int, rank: int = 0, world_size: int = 1
    ) -> object:
        share = self.batch_size // world_size
        for step in range(first, stop):
            images = random_images(self.batch_size, seed=step % 2).numpy()
            own = images[rank * share : (rank + 1) * share]
            yield Rows(own, np.empty((share, 0), np.int8), np.arange(share))

    ImageStream.batches = batches  # type: ignore[assignment, method-assign]
    place = Path(folder)
    manifest, _ = write_dataset(place / f"data{rank}", (16,), (4,), size=32)
    run = RunFolder.at(folder, "run")
    options = {"steps": 80, "batch_size": 8, "log_images": 8, "validate_images": 80}
    settings = PRESETS["linear-celeba"].updated(options, "test")
    run.folder.write_json("config.json", settings.to_json())
    session = Session(settings, run, Folder.at(place / f"data{rank}"), manifest, world_size, False)
    outcome = run_session(session, Workers(rank, world_size), Control())
    assert outcome.finished
    Path(folder, f"mse{rank}").write_text(str(outcome.metrics["loss/mse"]))


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> None:
    # What `install` adds is taken away again.
    monkeypatch.setitem(PRESETS, "linear-celeba", PRESETS["dcgan-celeba"])
    monkeypatch.setitem(sys.modules, "raygen.models.linear", types.ModuleType("linear"))
    install()


@pytest.mark.slow
def test_the_example_trains_on_two_workers_and_is_sampled(tmp_path: Path, example: None) -> None:
    run_processes(2, learn, str(tmp_path), 2)
    first, last = build_any(PRESETS["linear-celeba"]), raygen.load(str(tmp_path / "run"))
    assert last.step == 80
    real = as_images(random_images(8, seed=0).numpy())
    learnt, untrained = last.reconstruct(real), first.decode(first.encode(real)[0])
    assert (learnt - real).square().mean() < 0.8 * (untrained - real).square().mean()
    assert last.sample(3, seed=1).shape == (3, 3, 32, 32)
    pictures = [file.name for file in (tmp_path / "run/samples").iterdir()]
    assert sorted(pictures) == ["samples-000000000.png", "samples-000000640.png"]


def test_the_example_is_short() -> None:
    family = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)[0]
    code = family[family.index("class") :]
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 30
