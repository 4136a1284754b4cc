"""jobs/prepare.py on small sets in the layouts in which CelebA and the anime faces come."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import random_images, run_script
from PIL import Image

from raygen.data.drawn_faces import write_celeba_layout
from raygen.data.reader import ShardReader
from raygen.data.shards import Manifest
from raygen.storage import Folder


@pytest.mark.slow
def test_celeba_becomes_a_dataset(
    ray_session: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, table = write_celeba_layout(tmp_path / "celeba", 25)
    arguments = ("celeba", "--images", images, "--attributes", table, "--num-workers", "1")
    out = tmp_path / "out"
    assert run_script("prepare", *arguments, "--size", "32", "--out", out) == 0
    output = capsys.readouterr().out
    assert "20 train and 5 validation images of 32x32 in 8 files" in output
    assert f" jobs/train.py dcgan-celeba --data {out}" in output
    manifest = Manifest.load(Folder.at(out))
    assert (manifest.size, manifest.crop, manifest.rows("train")) == ("32x32", 150, 20)
    assert "Smiling" in manifest.attributes

    assert run_script("prepare", *arguments, "--size", "32", "--out", out) == 0
    assert "already prepared" in capsys.readouterr().out
    assert run_script("prepare", *arguments, "--size", "16", "--out", out) == 2
    assert "already holds another dataset" in capsys.readouterr().err
    assert run_script("prepare", *arguments, "--size", "109x89", "--out", out, "--restart") == 0
    manifest = Manifest.load(Folder.at(out))
    assert (manifest.size, manifest.crop) == ("109x89", 0)
    assert "no preset trains on 109x89 images" in capsys.readouterr().out


@pytest.mark.slow
def test_anime_faces_become_a_dataset(
    ray_session: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = tmp_path / "anime" / "data"
    pictures.mkdir(parents=True)
    drawn = {f"{number}.png": pixels.numpy() for number, pixels in enumerate(random_images(40, 64))}
    for name, pixels in drawn.items():
        Image.fromarray(pixels).save(pictures / name)
    out = tmp_path / "out"
    arguments = ("anime", "--images", tmp_path / "anime", "--num-workers", "1", "--out", out)
    assert run_script("prepare", *arguments) == 0
    output = capsys.readouterr().out
    assert "38 train and 2 validation images of 64x64 in 6 files" in output
    assert f" jobs/train.py dcgan-anime --data {out}" in output
    folder = Folder.at(out)
    manifest = Manifest.load(folder)
    assert (manifest.size, manifest.crop, manifest.attributes) == ("64x64", 0, ())
    assert (manifest.rejected, manifest.source["kind"]) == ((), "anime")
    seen = []
    for split in ("train", "validation"):
        ids = ShardReader(folder, manifest, split).ids()
        expected = np.stack([drawn[name] for name in ids])
        assert np.array_equal(
            ShardReader(folder, manifest, split).images(np.arange(manifest.rows(split))), expected
        )
        seen += ids
    assert sorted(seen) == sorted(drawn)

    assert run_script("prepare", *arguments) == 0
    assert "already prepared" in capsys.readouterr().out


def test_mistakes_are_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, table = write_celeba_layout(tmp_path / "celeba", 2)
    good = ("celeba", "--images", images, "--attributes", table, "--out", tmp_path / "out")
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"sizes": 3}))
    for arguments, message in (
        ((), "the first word must be one of celeba, anime, drawn"),
        (("mnist",), "mnist: unknown"),
        (("celeba",), "--out: is required"),
        (("celeba", "--out", tmp_path), "--images: is required"),
        (("anime", "--out", tmp_path), "--images: is required"),
        (("anime", "--out", tmp_path, "--images", tmp_path / "nowhere"), "no such file or folder"),
        ((*good, "--size", "32y32"), "--size 32y32: must be pixels"),
        ((*good, "--size", "0"), "--size 0: must be pixels"),
        ((*good, "--crop", "-3"), "--crop -3: must be 0 or more"),
        ((*good, "--num-workers", "0"), "--num-workers 0: must be at least 1"),
        ((*good, "--images", tmp_path / "nowhere"), "no such file or folder"),
        ((*good, "--config", config), "--config: unknown option 'sizes'"),
    ):
        capsys.readouterr()
        assert run_script("prepare", *arguments) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert message in line
    assert not (tmp_path / "out").exists()
