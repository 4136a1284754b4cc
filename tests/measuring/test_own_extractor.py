"""A dataset's own extractor: trained once, kept beside the dataset, and read from there."""

import io
from pathlib import Path

import pytest
from helpers import write_dataset

from raygen.core.errors import UserError
from raygen.core.progress import ProgressLine
from raygen.core.storage import Folder
from raygen.data.shards.manifest import Manifest
from raygen.evaluation import domain
from raygen.evaluation.domain import Domain
from raygen.measuring import own_extractor
from raygen.measuring.own_extractor import domain_extractor


def extractor_of(place: Path) -> tuple[Domain | None, list[str], str]:
    """A dataset's extractor, what was noted, and what was shown meanwhile."""
    folder, notes, shown = Folder.at(place), list[str](), io.StringIO()
    found = domain_extractor(folder, Manifest.load(folder), ProgressLine(shown), 0, notes.append)
    return found, notes, shown.getvalue()


@pytest.mark.slow
def test_it_is_trained_once_and_found_again(
    ray_session: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, _ = write_dataset(tmp_path, [40], [20], 16, attributes=2)
    name = domain.file_name(manifest.fingerprint, 16, 16)
    blocked = tmp_path / domain.FOLDER
    blocked.write_text("in the way")
    trained, notes, shown = extractor_of(tmp_path)
    assert trained
    assert trained.attributes == manifest.attributes
    assert "training the extractor" in shown
    assert len(notes) == 1
    assert "is not kept in" in notes[0]
    blocked.unlink()
    again, notes, _ = extractor_of(tmp_path)
    assert again
    assert not notes
    assert (tmp_path / domain.FOLDER / name).exists()

    def refuse(*_: object) -> None:
        raise AssertionError("it is trained again")

    monkeypatch.setattr(own_extractor, "_train", refuse)
    found, notes, shown = extractor_of(tmp_path)
    assert found
    assert found.extractor.sha256 == again.extractor.sha256
    assert (notes, shown) == ([], "")


def test_a_dataset_without_attributes_has_none(tmp_path: Path) -> None:
    write_dataset(tmp_path, [40], [20], 16)
    assert extractor_of(tmp_path) == (None, [], "")


def test_a_damaged_one_is_refused(tmp_path: Path) -> None:
    manifest, _ = write_dataset(tmp_path, [40], [20], 16, attributes=2)
    name = domain.file_name(manifest.fingerprint, 16, 16)
    Folder.at(tmp_path).join(domain.FOLDER).write_bytes(name, b"x" * 100)
    with pytest.raises(UserError, match="damaged"):
        extractor_of(tmp_path)


@pytest.mark.slow
def test_damaged_images_are_told_in_one_line(ray_session: str, tmp_path: Path) -> None:
    manifest, _ = write_dataset(tmp_path, [40], [20], 16, attributes=2)
    (tmp_path / manifest.splits["train"][0].name).write_bytes(b"x" * 100)
    with pytest.raises(UserError) as error:
        extractor_of(tmp_path)
    assert "train" in str(error.value)
    assert "\n" not in str(error.value)
