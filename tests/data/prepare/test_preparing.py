"""Preparing datasets: exact, the same every time, resumed, and honest about what was left out."""

import errno
import hashlib
import json
import os
import signal
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import load_image
from PIL import Image

from raygen.config.run import ImageFormat
from raygen.core.checked import parse
from raygen.core.errors import RunError, ShardError, UserError
from raygen.core.marker import MARKER
from raygen.core.storage import Folder
from raygen.data.images import fit_image, fit_images
from raygen.data.prepare import prepare as module
from raygen.data.prepare.parts import Record, Target, make_part, plan_parts
from raygen.data.prepare.prepare import delete_dataset, prepare
from raygen.data.shards.manifest import MANIFEST, Manifest, ShardFile
from raygen.data.shards.reader import ShardReader
from raygen.data.sources.drawn import DrawnFaces
from raygen.data.sources.drawn_faces import write_celeba_layout
from raygen.data.sources.image_files import celeba, folder
from raygen.data.sources.source import Source
from raygen.data.splits import TEST, TRAIN, VALIDATION

SMALL = ImageFormat(32, 32, 150)
LARGE = ImageFormat(109, 89)


@pytest.fixture(autouse=True)
def for_workers() -> Iterator[None]:
    """Classes of this file are sent to Ray's workers as they are: these cannot import it."""
    # Imported after raygen, which sets how Ray is to start its processes.
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def one(source: Source, path: Path, image: ImageFormat = SMALL, **options: Any) -> Manifest:
    [manifest] = prepare(source, [Target(Folder.at(path), image)], 1, **options)
    return manifest


def files_of(path: Path) -> dict[str, str]:
    """Each file's digest, those in folders too."""
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in path.rglob("*")
        if file.is_file()
    }


@pytest.mark.slow
def test_a_prepared_dataset_holds_the_sources_images_bit_for_bit(
    ray_session: str, tmp_path: Path
) -> None:
    source, place = DrawnFaces(103, seed=5), Folder.at(tmp_path / "faces")
    seen: list[tuple[int, int]] = []
    [manifest] = prepare(
        source, [Target(place, SMALL)], 2, lambda done, total, rate: seen.append((done, total))
    )
    assert Manifest.load(place) == manifest
    assert seen[-1] == (103, 103)
    assert {split: manifest.rows(split) for split in manifest.splits} == {
        TRAIN: 82,
        VALIDATION: 11,
        TEST: 10,
    }
    assert all(len(files) == 8 for files in manifest.splits.values())
    assert manifest.attributes == source.attributes
    for split, positions in source.splits().items():
        expected = np.stack([fit_image(load_image(source, p)[0], SMALL) for p in positions])
        reader = ShardReader(place, manifest, split)
        assert np.array_equal(reader.images(np.arange(manifest.rows(split))), expected)
        assert reader.ids() == [source.ids[p] for p in positions]

    first = manifest.splits[TRAIN][0]
    table = pq.read_table(tmp_path / "faces" / first.name)
    assert table.schema.field("image").type == pa.binary(32 * 32 * 3)
    # A signed byte for each attribute.
    assert [np.frombuffer(v, np.int8).tolist() for v in table.column("attributes").to_pylist()] == [
        load_image(source, p)[1] for p in range(first.rows)
    ]
    column = pq.ParquetFile(tmp_path / "faces" / first.name).metadata.row_group(0).column(0)
    assert column.compression == "UNCOMPRESSED"
    assert "PLAIN" in column.encodings
    assert not column.has_dictionary_page


