"""Datasets of versions that made no test split: kept, completed and trained on as they are."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raygen.config.run import PRESETS, ImageFormat
from raygen.core import marker
from raygen.core.errors import RunError, UserError
from raygen.core.progress import ProgressLine
from raygen.core.storage import Folder
from raygen.data.dataset import draw_as_begun, draw_dataset, open_dataset
from raygen.data.prepare import prepare as module
from raygen.data.prepare.parts import Part, Record, Target, make_part
from raygen.data.prepare.prepare import as_begun, prepare
from raygen.data.shards.manifest import MANIFEST, Manifest
from raygen.data.sources.drawn import DrawnFaces, drawn_folder, find_drawn
from raygen.data.sources.source import Source
from raygen.data.splits import TEST, TRAIN, VALIDATION

SMALL, LARGE = ImageFormat(32, 32, 150), ImageFormat(40, 30)
FACES = DrawnFaces(24)
OLDER = replace(FACES, test_share=0.0)
ALL = "make_all"
CONFIG = PRESETS["dcgan-celeba"].updated({"drawn_count": 24}, "test")


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have parts made in this process."""

    def make_all(
        source: Source, targets: Sequence[Target], parts: list[Part], progress: Any = None
    ) -> list[dict[str, Record]]:
        records: list[dict[str, Record]] = [{} for _ in targets]
        for part in parts:
            for known, made in zip(
                records, make_part(source, source.ids, targets, part), strict=True
            ):
                known |= made
        return records

    monkeypatch.setattr(module, ALL, make_all)


def at(path: Path, image: ImageFormat = SMALL) -> Target:
    return Target(Folder.at(path), image)


def files_of(path: Path) -> dict[str, tuple[str, int]]:
    """Each file's digest, and the time at which it was written."""
    return {
        str(file.relative_to(path)): (
            hashlib.sha256(file.read_bytes()).hexdigest(),
            file.stat().st_mtime_ns,
        )
        for file in path.rglob("*")
        if file.is_file()
    }


def counts(manifest: Manifest) -> dict[str, int]:
    return {split: manifest.rows(split) for split in manifest.splits}


