"""jobs/sample.py and jobs/export.py: what they write, and mistakes told in one line."""

import io
import json
import os
import shlex
import shutil
import threading
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from helpers import fails, run_script, save_run
from PIL import Image
from torch import Tensor

import raygen
from raygen.config.run import PRESETS
from raygen.core.storage import Folder
from raygen.data.pixels import as_images
from raygen.data.shards.manifest import MANIFEST, Manifest, ShardFile, write_shard
from raygen.data.shards.reader import HeldOut
from raygen.data.splits import TRAIN, VALIDATION
from raygen.evaluation.grids import GridFile, grid, grid_size, to_uint8
from raygen.inference.model import TrainedModel
from raygen.jobs.sample import read_image
from raygen.training.run import CONFIG
from raygen.tuning.options import SweepOptions
from raygen.tuning.records import SWEEP


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "vaegan"
    save_run(path, "vaegan-anime", latent_size=8, schedule="1:1")
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A dataset of random images with one attribute."""
    folder = Folder.at(tmp_path / "data")
    pixels = np.random.default_rng(0).integers(0, 256, (12, 64 * 64 * 3), np.uint8)
    ids, smiling = [str(k) for k in range(12)], np.array([[1], [-1], [0]] * 4)
    splits: dict[str, tuple[ShardFile, ...]] = {
        split: (write_shard(folder, f"{split}-00000.parquet", pixels, ids, smiling),)
        for split in (TRAIN, VALIDATION)
    }
    manifest = Manifest(64, 64, ("Smiling",), splits, {}, 0, ())
    folder.write_json(MANIFEST, manifest.to_json())
    return tmp_path / "data"


def sample(*arguments: str | Path) -> int:
    return run_script("sample", *arguments)


def test_samples_become_a_grid_single_files_or_arrays(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = (run, "-n", "6", "--seed", "7")
    expected = to_uint8(raygen.load(str(run)).sample(6, seed=7))
    assert sample(*options, "--out", tmp_path / "grid.png") == 0
    assert f"vaegan-anime, step 2: 6 images in {tmp_path}/grid.png" in capsys.readouterr().out
    pixels = np.asarray(Image.open(tmp_path / "grid.png"))
    assert pixels.shape == (2 * 66 + 2, 3 * 66 + 2, 3)
    assert np.array_equal(pixels[2:66, 68:132], expected[1])
    assert sample(*options, "--format", "png", "--out", tmp_path / "files") == 0
    files = sorted((tmp_path / "files").iterdir())
    assert [file.name for file in files] == [f"samples-{k:05d}.png" for k in range(6)]
    assert np.array_equal(np.asarray(Image.open(files[4])), expected[4])
    assert sample(*options, "--format", "npz", "--out", tmp_path / "a.npz") == 0
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert np.array_equal(arrays["images"], expected)
        assert np.array_equal(arrays["codes"], raygen.load(str(run)).codes(6, 7).numpy())


def test_many_samples_are_written_as_they_are_drawn(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = raygen.load(str(run))
    expected, codes = to_uint8(trained.sample(70, seed=3)), trained.codes(70, 3).numpy()
    sizes: list[int] = []
    from_noise = TrainedModel.from_noise

    def counted(trained: TrainedModel, codes: Tensor) -> Tensor:
        sizes.append(len(codes))
        return from_noise(trained, codes)

    monkeypatch.setattr("raygen.inference.model.AT_ONCE", 16)
    monkeypatch.setattr(TrainedModel, "from_noise", counted)
    options = (run, "-n", "70", "--seed", "3")
    assert sample(*options, "--out", tmp_path / "a.png") == 0
    # Never more in memory than go through the networks together.
    assert sizes == [16, 16, 16, 16, 6]
    pixels = np.asarray(Image.open(tmp_path / "a.png"))
    tensors = torch.from_numpy(expected).permute(0, 3, 1, 2) / 127.5 - 1
    assert np.abs(pixels.astype(int) - grid(tensors)).max() <= 1
    assert sample(*options, "--format", "npz", "--out", tmp_path / "a.npz") == 0
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert np.abs(arrays["images"].astype(int) - expected).max() <= 1
        assert np.array_equal(arrays["codes"], codes)
    assert "drawing: 16/70 images" in capsys.readouterr().out
    # A grid is complete or absent, and nothing else is left behind.
    monkeypatch.setattr(TrainedModel, "from_noise", lambda trained, codes: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sample(*options, "--out", tmp_path / "b.png")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", "a.png"]


def test_more_than_can_be_written_is_refused_before_anything_is_drawn(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(TrainedModel, "decode", lambda trained, codes: 1 / 0)
    monkeypatch.chdir(tmp_path)
    line = fails(capsys, "sample", run, "-n", "1000000000")
    assert "a grid of 2062502x2112002 pixels" in line
    assert "larger than PNGs can be (1,000,000 a side); use --format npz or png" in line
    for kind in ("npz", "png"):
        line = fails(capsys, "sample", run, "-n", "100000000000000", "--format", kind)
        assert "takes at least" in line
        assert "has room for" in line


@pytest.mark.parametrize(("count", "columns"), [(1, 0), (2, 2), (6, 0), (7, 3), (13, 0), (9, 5)])
def test_a_grid_in_pieces_is_the_grid_as_a_whole(count: int, columns: int) -> None:
    images = torch.from_numpy(np.random.default_rng(0).random((count, 3, 5, 4)) * 2 - 1)
    file = io.BytesIO()
    written = GridFile(file, count, columns, 5, 4)
    for part in to_uint8(images.float())[:, None]:
        written.add(part)
    pixels = np.asarray(Image.open(file))
    assert np.array_equal(pixels, grid(images.float(), columns))
    assert pixels.shape[:2] == grid_size(count, columns, 5, 4)


def test_what_out_names_is_looked_at_before_the_work(
    run: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "file").write_text("text")
    # In a folder, the picture has its usual name.
    assert sample(run, "-n", "2", "--out", "there") == 0
    assert sample(run, "-n", "2", "--out", "new/", "--format", "npz") == 0
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.glob("*/s*")) == [
        "new/samples.npz",
        "there/samples.png",
    ]
    monkeypatch.setattr(TrainedModel, "decode", lambda trained, codes: 1 / 0)
    monkeypatch.setattr(TrainedModel, "encode", lambda trained, images: 1 / 0)
    (tmp_path / "there/samples.png").unlink()
    (tmp_path / "there/samples.png").mkdir()
    line = fails(capsys, "sample", run, "--out", "there")
    assert "--out there/samples.png: is a folder; name a file" in line
    line = fails(capsys, "sample", run, "--out", "file", "--format", "png")
    assert "--out file: file is a file; name a folder" in line
    assert "is a file; name a folder" in fails(capsys, "export", run, "--out", "file/deep")
    assert "file: cannot write there" in fails(capsys, "sample", run, "--out", "file/a.png")
    assert "--reconstruct: names no image" in fails(capsys, "sample", run, "--reconstruct")
    line = fails(capsys, "sample", run, "--reconstruct", "there")
    assert "--reconstruct there: is a folder; name image files, as there/*.jpg" in line
    os.mkfifo(tmp_path / "pipe.png")
    line = fails(capsys, "sample", run, "--reconstruct", "pipe.png")
    assert "a pipe, socket or device" in line
    assert run_script("prepare", "show", data, "-n", "2", "--out", "there") == 0
    assert (tmp_path / "there/data-images.png").is_file()


def test_rotation_is_undone_before_sizes_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_run(tmp_path / "vae", "vae-celeba", latent_size=4)
    rotated = Image.Exif()
    rotated[0x0112] = 6
    for name, size in (("turned", (218, 178)), ("lying", (178, 218))):
        Image.new("RGB", size).save(tmp_path / f"{name}.jpg", exif=rotated)
    out = tmp_path / "out.png"
    options = (tmp_path / "vae", "--out", out, "--reconstruct")
    assert sample(*options, tmp_path / "turned.jpg") == 0
    line = fails(capsys, "sample", *options, tmp_path / "lying.jpg")
    assert "lying.jpg: is 178x218 pixels, but vae-celeba needs 218x178" in line
    # All are looked at before the first is drawn.
    out.unlink()
    fails(capsys, "sample", *options, tmp_path / "turned.jpg", tmp_path / "gone.jpg")
    assert not out.exists()


def test_images_are_shown_beside_their_reconstructions(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "one.png")
    Image.fromarray(pixels[:40]).save(tmp_path / "small.png")
    out = tmp_path / "out.png"
    assert sample(run, "--reconstruct", tmp_path / "one.png", "--out", out) == 0
    shown = np.asarray(Image.open(out))
    assert shown.shape == (68, 134, 3)
    assert np.array_equal(shown[2:66, 2:66], pixels)
    trained = raygen.load(str(run))
    images = read_image(str(tmp_path / "one.png"), trained, fit=False)
    assert np.array_equal(shown[2:66, 68:132], to_uint8(trained.reconstruct(images))[0])
    both = ("--reconstruct", tmp_path / "small.png", tmp_path / "one.png")
    assert sample(run, *both, "--out", out) == 2
    line = capsys.readouterr().err
    assert "small.png: is 40x64 pixels, but vaegan-anime needs 64x64; resize it, or add" in line
    assert sample(run, *both, "--fit", "--out", out) == 0
    assert np.asarray(Image.open(out)).shape == (134, 134, 3)


def test_an_attribute_is_turned_down_and_up(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "strip.png"
    options = ("--attribute", "Smiling", "--data", data, "--out", out)
    assert sample(run, *options, "--strength", "-2:2:5", "-n", "3") == 0
    assert "15 images" in capsys.readouterr().out
    pixels = np.asarray(Image.open(out))
    assert pixels.shape == (3 * 66 + 2, 5 * 66 + 2, 3)
    # In the middle, nothing is added.
    trained = raygen.load(str(run))
    held_out = HeldOut.of(Folder.at(data), Manifest.load(Folder.at(data)), VALIDATION, 1)
    plain = to_uint8(trained.reconstruct(as_images(held_out.read(0, 1).images)))[0]
    assert np.array_equal(pixels[2:66, 2 + 2 * 66 : 66 + 2 * 66], plain)
    assert sample(run, *options, "--strength", "0:1.5:1") == 0


def test_mistakes_are_told_in_one_line(
    run: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    save_run(tmp_path / "dcgan", "dcgan-celeba")
    (tmp_path / "text.png").write_text("not a picture")
    attribute = (run, "--data", data, "--attribute")
    for arguments, message in (
        ((), "RUN: is required"),
        (("nowhere",), "nowhere: holds no config.json"),
        ((run, "--checkpoint", "7"), "--checkpoint 7: must be last, best, or a step"),
        ((run, "-n", "-3"), "--count -3: must be 0 or more"),
        ((run, "--format", "gif"), "invalid choice 'gif'"),
        ((run, "--reconstruct", "gone.png"), "--reconstruct gone.png: no such file"),
        ((run, "--reconstruct", "text.png"), "text.png: cannot be read as an image"),
        ((*attribute, "Hat"), "--attribute Hat: the dataset"),
        ((*attribute, "Smiling", "--strength", "1:2"), "--strength 1:2: must be first:last:count"),
        ((*attribute, "Smiling", "--strength", "a:2:3"), "--strength a:2:3: must be"),
        ((*attribute, "Smiling", "--strength", "1:2:0"), "--strength 1:2:0: must be"),
        ((*attribute, "Smiling", "--reconstruct", "x.png"), "choose one of them"),
        (("dcgan", "--reconstruct", "text.png"), "needs an encoder, which dcgan-celeba lacks"),
        (("dcgan", "--attribute", "Smiling"), "needs an encoder, which dcgan-celeba lacks"),
        ((run, "--attribute", "Smiling"), "holds no manifest.json"),
        ((run, "--out", "text.png/grid.png"), "text.png"),
    ):
        capsys.readouterr()
        assert sample(*arguments) == 2, message
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert message in line
    assert not (tmp_path / "samples.png").exists()


def test_a_model_is_exported_into_its_run(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_script("export", run) == 0
    output = capsys.readouterr().out
    assert f"encoder.safetensors, decoder.safetensors, model.json in {run}/export" in output
    assert (run / "export/decoder.safetensors").exists()
    assert run_script("export", run, "--out", tmp_path / "there", "--checkpoint", "best") == 0
    assert (tmp_path / "there/model.json").exists()
    assert run_script("export", run, "--format", "pickle") == 2
    assert run_script("export") == 2
    assert "RUN: is required" in capsys.readouterr().err


class Asked(BaseHTTPRequestHandler):
    """A stranger's server, which notes who asks."""

    headers_seen: ClassVar[list[str]] = []

    def _answer(self) -> None:
        self.headers_seen.append(str(self.headers))
        self.send_error(404)

    do_GET = do_HEAD = do_PUT = do_POST = _answer  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_a_stranger_s_run_does_not_decide_where_credentials_go(
    run: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mine")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "my-secret")
    shutil.copytree(run, tmp_path / "theirs")
    theirs, out = tmp_path / "theirs", tmp_path / "out.png"
    options = json.loads((theirs / CONFIG).read_text())

    def attribute(data: str, *more: str | Path) -> int:
        (theirs / CONFIG).write_text(json.dumps(options | {"data": data}))
        return sample(theirs, "--attribute", "Smiling", "--out", out, *more)

    with ThreadingHTTPServer(("127.0.0.1", 0), Asked) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        host = f"127.0.0.1:{server.server_port}"
        uri = f"s3://faces/x?region=us-east-1&scheme=http&endpoint_override={host}"
        try:
            for given in (uri, "s3://faces/x", "gs://faces/x", "hdfs://host/x", f"file://{data}"):
                assert attribute(given) == 2
                [line] = capsys.readouterr().err.splitlines()
                assert f"jobs/sample.py {theirs} --attribute Smiling --data" in line
                assert line.endswith(shlex.quote(given))
            assert Asked.headers_seen == []
            # Named by the user, it is asked; here it has nothing.
            assert attribute(uri, "--data", uri) == 2
            assert any("Credential=mine/" in headers for headers in Asked.headers_seen)
        finally:
            server.shutdown()
            thread.join()
    assert not out.exists()
    # What lies on the user's own disk is found as before.
    assert attribute(str(data)) == 0
    assert out.exists()


def test_neither_does_a_stranger_s_file_of_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "best.json"
    for uri in (
        "s3://faces/x?endpoint_override=evil.example&region=us-east-1",
        "abfs://container@evil.example/x",
        "hdfs://evil.example/x",
    ):
        file.write_text(json.dumps({"data": uri}))
        for job in ("train", "tune"):
            line = fails(capsys, job, "--config", file, "--storage", tmp_path / "runs")
            assert f"--config {file}: data is {uri}" in line
            assert line.endswith(f"--data {shlex.quote(uri)}")
        for job, name in (("sample", "run"), ("watch", "storage"), ("export", "out")):
            file.write_text(json.dumps({name: uri}))
            assert f"{name} is {uri}" in fails(capsys, job, "--config", file)
    assert not (tmp_path / "runs").exists()


def test_a_stranger_s_sweep_is_not_gone_on_with_where_it_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = "s3://faces/x?endpoint_override=evil.example&region=us-east-1"
    config = replace(PRESETS["dcgan-celeba"], data=uri)
    saved = {"sweep": asdict(SweepOptions()), "run": config.to_json(), "dataset": "0" * 64}
    saved["space"] = {"lr_g": "uniform(0,1)"}
    Folder.at(tmp_path / "dcgan-celeba-sweep").write_json(SWEEP, saved)
    line = fails(capsys, "tune", "--storage", tmp_path, "--resume")
    assert f"data is {uri}" in line
    assert line.endswith(f"--data {shlex.quote(uri)}")