@pytest.mark.slow
def test_several_sizes_are_prepared_together(ray_session: str, tmp_path: Path) -> None:
    images, table = write_celeba_layout(tmp_path / "celeba", 40)
    source = celeba(str(images), str(table))
    formats = [LARGE, SMALL]
    targets = [Target(Folder.at(tmp_path / image.size), image) for image in formats]
    manifests = prepare(source, targets, 1)
    for split, positions in source.splits().items():
        expected = [fit_images(load_image(source, p)[0], formats) for p in positions]
        for number, (target, manifest) in enumerate(zip(targets, manifests, strict=True)):
            assert Manifest.load(target.folder) == manifest
            assert manifest.decoded_for == ("109x89", "32x32")
            reader = ShardReader(target.folder, manifest, split)
            pixels = reader.images(np.arange(manifest.rows(split)))
            assert np.array_equal(pixels, np.stack([images[number] for images in expected]))
            assert reader.ids() == [source.ids[p] for p in positions]
    # The files of a size are cut the same way whether it is alone or not.
    alone = one(source, tmp_path / "alone")
    assert [f.row_groups for f in alone.splits[TRAIN]] == [
        f.row_groups for f in manifests[1].splits[TRAIN]
    ]
    # One of them is missing: only that is made again, and is the same.
    before = files_of(tmp_path / "32x32")
    delete_dataset(targets[1].folder)
    seen: list[int] = []
    prepare(source, targets, 1, lambda done, total, rate: seen.append(total))
    assert files_of(tmp_path / "32x32") == before
    assert seen[-1] == 40
    # As a job leaves it that is killed between the manifest and the end.
    targets[1].records.write_json("plan.json", {})
    assert prepare(source, targets, 1)[1] == manifests[1]
    assert files_of(tmp_path / "32x32") == before


@pytest.mark.slow
def test_the_result_is_the_same_for_any_order_and_number_of_processors(
    ray_session: str, tmp_path: Path
) -> None:
    images, table = write_celeba_layout(tmp_path / "celeba", 30)
    source = celeba(str(images), str(table))
    one(source, tmp_path / "ray")
    target = Target(Folder.at(tmp_path / "alone"), SMALL)
    # In this process alone, the last part first.
    parts = plan_parts(source.splits(), [target.image_bytes], 1)
    for part in reversed(parts):
        make_part(source, source.ids, [target], part)
    made, alone = files_of(tmp_path / "ray"), files_of(tmp_path / "alone")
    shards = {name: digest for name, digest in alone.items() if name.endswith(".parquet")}
    assert len(shards) == 4 + 3 + 3
    assert shards == {name: d for name, d in made.items() if name.endswith(".parquet")}
    assert set(made) - set(shards) == {MANIFEST, MARKER}


