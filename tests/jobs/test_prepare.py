"""jobs/prepare.py on small sets in the layouts in which CelebA and the anime faces come."""

import json
import re
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import damage, fails, random_images, run_script, write_dataset
from PIL import Image

from raygen.core.errors import RunError, UserError
from raygen.core.progress import ProgressLine
from raygen.core.storage import Folder
from raygen.data.options import CelebAOptions, PrepareOptions
from raygen.data.shards.manifest import Manifest
from raygen.data.shards.reader import ShardReader
from raygen.data.sources.drawn_faces import write_celeba_layout
from raygen.jobs.prepare import open_source, report


@pytest.mark.slow
def test_celeba_becomes_a_dataset(
    ray_session: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, table = write_celeba_layout(tmp_path / "celeba", 25)
    arguments = ("celeba", "--images", images, "--attributes", table, "--num-workers", "1")
    out = tmp_path / "out"
    assert run_script("prepare", *arguments, "--size", "32", "--out", out) == 0
    output = capsys.readouterr().out
    assert "20 train, 3 validation and 2 test images of 32x32 in 9 files" in output
    assert "test split" not in output
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
    assert "train.py vae-celeba --data" in capsys.readouterr().out


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
    assert "36 train, 2 validation and 2 test images of 64x64 in 8 files" in output
    assert f" jobs/train.py dcgan-anime --data {out}" in output
    folder = Folder.at(out)
    manifest = Manifest.load(folder)
    assert (manifest.size, manifest.crop, manifest.attributes) == ("64x64", 0, ())
    assert (manifest.rejected, manifest.source["kind"]) == ((), "anime")
    seen = []
    for split in ("train", "validation", "test"):
        ids = ShardReader(folder, manifest, split).ids()
        expected = np.stack([drawn[name] for name in ids])
        assert np.array_equal(
            ShardReader(folder, manifest, split).images(np.arange(manifest.rows(split))), expected
        )
        seen += ids
    assert sorted(seen) == sorted(drawn)

    assert run_script("prepare", *arguments) == 0
    assert "already prepared" in capsys.readouterr().out


@pytest.mark.slow
def test_several_sizes_of_any_folder_with_labels_and_a_picture_of_them(
    ray_session: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = tmp_path / "animals"
    for label in ("cat", "dog"):
        (place / label).mkdir(parents=True)
        for number, pixels in enumerate(random_images(10, 40)):
            Image.fromarray(pixels.numpy()).save(place / label / f"{number}.webp")
    (place / "cat/broken.png").write_bytes(b"x")
    (place / "licence.txt").write_text("free")
    out = tmp_path / "out"
    sizes = ("--size", "32", "--size", "20x16")
    options = ("--labels", "--num-workers", "1", "--validation-share", "0.25")
    arguments = ("folder", "--images", place, "--out", out, *sizes, *options)
    assert run_script("prepare", *arguments) == 2
    error = capsys.readouterr().err
    assert "--max-rejected: 1 of 21 images cannot be read, 0 may be left out" in error
    assert "cat/broken.png (not an image" in error
    assert run_script("prepare", *arguments, "--max-rejected", "5%") == 0
    output = capsys.readouterr().out
    for size in ("32x32", "20x16"):
        assert f" 1 test images of {size} in 9 files" in output
        manifest = Manifest.load(Folder.at(out / size))
        assert manifest.attributes == ("cat", "dog")
        assert sum(map(manifest.rows, manifest.splits)) == 20
    assert output.count("rejected 1: cat/broken.png (not an image") == 2
    assert output.count("ignored, as they are no images: licence.txt") == 2

    monkeypatch.chdir(tmp_path)
    assert run_script("prepare", "show", out / "32x32", "--verify", "-n", "6") == 0
    output = capsys.readouterr().out
    assert "attributes   cat, dog" in output
    assert "verified:    every file is as it was prepared" in output
    assert "picture:     32x32-images.png" in output
    assert Image.open(tmp_path / "32x32-images.png").size[0] > 2 * 128
    damage(out / "32x32/train-00000.parquet")
    assert run_script("prepare", "show", out / "32x32", "--verify", "-n", "0") == 1
    assert "train-00000.parquet: its content is not what was" in capsys.readouterr().err


def test_what_is_left_out_is_reported_by_its_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest, _ = write_dataset(tmp_path, [4], [2])
    rejected = [
        {"id": f"IMG_{k}.HEIC", "split": "train", "reason": "a HEIC picture, which raygen does not"}
        for k in range(3)
    ] + [{"id": "\x1b[31m\n.jpg", "split": "train", "reason": "empty file"}]
    ignored = (".git/", "a.zip", "b.TAR", "clip.mov", "notes\n.txt", "table.parquet")
    changed = replace(manifest, rejected=tuple(rejected), ignored=ignored)
    report(Folder.at(tmp_path), changed, ProgressLine())
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "test split: none; measurements will use validation images"
    assert lines[2] == (
        "rejected 4: IMG_0.HEIC (a HEIC picture, which raygen does not) and 2 more; "
        "\\x1b[31m\\n.jpg (empty file)"
    )
    assert lines[4:8] == [
        "ignored, as they are no images: .git/ and 5 more",
        "among them 2 archives, as a.zip: unpack it, or name it alone",
        "among them 1 video, as clip.mov: save its frames as PNG or JPEG",
        "among them 1 table, as table.parquet: write its images as files, or save it with "
        "save_to_disk and prepare huggingface",
    ]
    (tmp_path / "manifest.json").write_text(json.dumps(changed.to_json()))
    assert run_script("prepare", "show", tmp_path, "-n", "0") == 0
    output = capsys.readouterr().out
    assert "\x1b" not in output
    assert "1 x empty file: \\x1b[31m\\n.jpg" in output
    line = fails(capsys, "prepare", "show", tmp_path, "-n", "1000000000")
    assert "--count 1000000000: a picture has room for" in line


def test_celeba_can_be_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Imported before its place in the list of modules is hidden.
    import torchvision.datasets  # noqa: F401

    def fail(root: str, split: str, download: bool) -> None:
        raise RuntimeError("too many users have viewed or downloaded this file")

    def fetch(root: str, split: str, download: bool) -> None:
        """What torchvision leaves behind."""
        images, table = write_celeba_layout(Path(root) / "celeba", 6)
        with zipfile.ZipFile(images) as archive:
            archive.extractall(Path(root) / "celeba")
        header, *rows = table.read_text().splitlines()
        text = [str(len(rows)), *(line.replace(",", " ") for line in (header[9:], *rows))]
        (table.parent / "list_attr_celeba.txt").write_text("\n".join(text))
        parts = "".join(f"{k:06d}.jpg {k % 2}\n" for k in range(1, 7))
        (table.parent / "list_eval_partition.txt").write_text(parts)

    options = CelebAOptions(download=str(tmp_path), out="x")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the package gdown"):
        open_source(options)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr("torchvision.datasets.CelebA", fail)
    with pytest.raises(RunError, match="--download: failed .too many users.*try later"):
        open_source(options)
    monkeypatch.setattr("torchvision.datasets.CelebA", fetch)
    source = open_source(options)
    assert source.ids == [f"{k:06d}.jpg" for k in (2, 4, 6, 1, 3, 5)]
    assert source.splits() == {"train": range(3), "validation": range(3, 6)}
    for other in (
        replace(options, images="x"),
        replace(options, attributes="x"),
        replace(options, partition="x"),
    ):
        with pytest.raises(UserError, match="--download: brings images and tables with it"):
            open_source(other)
    with pytest.raises(UserError, match="--download s3://a: must be a local folder"):
        open_source(replace(options, download="s3://a"))


def test_the_share_that_may_be_rejected() -> None:
    for text, expected in (("1%", 2), ("0%", 0), ("0.5%", 1), ("100%", 200), ("7", 7), ("29%", 58)):
        assert PrepareOptions(max_rejected=text).allowed(200) == expected


def test_mistakes_are_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images, table = write_celeba_layout(tmp_path / "celeba", 2)
    good = ("celeba", "--images", images, "--attributes", table, "--out", tmp_path / "out")
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"sizes": 3}))
    for arguments, message in (
        ((), "the first word must be one of celeba, anime, folder, huggingface, drawn, show"),
        (("mnist",), "mnist: unknown"),
        (("celeba",), "--out: is required"),
        (("celeba", "--out", tmp_path), "--images: is required"),
        (("anime", "--out", tmp_path), "--images: is required"),
        (("huggingface", "--out", tmp_path), "--images: is required"),
        (("show",), "DIR: is required"),
        (("show", tmp_path / "nowhere"), "holds no manifest.json"),
        (("show", tmp_path, "-n", "-1"), "--count -1: must be 0 or more"),
        (("folder", "--validation-share", "1"), "--validation-share 1.0: must be between 0 and 1"),
        (("folder", "--test-share", "1"), "--test-share 1.0: must be 0 or more, below 1"),
        (("folder", "--test-share", "-0.5"), "--test-share -0.5: must be 0 or more, below 1"),
        (("folder", "--test-share", "nan"), "--test-share nan: must be 0 or more, below 1"),
        (
            ("folder", "--test-share", "0.95"),
            "--validation-share 0.05: must leave images to train on beside a --test-share of 0.95",
        ),
        (
            ("celeba", "--test-share", "0.2"),
            "--test-share 0.2: must be less than 0.2, as the first",
        ),
        (("drawn", "--test-share", "0.3"), "--test-share 0.3: must be less than 0.2, as the first"),
        (("drawn", "--count", "3"), "--count 3: must be from 20 to 10,000,000"),
        ((*good, "--size", "32", "--size", "32x32"), "--size 32 32x32: must differ"),
        ((*good, "--max-rejected", "1.5"), "--max-rejected 1.5: must be a number or 0% to 100%"),
        ((*good, "--max-rejected", "101%"), "--max-rejected 101%: must be a number or 0% to"),
        ((*good, "--partition", tmp_path / "no.txt"), "no.txt: cannot be read"),
        (("anime", "--out", tmp_path, "--images", tmp_path / "nowhere"), "no such file or folder"),
        ((*good, "--size", "32y32"), "--size 32y32: must be pixels"),
        ((*good, "--size", "0"), "--size 0: must be pixels"),
        ((*good, "--size", "20000"), "--size 20000: must be pixels from 1 to 16,384"),
        ((*good, "--size", "9" * 5000), "must be pixels"),
        ((*good, "--crop", str(10**30)), "must be from 0 to"),
        ((*good, "--max-rejected", "9" * 5000), "must be a number or 0% to 100%"),
        ((*good, "--num-workers", str(10**12)), "must be at most 100,000"),
        (("drawn", "--seed", str(2**64), "--out", tmp_path), "--seed 18446744073709551616: must"),
        (("drawn", "--count", str(10**9), "--out", tmp_path), "must be from 20 to 10,000,000"),
        (("folder", "--keep-attributes", "a", "--images", tmp_path, "--out", tmp_path), "--labels"),
        (("folder", "--images", tmp_path, "--out", config), "--out .*config.json is a file; name"),
        (("folder", "--images", tmp_path, "--out", config / "x"), "is a file; name a folder"),
        (("show", config), "is a file; name the folder of a dataset"),
        (
            ("huggingface", "--images", config, "--out", tmp_path / "out"),
            "is a file; name the fold",
        ),
        ((*good, "--crop", "-3"), "--crop -3: must be from 0 to"),
        ((*good, "--num-workers", "0"), "--num-workers 0: must be at least 1"),
        ((*good, "--images", tmp_path / "nowhere"), "no such file or folder"),
        ((*good, "--config", config), f"--config {config}: unknown option 'sizes'"),
    ):
        capsys.readouterr()
        assert run_script("prepare", *arguments) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert re.search(message.replace("(", "[(]").replace("%", "[%]"), line)
    assert not (tmp_path / "out").exists()
