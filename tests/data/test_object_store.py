"""Everything from and to an object store: an S3 server on this machine."""

import io
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import boto3
import numpy as np
import pytest
from helpers import damage, load_image, run_script, write_dataset
from saved_datasets import write_saved

from raygen.config.run import ImageFormat, Reader
from raygen.core.errors import ShardError, UserError
from raygen.core.storage import Folder
from raygen.data.inspect import verify
from raygen.data.prepare.parts import Target
from raygen.data.prepare.prepare import prepare
from raygen.data.shards.manifest import Manifest
from raygen.data.shards.reader import ShardReader
from raygen.data.shards.rows import Rows
from raygen.data.sources.drawn_faces import write_celeba_layout
from raygen.data.sources.files import Files
from raygen.data.sources.huggingface import huggingface
from raygen.data.sources.image_files import celeba
from raygen.data.splits import TRAIN, VALIDATION
from raygen.data.stream.ray_data import RayDataReader, ReadTasks
from raygen.data.stream.stream import ImageStream, ReadAhead, own_threads

SMALL, LARGE = ImageFormat(32, 32, 150), ImageFormat(64, 64, 150)


def upload(path: Path, place: Folder) -> None:
    """Copy a folder's files."""
    for file in sorted(path.rglob("*")):
        if file.is_file():
            name = file.relative_to(path).as_posix()
            place.write_bytes(name, file.read_bytes())


@pytest.mark.slow
def test_celeba_is_prepared_from_and_to_a_bucket(
    ray_session: str,
    s3: Folder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images, table = write_celeba_layout(tmp_path / "celeba", 30)
    upload(tmp_path / "celeba", s3.join("celeba"))
    uri = s3.join("celeba", "img_align_celeba.zip").uri
    options = ("--attributes", s3.join("celeba", table.name).uri, "--num-workers", "1")
    sizes = ("--size", "32", "--size", "64")
    out = s3.join("out")
    assert run_script("prepare", "celeba", "--images", uri, *options, *sizes, "--out", out.uri) == 0
    assert "24 train, 3 validation and 3 test images of 64x64" in capsys.readouterr().out

    # The same as on a disk.
    targets = [Target(Folder.at(tmp_path / image.size), image) for image in (SMALL, LARGE)]
    here = prepare(celeba(str(images), str(table)), targets, 1)
    for target, manifest in zip(targets, here, strict=True):
        place = out.join(target.image.size)
        assert Manifest.load(place).fingerprint == manifest.fingerprint
        assert sorted(place.sizes()) == sorted(target.folder.sizes())
        assert verify(place, manifest) == []
        assert not place.exists(".prepare/plan.json")
    again = ("celeba", "--images", uri, *options, *sizes, "--out", out.uri)
    assert run_script("prepare", *again) == 0
    assert "already prepared" in capsys.readouterr().out

    monkeypatch.chdir(tmp_path)
    assert run_script("prepare", "show", out.join("32x32").uri, "--verify", "-n", "4") == 0
    assert "every file is as it was prepared" in capsys.readouterr().out
    assert (tmp_path / "32x32-images.png").exists()
    picture = s3.join("pictures", "sheet.png")
    assert run_script("prepare", "show", out.join("64x64").uri, "--out", picture.uri) == 0
    assert picture.parent.read_bytes("sheet.png").startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_preparation_in_a_bucket_goes_on(ray_session: str, s3: Folder, tmp_path: Path) -> None:
    images, table = write_celeba_layout(tmp_path, 40)
    source = celeba(str(images), str(table))

    def interrupt(done: int, total: int, rate: float) -> None:
        if done >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(source, [Target(s3, SMALL)], 1, interrupt)
    assert not s3.exists("manifest.json")
    # Ray's tasks may have gone on to the end; one file is lost.
    s3.delete_file(next(name for name in s3.names() if name.endswith(".parquet")))
    totals: list[int] = []
    [manifest] = prepare(
        source, [Target(s3, SMALL)], 1, lambda done, total, rate: totals.append(total)
    )
    assert 0 < totals[-1] < 40
    assert verify(s3, manifest) == []
    others = [name for name in s3.names() if not name.endswith(".parquet")]
    assert others == ["manifest.json", "raygen.json"]


def test_names_that_lead_out_of_a_folder_in_a_bucket_are_not_followed(s3: Folder) -> None:
    bucket, _, prefix = s3.path.partition("/")
    store = boto3.client("s3")
    for name in ("a.png", "../other/b.png", "sub/../../c.png", "../manifest.json"):
        store.put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=b"content")
    found = Files.open(s3.uri, "--images")
    assert found.paths == ["a.png"]
    assert found.read(0) == b"content"
    assert s3.names() == ["a.png", "sub"]


