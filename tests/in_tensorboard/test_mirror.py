"""A local copy of what TensorBoard reads."""

import os
from pathlib import Path

import boto3
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

from raygen.core.status import Position
from raygen.core.storage import Folder
from raygen.tensorboard import hparams
from raygen.tensorboard import mirror as mirror_module
from raygen.tensorboard.mirror import Mirror
from raygen.tensorboard.projector import Codes, write_projector
from raygen.tensorboard.run_log import RunLog
from raygen.training.run import RunFolder


def files(path: Path) -> list[str]:
    return sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())


def scalars(path: Path, tag: str) -> list[float]:
    events = EventAccumulator(str(path))
    events.Reload()
    return [event.value for event in events.Scalars(tag)]


def test_the_copy_follows_runs_in_an_object_store(s3: Folder, tmp_path: Path) -> None:
    mirror = Mirror(s3, str(tmp_path))
    assert mirror.update() == 0
    trial = RunFolder(s3.join("sweep", "trials", "001"))
    copy = tmp_path / "sweep/trials/001"
    with RunLog(trial.folder, 0) as log:
        log.scalars({"loss/total": 3.0}, Position(images_seen=10))
        log.picture("samples", np.zeros((2, 2, 3), np.uint8), 10)
        log.flush()
        assert mirror.update() == 1
        assert scalars(copy, "loss/total") == [3.0]
        # Pictures and checkpoints are not fetched: the events hold what is shown.
        [events] = [path for path in copy.iterdir() if path.is_file()]
        assert files(tmp_path) == [str(events.relative_to(tmp_path))]
        assert mirror.update() == 0

        before = events.stat()
        beginning = events.read_bytes()
        log.scalars({"loss/total": 2.0}, Position(images_seen=20))
        log.flush()
        assert mirror.update() == 1
        assert scalars(copy, "loss/total") == [3.0, 2.0]
        # Only what is new was written, at the end: TensorBoard has the file open.
        assert events.stat().st_ino == before.st_ino
        assert events.read_bytes().startswith(beginning)


def test_other_files_are_replaced_and_deleted_ones_forgotten(s3: Folder, tmp_path: Path) -> None:
    mirror = Mirror(s3, str(tmp_path))
    run = s3.join("vae")
    images = np.zeros((2, 4, 4, 3), np.uint8)
    for value in (1.0, 2.0):
        codes = np.full((2, 3), value)
        write_projector(run, Codes(codes, images, ["a", "b"], (), np.zeros((2, 0))))
        assert mirror.update() >= 1
        shown = np.loadtxt(tmp_path / "vae/projector/codes.tsv")
        assert np.array_equal(shown, codes)
    assert files(tmp_path) == [
        "vae/projector/codes.tsv",
        "vae/projector/images.tsv",
        "vae/projector/thumbnails.png",
        "vae/projector_config.pbtxt",
    ]
    run.delete()
    assert mirror.update() == 4
    assert list(tmp_path.iterdir()) == []


def test_records_that_are_written_anew_are_not_taken_for_grown_ones(
    s3: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_module, "SETTLED_SECONDS", 10.0)
    mirror = Mirror(s3, str(tmp_path))
    for text in (b"short", b"other", b"a longer one"):
        s3.join("trial").write_bytes(hparams.FIRST, text)
        assert mirror.update() == 1
        assert (tmp_path / "trial" / hparams.FIRST).read_bytes() == text


def test_tensorboard_forgets_what_is_deleted_and_shows_what_began_anew(
    s3: Folder, tmp_path: Path
) -> None:
    mirror, shown = Mirror(s3, str(tmp_path)), EventMultiplexer()

    def look() -> dict[str, list[float]]:
        mirror.update()
        shown.AddRunsFromDirectory(str(tmp_path)).Reload()
        return {run: [e.value for e in shown.Scalars(run, "loss")] for run in shown.Runs()}

    def write(name: str, value: float) -> None:
        with RunLog(s3.join(name), 0) as log:
            log.scalars({"loss": value}, Position(images_seen=10))
        hparams.write_end(s3.join(name), True)

    write("one", 1.0)
    write("sweep/trials/000", 2.0)
    assert look() == {"one": [1.0], "sweep/trials/000": [2.0]}
    s3.join("one").delete()
    s3.join("sweep").delete()
    assert look() == {}
    write("sweep/trials/000", 3.0)
    assert look() == {"sweep/trials/000": [3.0]}


