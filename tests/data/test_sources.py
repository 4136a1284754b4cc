"""Sources: what is listed, what is loaded, and what is refused."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from raygen.data import drawn_faces
from raygen.data.drawn_faces import write_celeba_layout
from raygen.data.sources import TRAIN, VALIDATION, CelebA, DrawnFaces
from raygen.errors import UserError

COUNT = 11


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_celeba_layout(tmp_path_factory.mktemp("celeba"), COUNT, seed=2)


def test_celeba_is_read_from_its_zip_and_from_a_folder(
    layout: tuple[Path, Path], tmp_path: Path
) -> None:
    images, table = layout
    with zipfile.ZipFile(images) as archive:
        archive.extractall(tmp_path)
    (tmp_path / "img_align_celeba" / "readme.txt").write_text("no image")
    for path in (images, tmp_path, tmp_path / "img_align_celeba"):
        source = CelebA.open(path, table)
        assert source.ids == [f"{k:06d}.jpg" for k in range(1, COUNT + 1)]
        assert source.attributes == drawn_faces.ATTRIBUTES
        assert source.splits() == {TRAIN: range(9), VALIDATION: range(9, COUNT)}
        image, values = source.load(4)
        face, attributes = drawn_faces.draw_face(2, 4)
        assert np.abs(np.asarray(image, float) - np.asarray(face, float)).mean() < 4
        assert values == [1 if attributes[name] else -1 for name in source.attributes]


def test_drawn_faces_are_numbered_like_celeba() -> None:
    source = DrawnFaces(10, seed=2)
    image, values = source.load(4)
    face, attributes = drawn_faces.draw_face(2, 4)
    assert source.ids[4] == "000005.jpg"
    assert image.tobytes() == face.tobytes()
    assert values == [1 if attributes[name] else -1 for name in source.attributes]
    assert source.splits() == {TRAIN: range(8), VALIDATION: range(8, 10)}
    assert DrawnFaces(10).description() != source.description()


def changed(table: Path, path: Path, old: str, new: str) -> Path:
    text = table.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return path


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("image_id,", "name,", "line 1 must be `image_id,`"),
        ("000002.jpg,", "000099.jpg,", r"no row for images of 1 names.*000002\.jpg"),
        ("000002.jpg,", "000001.jpg,", r"line 3: 000001\.jpg appears a second time"),
        ("000002.jpg,", "000002.jpg,1,", r"line 3: has 23 fields, the header 22"),
        ("000011.jpg,", "000011.jpg,1", r"line 12: value '1-1'|value '11'"),
    ],
)
def test_a_wrong_attribute_table_is_refused_with_its_line(
    layout: tuple[Path, Path], tmp_path: Path, old: str, new: str, message: str
) -> None:
    images, table = layout
    with pytest.raises(UserError, match=message):
        CelebA.open(images, changed(table, tmp_path / "table.csv", old, new))


def test_rows_without_images_are_refused(layout: tuple[Path, Path], tmp_path: Path) -> None:
    images, table = layout
    row = table.read_text().splitlines()[-1].replace("000011", "000012")
    extended = tmp_path / "table.csv"
    extended.write_text(table.read_text() + row + "\n")
    with pytest.raises(UserError, match=r"no image for rows of 1 names.*000012\.jpg"):
        CelebA.open(images, extended)


def test_paths_that_hold_no_images_are_refused(layout: tuple[Path, Path], tmp_path: Path) -> None:
    images, table = layout
    with pytest.raises(UserError, match="--images .*nowhere: no such file or folder"):
        CelebA.open(tmp_path / "nowhere", table)
    with pytest.raises(UserError, match="--images .*: cannot be read as a zip"):
        CelebA.open(table, table)
    with pytest.raises(UserError, match="--images .*: holds no images"):
        CelebA.open(tmp_path, table)
    with pytest.raises(UserError, match="--attributes .*nowhere: cannot be read"):
        CelebA.open(images, tmp_path / "nowhere")
    with pytest.raises(UserError, match="--attributes .*: cannot be read"):
        CelebA.open(images, images)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"two files are named 1\.jpg"):
        CelebA.open(tmp_path, table)