def test_folders_and_archives_in_a_bucket_are_listed_and_read(s3: Folder, tmp_path: Path) -> None:
    contents = {"a b/1.jpg": b"one" * 9000, "a b/ü.png": b"two", "readme.md": b"text"}
    for name, data in contents.items():
        s3.join("set").write_bytes(name, data)
    packed, tar = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive, tarfile.open(fileobj=tar, mode="w") as other:
        for name, data in contents.items():
            archive.writestr(name, data)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            other.addfile(member, io.BytesIO(data))
    s3.write_bytes("set.zip", packed.getvalue())
    s3.write_bytes("set.tar", tar.getvalue())
    for name, kind in (("set", "folder"), ("set.zip", "zip"), ("set.tar", "tar")):
        found = Files.open(s3.join(name).uri, "--images")
        assert (found.container, found.paths) == (kind, ["a b/1.jpg", "a b/ü.png"])
        assert found.ignored == ["readme.md"]
        for number in (1, 0):
            assert found.read(number) == contents[found.paths[number]]
    with pytest.raises(UserError, match="--images .*nothing.*: no such file or folder"):
        Files.open(s3.join("nothing").uri, "--images")


def test_hugging_faces_datasets_are_read_from_a_bucket(s3: Folder, tmp_path: Path) -> None:
    write_saved(tmp_path / "saved", [range(7), range(7, 12)])
    upload(tmp_path / "saved", s3)
    there, here = huggingface(s3.uri), huggingface(str(tmp_path / "saved"))
    assert there.ids == here.ids
    for position in range(12):
        (image, values), (same, expected) = load_image(there, position), load_image(here, position)
        assert (image.tobytes(), values) == (same.tobytes(), expected)


@pytest.mark.parametrize("reader", ["direct", pytest.param("ray-data", marks=pytest.mark.slow)])
def test_a_stream_reads_a_bucket(
    s3: Folder, tmp_path: Path, reader: Reader, request: pytest.FixtureRequest
) -> None:
    if reader == "ray-data":
        request.getfixturevalue("ray_session")
    manifest, pixels = write_dataset(tmp_path, (13, 7, 11, 6), (4,))
    upload(tmp_path, s3)
    stream = ImageStream(s3, Manifest.load(s3), TRAIN, 8, 3)

    def batches(rank: int, world_size: int) -> Iterator[Rows]:
        read: ReadAhead = RayDataReader(ReadTasks(10**9)) if reader == "ray-data" else own_threads
        return stream.batches(0, 12, rank, world_size, read)

    whole = list(batches(0, 1))
    assert sum(len(batch.rows) for batch in whole) == 96
    for batch in whole:
        assert np.array_equal(batch.images, pixels[TRAIN][batch.rows])
    for rank in range(2):
        for batch, half in zip(whole, batches(rank, 2), strict=True):
            assert np.array_equal(half.rows, batch.rows[4 * rank : 4 * rank + 4])
    reader_ = ShardReader(s3, manifest, VALIDATION)
    assert reader_.ids() == [f"validation{k}" for k in range(4)]


def test_a_damaged_or_missing_shard_in_a_bucket_is_named(s3: Folder, tmp_path: Path) -> None:
    manifest, _ = write_dataset(tmp_path, (13, 7, 11, 6))
    damage(tmp_path / "train-00002.parquet")
    upload(tmp_path, s3)
    with pytest.raises(ShardError, match=r"train-00002\.parquet.*: is damaged"):
        list(ImageStream(s3, manifest, TRAIN, 8, 3).batches(0, 5))
    s3.delete_file("train-00001.parquet")
    with pytest.raises(ShardError, match=r"train-00001\.parquet.*: is missing"):
        Manifest.load(s3)
    with pytest.raises(ShardError, match=r"train-00001\.parquet.*: is missing"):
        ShardReader(s3, manifest, TRAIN).images(np.arange(13, 20))