def test_the_newest_runs_are_fetched_first_and_the_rest_later(tmp_path: Path) -> None:
    for number, age in enumerate((300, 100, 200)):
        run = tmp_path / f"runs/{number}"
        hparams.write_end(Folder.at(run), True)
        with RunLog(Folder.at(run), 0) as log:
            log.scalars({"loss": 1.0}, Position(images_seen=10))
        for path in run.iterdir():
            os.utime(path, (1e9 - age, 1e9 - age))
    mirror = Mirror(Folder.at(tmp_path / "runs"), str(tmp_path / "copy"))
    # Less time than any file takes.
    for left in (5, 5):
        mirror.update(seconds=0)
        assert len(mirror.missing) == left
        assert {name[0] for name in files(tmp_path / "copy")} == {"1"}
    assert mirror.update() == 5
    assert not mirror.missing
    events = [name for name in files(tmp_path / "runs") if "tfevents" in name]
    assert files(tmp_path / "copy") == events


def test_no_unfinished_file_has_a_name_that_tensorboard_takes(
    s3: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[str] = []
    replace = os.replace

    def note(source: str, target: str) -> None:
        moved.append(os.path.basename(source))
        replace(source, target)

    monkeypatch.setattr(os, "replace", note)
    for place in (s3, Folder.at(tmp_path / "runs")):
        hparams.write_end(place.join("trial"), True)
    Mirror(s3, str(tmp_path / "copy")).update()
    assert len(moved) == 2
    assert not any("tfevents" in name for name in moved)


def test_names_that_lead_out_of_the_copy_are_left_out(s3: Folder, tmp_path: Path) -> None:
    bucket, _, prefix = s3.path.partition("/")
    good, bad = b"good", b"written by a stranger"
    wanted = ["another/events.out.tfevents.2", "run/events.out.tfevents.1"]
    hostile = [
        "run/../../../outside/tfevents.pth",
        "../tfevents",
        "./tfevents",
        "/tfevents",
        "run//tfevents",
        "run\\..\\tfevents",
        "C:/tfevents",
        "run/tfevents" + "s" * 255,
        "run/projector/" + "s" * 256,
    ]
    store = boto3.client("s3")
    for names, content in ((wanted, good), (hostile, bad)):
        for name in names:
            store.put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=content)
    mirror = Mirror(s3, str(tmp_path / "some/copy"))
    for changed in (len(wanted), 0):
        assert mirror.update() == changed
        assert mirror.refused == set(hostile)
        assert files(tmp_path) == [f"some/copy/{name}" for name in wanted]


def test_of_a_file_and_a_folder_of_one_name_the_copy_has_one(s3: Folder, tmp_path: Path) -> None:
    # An object store has both; either may be fetched first.
    names = {"run/tfevents", "run/tfevents/tfevents"}
    s3.join("run").write_bytes("tfevents", b"1")
    s3.join("run", "tfevents").write_bytes("tfevents", b"2")
    s3.join("other").write_bytes("tfevents", b"3")
    mirror = Mirror(s3, str(tmp_path))
    mirror.update()
    assert mirror.refused < names
    assert set(files(tmp_path)) == (names - mirror.refused) | {"other/tfevents"}


def test_a_link_in_the_copy_leads_no_write_elsewhere(s3: Folder, tmp_path: Path) -> None:
    for name in ("one/tfevents", "two/tfevents"):
        folder, _, file = name.partition("/")
        s3.join(folder).write_bytes(file, b"stranger")
    (tmp_path / "copy/two").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/tfevents").write_bytes(b"mine")
    (tmp_path / "copy/one").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "copy/two/tfevents").symlink_to(tmp_path / "elsewhere/tfevents")
    mirror = Mirror(s3, str(tmp_path / "copy"))
    mirror.update()
    assert mirror.refused == {"one/tfevents", "two/tfevents"}
    assert (tmp_path / "elsewhere/tfevents").read_bytes() == b"mine"
    assert files(tmp_path / "elsewhere") == ["tfevents"]