@pytest.mark.slow
def test_what_is_prepared_already_is_kept_and_nothing_else_is_overwritten(
    ray_session: str, tmp_path: Path
) -> None:
    manifest = one(DrawnFaces(20), tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    before = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    assert one(DrawnFaces(20), tmp_path) == manifest
    assert {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == before
    for source, target in ((DrawnFaces(21), SMALL), (DrawnFaces(20), ImageFormat(16, 16))):
        with pytest.raises(
            UserError, match=r"holds another dataset \(20 images of drawn in 32x32\)"
        ):
            one(source, tmp_path, target)
    delete_dataset(Folder.at(tmp_path))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["notes.txt", MARKER]
    again = one(DrawnFaces(24), tmp_path, ImageFormat(16, 16))
    assert (again.size, again.rows(TRAIN)) == ("16x16", 19)


@pytest.mark.slow
def test_an_interrupted_preparation_goes_on_with_what_is_missing(
    ray_session: str, tmp_path: Path
) -> None:
    source = DrawnFaces(40)
    whole = one(source, tmp_path / "whole")

    def interrupt(done: int, total: int, rate: float) -> None:
        if done >= 20:
            raise KeyboardInterrupt

    path = tmp_path / "again"
    with pytest.raises(KeyboardInterrupt):
        one(source, path, progress=interrupt)
    with pytest.raises(ShardError, match=r"holds no manifest\.json"):
        Manifest.load(Folder.at(path))
    for other in (DrawnFaces(41), DrawnFaces(40, seed=1)):
        with pytest.raises(UserError, match="holds a half-made dataset of other images"):
            one(other, path)
    # Ray's tasks may still be writing; what counts is what the second call finds.
    finished = {name: (path / name).stat().st_mtime_ns for name in records(path)}
    assert finished
    # A file that was lost, or cut off, is made again too.
    lost, short, *kept = sorted(finished)
    (path / lost).unlink()
    # What a killed process leaves behind.
    (path / f".{'a' * 32}.tmp").write_bytes(b"half")
    (path / f".prepare/.{'b' * 32}.tmp").write_bytes(b"{")
    (path / short).write_bytes((path / short).read_bytes()[:-1])
    totals: list[int] = []
    assert one(source, path, progress=lambda done, total, rate: totals.append(total)) == whole
    assert totals[-1] <= 40 - sum(pq.read_metadata(path / name).num_rows for name in kept)
    assert all((path / name).stat().st_mtime_ns == finished[name] for name in kept)
    assert files_of(path) == files_of(tmp_path / "whole")


def records(path: Path) -> list[str]:
    return [file.name.removesuffix(".json") for file in path.glob(".prepare/*.parquet.json")]


def spoil(images: Path) -> None:
    """Make two of the pictures in a folder unreadable, and put another kind of file beside them."""
    (images / "000003.jpg").write_bytes(b"no picture")
    (images / "000019.jpg").write_bytes((images / "000019.jpg").read_bytes()[:900])
    (images / "list.txt").write_text("some text")


@pytest.mark.slow
def test_images_that_cannot_be_read_are_listed_and_left_out(
    ray_session: str, tmp_path: Path
) -> None:
    images, table = write_celeba_layout(tmp_path / "celeba", 20)
    with zipfile.ZipFile(images) as archive:
        archive.extractall(tmp_path / "unpacked")
    spoil(tmp_path / "unpacked/img_align_celeba")
    source = celeba(str(tmp_path / "unpacked"), str(table))
    target = Target(Folder.at(tmp_path / "out"), SMALL)
    with pytest.raises(UserError, match=r"--max-rejected: 2 of 20 images cannot be read, 1 may"):
        prepare(source, [target], 1, allowed=1)
    assert not target.folder.exists(MANIFEST)
    totals: list[int] = []
    [manifest] = prepare(source, [target], 1, lambda done, total, rate: totals.append(total), 2)
    # All else was done.
    assert totals == []
    # A dataset that is there already is measured by the same rule.
    with pytest.raises(UserError, match=r"--max-rejected: 2 of 20"):
        prepare(source, [target], 1, allowed=1)
    assert [manifest.rows(split) for split in (TRAIN, VALIDATION, TEST)] == [15, 2, 1]
    assert [entry["id"] for entry in manifest.rejected] == ["000003.jpg", "000019.jpg"]
    assert [entry["split"] for entry in manifest.rejected] == [TRAIN, TEST]
    assert "not an image" in manifest.rejected[0]["reason"]
    assert "truncated" in manifest.rejected[1]["reason"]
    assert manifest.ignored == ("img_align_celeba/list.txt",)
    for split in (TRAIN, VALIDATION, TEST):
        reader = ShardReader(target.folder, manifest, split)
        ids = reader.ids()
        assert not {"000003.jpg", "000019.jpg"} & set(ids)
        # Each image still has its own attributes.
        smiling = source.attributes.index("Smiling")
        assert reader.attribute("Smiling").tolist() == [
            source.values[source.ids.index(name)][smiling] for name in ids
        ]
        expected = [fit_image(load_image(source, source.ids.index(name))[0], SMALL) for name in ids]
        assert np.array_equal(reader.images(np.arange(len(ids))), np.stack(expected))


@pytest.mark.slow
def test_a_split_without_a_single_readable_image_is_an_error(
    ray_session: str, tmp_path: Path
) -> None:
    _, table = write_celeba_layout(tmp_path, 5)
    broken = tmp_path / "broken"
    broken.mkdir()
    for number in range(1, 6):
        (broken / f"{number:06d}.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"no image for train could be read; .*000001\.jpg: empty"):
        one(celeba(str(broken), str(table)), tmp_path / "out")


@pytest.mark.parametrize("name", ["", "cat"])
def test_attributes_that_cannot_be_told_apart_are_refused(tmp_path: Path, name: str) -> None:
    @dataclass(frozen=True)
    class Named(DrawnFaces):
        @property
        def attributes(self) -> tuple[str, ...]:
            return ("cat", name)

    with pytest.raises(UserError, match=f"attribute 2, '{name}', (is|appears)"):
        one(Named(20), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@dataclass(frozen=True)
class Slow(DrawnFaces):
    """A source whose images take their time until a file is there."""

    hurry: str = ""

    def open(self, position: int, data: bytes) -> tuple[Image.Image, list[int]]:
        if not os.path.exists(self.hurry):
            time.sleep(0.5)
        return super().open(position, data)


@pytest.mark.slow
def test_progress_is_told_before_the_first_file_is_done(ray_session: str, tmp_path: Path) -> None:
    told: list[int] = []
    early: list[int] = []

    def progress(done: int, total: int, rate: float) -> None:
        assert total == 200
        told.append(done)
        if done:
            if not records(tmp_path / "out"):
                early.append(done)
            (tmp_path / "hurry").touch()

    one(Slow(200, hurry=str(tmp_path / "hurry")), tmp_path / "out", progress=progress)
    assert early
    assert told == sorted(told)
    assert told[-1] == 200


@pytest.mark.slow
def test_what_progress_raises_ends_the_preparation(ray_session: str, tmp_path: Path) -> None:
    def progress(done: int, total: int, rate: float) -> None:
        # At the first that is told from beside the work, or at the end of a task.
        (tmp_path / "hurry").touch()
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        one(Slow(40, hurry=str(tmp_path / "hurry")), tmp_path / "out", progress=progress)
    assert not (tmp_path / "out" / MANIFEST).exists()


@dataclass(frozen=True)
class Deadly(DrawnFaces):
    """A source of which one image kills the process that opens it."""

    def open(self, position: int, data: bytes) -> tuple[Image.Image, list[int]]:
        if position == 25:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().open(position, data)


@pytest.mark.slow
def test_an_image_that_kills_its_process_ends_the_job(ray_session: str, tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"process that prepared the images 000025.jpg to 000032.jpg died 4"
    ):
        one(Deadly(40), tmp_path)
    assert records(tmp_path)


@dataclass(frozen=True)
class FullFolder(Folder):
    """A folder on a disk that has room for the first two shards."""

    def write_bytes(self, name: str, data: bytes) -> None:
        if name.endswith(".parquet") and len(list(Path(self.path).glob("*.parquet"))) >= 2:
            raise OSError(errno.ENOSPC, "No space left on device", name)
        super().write_bytes(name, data)


@pytest.mark.slow
def test_a_full_disk_is_told_and_what_is_finished_is_used(ray_session: str, tmp_path: Path) -> None:
    source, path = DrawnFaces(40), tmp_path / "out"
    place = Folder.at(path)
    full = FullFolder(place.uri, place.filesystem, place.path)
    with pytest.raises(RunError, match=r"--out .*out: .*No space left on device.*\n.*is kept"):
        prepare(source, [Target(full, SMALL)], 1)
    finished = records(path)
    assert len(finished) == 2
    before = {name: (path / name).stat().st_mtime_ns for name in finished}
    assert not list(path.glob("*.tmp"))
    one(source, path)
    assert {name: (path / name).stat().st_mtime_ns for name in finished} == before
    one(source, tmp_path / "whole")
    assert files_of(path) == files_of(tmp_path / "whole")


@pytest.mark.slow
def test_a_file_that_did_not_open_is_tried_again(ray_session: str, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(20):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(images / f"{number}.png")
    (images / "3.png").unlink()
    elsewhere = tmp_path / "elsewhere.png"
    (images / "3.png").symlink_to(elsewhere)
    target = Target(Folder.at(tmp_path / "out"), ImageFormat(8, 8))
    with pytest.raises(UserError, match=r"--max-rejected: 1 of 20 .*3\.png \(cannot be read"):
        prepare(folder(str(images)), [target], 1, allowed=0)
    Image.new("RGB", (8, 8), (3, 0, 0)).save(elsewhere)
    source = folder(str(images))
    # Its size is known only now, so to the plan it is another set of images.
    with pytest.raises(UserError, match="half-made dataset of other images"):
        prepare(source, [target], 1, allowed=0)
    delete_dataset(target.folder)
    [manifest] = prepare(source, [target], 1, allowed=0)
    assert manifest.rejected == ()


@pytest.mark.slow
def test_a_test_split_that_cannot_be_read_is_left_out(ray_session: str, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(20):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(images / f"{number}.png")
    source = folder(str(images))
    [tested] = [source.ids[k] for k in source.splits()[TEST]]
    (images / tested).write_bytes(b"no picture")
    manifest = one(folder(str(images)), tmp_path / "out", ImageFormat(8, 8))
    assert {split: manifest.rows(split) for split in manifest.splits} == {TRAIN: 18, VALIDATION: 1}
    assert [entry["id"] for entry in manifest.rejected] == [tested]
    # The other splits are needed.
    [validated] = [source.ids[k] for k in source.splits()[VALIDATION]]
    (images / validated).write_bytes(b"no picture")
    with pytest.raises(UserError, match="no image for validation could be read"):
        one(folder(str(images)), tmp_path / "other", ImageFormat(8, 8))


def test_records_of_unreadable_files_do_not_count() -> None:
    def record(reason: str) -> Record:
        return Record(None, [{"id": "1.png", "split": TRAIN, "reason": reason}])

    assert module._holds(record("empty file"), {})
    assert not module._holds(record("cannot be read (Permission denied)"), {})


@pytest.mark.parametrize(
    ("count", "image_bytes", "workers"),
    [
        (1000, [3072], 4),
        (7, [3072], 4),
        (200_000, [116_412], 2),
        (200_000, [116_412, 3072], 4),
        (202_599, [116_412, 3072, 12_288], 1),
        (30, [400_000_000, 3072], 1),
    ],
)
def test_files_hold_all_rows_in_useful_sizes(
    count: int, image_bytes: list[int], workers: int
) -> None:
    bounds = count * 3 // 5, count * 4 // 5
    # The splits need not follow one another as they are named.
    splits = {TRAIN: range(bounds[0]), VALIDATION: range(bounds[1], count), TEST: range(*bounds)}
    parts = plan_parts(splits, image_bytes, workers)
    for part in parts:
        # All targets' files hold the same images.
        covered = [[p for f in files for p in range(f.start, f.stop)] for files in part]
        assert all(positions == covered[0] for positions in covered)
    for number, size in enumerate(image_bytes):
        files = [file for part in parts for file in part[number]]
        assert [p for f in files for p in range(f.start, f.stop)] == list(range(count))
        assert len({file.name for file in files}) == len(files)
        for split, positions in splits.items():
            mine = [file for file in files if file.split == split]
            assert [f"{split}-{k:05d}.parquet" for k in range(len(mine))] == [f.name for f in mine]
            assert len(mine) >= min(4 * workers, len(positions))
            assert max(f.stop - f.start for f in mine) * size <= max(64 * 2**20 + size, size)
        [alone] = [plan_parts(splits, [size], workers)]
        assert [file for part in alone for file in part[0]] == files


def test_an_empty_split_has_no_files() -> None:
    assert plan_parts({TRAIN: range(3), VALIDATION: range(3, 3)}, [3072], 1)[-1][0][0].stop == 3


def test_records_survive_json() -> None:
    shard = ShardFile("train-00000.parquet", 3, 100, "ab" * 32, (2, 1))
    rejected = [{"id": "1", "split": "train", "reason": "x"}]
    for record in (Record(shard, []), Record(None, rejected)):
        values = parse(json.dumps(record.to_json()).encode(), "record.json")
        assert Record.from_json(values, 12) == record
    with pytest.raises(UserError, match="file.bytes is 100, but must be room for 3 images of 48"):
        Record.from_json(parse(json.dumps(Record(shard, []).to_json()).encode(), "a.json"), 48)
