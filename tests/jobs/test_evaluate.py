"""Evaluations: of runs and of folders of images, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import fails, run_script, save_run, write_dataset
from PIL import Image

from raygen.core.storage import Folder
from raygen.evaluation.record import Evaluation

IMAGES = 80


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A dataset with a test split."""
    write_dataset(tmp_path / "data", [60, 60], [IMAGES], 64, test=[IMAGES])
    return tmp_path / "data"


@pytest.mark.slow
def test_a_run_is_measured_on_the_test_split(
    ray_session: str, tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "runs/vaegan"
    save_run(run, "vaegan-anime", data=str(data))
    assert run_script("evaluate", run, "--samples", "60") == 0
    output = capsys.readouterr().out
    assert "60 images against as many of the test split" in output
    assert "fetch and name with --weights: inception from https://" in output
    found = Evaluation.read(Folder.at(run))
    assert found.objective in found.metrics
    assert found.about["split"] == "test"
    for tag in (
        *("random-vgg/fd", "random-vgg/kid", "random-vgg/precision", "random-vgg/authentic"),
        *("swd/by_real", "swd/published", "swd/published_16", "diversity/ms_ssim"),
        *("reconstruction/psnr", "latents/kl", "likelihood/bits_per_dimension"),
    ):
        measured = found.metrics[tag]
        assert measured.low <= measured.value <= measured.high, tag
        assert measured.n > 0
    distance = found.metrics["random-vgg/fd"]
    assert distance.extractor == "random-vgg"
    assert distance.n == 60
    # Real images are nearer to real ones than what an untrained network makes.
    assert distance.floor < distance.value
    assert distance.floor < distance.untrained
    assert (run / "evaluation/nearest.png").exists()
    assert list((run / "evaluation").glob("events.out.tfevents.*"))
    # The same again gives the same.
    before = json.loads((run / "evaluation.json").read_text())["metrics"]
    assert run_script("evaluate", run, "--samples", "60") == 0
    assert json.loads((run / "evaluation.json").read_text())["metrics"] == before


@pytest.mark.slow
def test_a_folder_of_anybody_s_images_is_measured(
    ray_session: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    write_dataset(data, [120], [IMAGES], 32, attributes=2, test=[IMAGES])
    made = tmp_path / "made"
    made.mkdir()
    pixels = np.random.default_rng(0).integers(256, size=(IMAGES, 32, 32, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(made / f"{number:03d}.png")
    out = tmp_path / "found.json"
    arguments = ("--images", made, "--data", data, "--samples", "1000", "--out", out)
    assert run_script("evaluate", *arguments) == 0
    output = capsys.readouterr().out
    assert f"{IMAGES} images are compared, not 1,000" in output
    assert "the extractor domain knows 2 attributes" in output
    assert len(list((data / "extractors").iterdir())) == 1
    found = Evaluation.read(Folder.at(tmp_path), "found.json")
    assert found.objective == "domain/fd"
    assert "reconstruction/psnr" not in found.metrics
    assert np.isnan(found.metrics["random-vgg/fd"].untrained)

    Image.fromarray(pixels[0][:16]).save(made / "zz.png")
    message = fails(capsys, "evaluate", *arguments)
    assert "images have to be of one size" in message


def test_mistakes_are_told_in_one_line(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "runs/vaegan"
    assert "name one run or more" in fails(capsys, "evaluate")
    assert "holds no config.json" in fails(capsys, "evaluate", tmp_path / "nowhere")
    assert "needs --data" in fails(capsys, "evaluate", "--images", tmp_path)
    assert "samples" in fails(capsys, "evaluate", run, "--samples", "3")
    (tmp_path / "weights").write_bytes(b"x")
    arguments = ("--images", tmp_path, "--data", data, "--weights", tmp_path / "weights")
    assert "known are inception: https://" in fails(capsys, "evaluate", *arguments)
    save_run(run, "vaegan-anime", data=str(data))
    assert "checkpoint 7" in fails(capsys, "evaluate", run, "--checkpoint", "7")
    message = fails(capsys, "evaluate", run, run, "--out", tmp_path / "x.json")
    assert "--out: is one file" in message
    few = tmp_path / "few"
    write_dataset(few, [20], [10], 64, test=[10])
    assert "has 10 test images" in fails(capsys, "evaluate", run, "--data", few)
