"""Measuring on held-out images: the same numbers for any number of workers."""

import json
from pathlib import Path

import pytest
import torch
from helpers import CPU, batch_of, build, run_processes, small_config, write_dataset

from raygen.core.storage import Folder
from raygen.data.shards import reader
from raygen.data.shards.reader import HeldOut
from raygen.data.splits import VALIDATION
from raygen.evaluation.distances import Moments, frechet_distance
from raygen.evaluation.features import random_vgg
from raygen.evaluation.grids import to_uint8
from raygen.evaluation.neighbours import variety
from raygen.evaluation.swd import sliced_wasserstein
from raygen.models import build_model
from raygen.models.layers import QUALITY_NOISE
from raygen.models.vaegan import VAEGAN
from raygen.training.validation import Quality, Validation
from raygen.training.workers import Workers

pytestmark = pytest.mark.numeric


def images_of(path: Path, count: int = 7) -> Validation:
    manifest, _ = write_dataset(path, (4,), (count,), size=64)
    images = HeldOut.of(Folder.at(path), manifest, VALIDATION, 100)
    return Validation(images, 1, Quality(images))


def test_losses_are_means_over_all_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "HELD_OUT_BATCH", 3)
    validation, model = images_of(tmp_path), build(VAEGAN, small_config("vaegan-anime"))
    told: list[tuple[int, int]] = []
    metrics = validation.measure(model, Workers(), lambda done, total: told.append((done, total)))
    real = validation.first(7, CPU)
    parts = [(real[:3], 0), (real[3:6], 1), (real[6:], 2)]
    for name in ("validation/mse", "validation/discriminator", "validation/generator"):
        values = [float(model.validate(batch_of(part), k)[name]) * len(part) for part, k in parts]
        assert metrics[name] == pytest.approx(sum(values) / 7, rel=1e-5)
    fake = model.decode(model.fixed_noise(7, QUALITY_NOISE))
    assert metrics["quality/swd"] == pytest.approx(sliced_wasserstein(real, fake))
    assert told[-1] == (14, 14)
    pixels = (to_uint8(images) for images in (real, fake))
    features = [random_vgg().features([images], CPU) for images in pixels]
    distance = frechet_distance(*map(Moments.of, features))
    assert metrics["quality/fd_random-vgg"] == pytest.approx(distance, rel=1e-3)
    assert metrics["quality/variety_random-vgg"] == pytest.approx(
        variety(features[0], features[1]), rel=1e-3
    )


def test_without_validation_images_nothing_is_measured(tmp_path: Path) -> None:
    manifest, _ = write_dataset(tmp_path, (4,), size=64)
    images = HeldOut.of(Folder.at(tmp_path), manifest, VALIDATION, 100)
    model = build(VAEGAN, small_config("vaegan-anime"))
    validation = Validation(images, 1, Quality(images))
    assert validation.measure(model, Workers()) == {}
    pictures = model.pictures(4, validation.first(16, CPU))
    assert set(pictures) == {"samples", "interpolation"}


def on_worker(rank: int, folder: str, world_size: int) -> None:
    reader.HELD_OUT_BATCH = 4
    model = build_model(small_config("vaegan-anime"))
    model.to(CPU)
    validation = images_of(Path(folder) / f"data{rank}")
    metrics = validation.measure(model, Workers(rank, world_size))
    Path(folder, f"{rank}.json").write_text(json.dumps(metrics))


@pytest.mark.slow
def test_workers_share_the_images_and_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "HELD_OUT_BATCH", 4)
    alone = images_of(tmp_path / "data").measure(
        build(VAEGAN, small_config("vaegan-anime")), Workers()
    )
    # Two batches of images, so the third worker has none.
    run_processes(3, on_worker, str(tmp_path), 3)
    first = json.loads((tmp_path / "0.json").read_text())
    assert first == pytest.approx(alone, rel=1e-4)
    second = json.loads((tmp_path / "1.json").read_text())
    assert second == first
    # It has no losses of its own, and need not know their names.
    third = json.loads((tmp_path / "2.json").read_text())
    assert third == {name: value for name, value in first.items() if "quality" in name}
    assert torch.isfinite(torch.tensor(list(first.values()))).all()