def begin(source: Source, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin a dataset whose preparation ends before its last part."""
    whole: Any = getattr(module, ALL)

    def fails(source: Source, targets: Sequence[Target], parts: list[Part], *more: Any) -> None:
        whole(source, targets, parts[:-1])
        raise RunError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(module, ALL, fails)
        with pytest.raises(RunError):
            prepare(source, [target], 1)
    assert not target.folder.exists(MANIFEST)


def test_a_finished_dataset_is_left_as_it_is(tmp_path: Path) -> None:
    target = at(tmp_path / "faces")
    [older] = prepare(OLDER, [target], 1)
    assert counts(older) == {TRAIN: 19, VALIDATION: 5}
    before = files_of(tmp_path)
    source = as_begun(FACES, [target])
    assert source == OLDER
    assert prepare(source, [target], 1) == [older]
    assert files_of(tmp_path) == before
    # Another size is divided like the one that exists, and leaves that alone.
    other = at(tmp_path / "large", LARGE)
    assert as_begun(FACES, [target, other]) == OLDER
    _, larger = prepare(as_begun(FACES, [target, other]), [target, other], 1)
    assert counts(larger) == counts(older)
    assert files_of(tmp_path / "faces") == {
        name.removeprefix("faces/"): about for name, about in before.items()
    }
    # It is replaced if that is asked for.
    [manifest] = prepare(FACES, [target], 1, restart=True)
    assert counts(manifest) == {TRAIN: 19, VALIDATION: 3, TEST: 2}


def test_a_half_made_dataset_is_completed_as_it_was_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [whole] = prepare(OLDER, [at(tmp_path / "whole")], 1)
    target = at(tmp_path / "begun")
    begin(OLDER, target, monkeypatch)
    # Never in another way.
    with pytest.raises(UserError, match="holds a half-made dataset of other images or options"):
        prepare(FACES, [target], 1)
    made = {n: about for n, about in files_of(tmp_path / "begun").items() if "train" in n}
    assert made
    source = as_begun(FACES, [target])
    assert source == OLDER
    assert prepare(source, [target], 1) == [whole]
    assert made.items() <= files_of(tmp_path / "begun").items() | made.items()
    assert all(
        files_of(tmp_path / "begun")[name] == about
        for name, about in made.items()
        if name.endswith(".parquet")
    )


def test_what_has_a_test_split_or_is_being_deleted_is_not_older(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older, newer, begun, empty = (at(tmp_path / name) for name in ("a", "b", "c", "d"))
    prepare(OLDER, [older], 1)
    prepare(FACES, [newer], 1)
    begin(FACES, begun, monkeypatch)
    for targets in ([newer], [begun], [empty], [newer, empty], [older, newer]):
        assert as_begun(FACES, targets) == FACES
    # Datasets of both kinds are not made to agree.
    with pytest.raises(UserError, match="already holds another dataset"):
        prepare(FACES, [older, newer], 1)
    # What was asked for is what is made.
    chosen = replace(FACES, test_share=0.1)
    assert as_begun(chosen, [older]) == chosen
    with pytest.raises(UserError, match=r"already holds another dataset .*--restart"):
        prepare(chosen, [older], 1)
    assert as_begun(OLDER, [older]) == OLDER
    marker.write(older.folder, "dataset", deleting=True)
    assert as_begun(FACES, [older]) == FACES
    # Other images are other images, whatever their splits.
    assert as_begun(DrawnFaces(25), [newer]) == DrawnFaces(25)


def draw_older(storage: Folder) -> Manifest:
    """The drawn faces of a run's that was begun before there were test splits."""
    folder = drawn_folder(storage, CONFIG.image.of_faces, 24, tested=False)
    [manifest] = prepare(OLDER, [Target(folder, CONFIG.image.of_faces)])
    return manifest


def test_a_new_run_s_faces_have_a_test_split_and_older_ones_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ProgressLine()
    data, manifest = open_dataset(CONFIG, str(tmp_path))
    assert manifest is None
    assert counts(draw_dataset(CONFIG, data, line)) == {TRAIN: 19, VALIDATION: 3, TEST: 2}
    assert "drawn again" not in capsys.readouterr().out
    storage = Folder.at(tmp_path / "older")
    older = draw_older(storage)
    before = files_of(tmp_path / "older")
    data, _ = open_dataset(CONFIG, storage.uri)
    drawn = draw_dataset(CONFIG, data, line)
    assert counts(drawn) == {TRAIN: 19, VALIDATION: 3, TEST: 2}
    said = capsys.readouterr().out
    assert "faces are drawn again, now with a test split; those without one are kept" in said
    assert before.items() <= files_of(tmp_path / "older").items()
    # It is said once, and the training images are the same.
    draw_dataset(CONFIG, data, line)
    assert "drawn again" not in capsys.readouterr().out
    assert [f.sha256 for f in drawn.splits[TRAIN]] == [f.sha256 for f in older.splits[TRAIN]]


def test_a_run_goes_on_with_the_faces_that_it_was_begun_with(tmp_path: Path) -> None:
    line, storage = ProgressLine(), Folder.at(tmp_path)
    older = draw_older(storage)
    newer = draw_dataset(CONFIG, open_dataset(CONFIG, storage.uri)[0], line)
    assert newer.fingerprint != older.fingerprint
    places = {}
    for manifest in (older, newer):
        data, _ = open_dataset(CONFIG, storage.uri, manifest.fingerprint)
        assert Manifest.load(data) == manifest
        places[manifest.fingerprint] = Path(data.path)
        assert draw_as_begun(CONFIG, data, line, manifest.fingerprint) == (data, manifest)
    # Also where one of them, or both, have been deleted since.
    for gone in ([older], [newer], [older, newer]):
        for wanted in (older, newer):
            for manifest in gone:
                place = places[manifest.fingerprint]
                for file in [*place.iterdir()] if place.exists() else []:
                    file.unlink()
            data, _ = open_dataset(CONFIG, storage.uri, wanted.fingerprint)
            data, drawn = draw_as_begun(CONFIG, data, line, wanted.fingerprint)
            assert (Path(data.path), drawn) == (places[wanted.fingerprint], wanted)
    # A manifest that cannot be read is no reason to take other faces.
    draw_older(storage)
    (places[older.fingerprint] / MANIFEST).write_text("{")
    image = CONFIG.image.of_faces
    assert Path(find_drawn(storage, image, 24, older.fingerprint).path) == places[older.fingerprint]
    # Faces that are neither are left for the check of the run.
    data, _ = open_dataset(CONFIG, storage.uri, "ab" * 32)
    assert draw_as_begun(CONFIG, data, line, "ab" * 32)[1].fingerprint != "ab" * 32
