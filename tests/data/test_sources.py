"""Sources: what is listed, what is loaded, and what is refused."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raygen.data import drawn_faces
from raygen.data.drawn_faces import write_celeba_layout
from raygen.data.shards import fit_image
from raygen.data.sources import TRAIN, VALIDATION, AnimeFaces, CelebA, DrawnFaces
from raygen.errors import UserError
from raygen.job_options import AnimeOptions

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
    (tmp_path / "1.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="--images .*: holds one image .* need one each"):
        CelebA.open(tmp_path, table)
    (tmp_path / "1.jpg").unlink()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"two files are named 1\.jpg"):
        CelebA.open(tmp_path, table)


def colour(number: int) -> tuple[int, int, int]:
    return number, 2 * number, 255 - number


def write_pictures(folder: Path, count: int) -> Path:
    """1.png, 2.png, ... of one colour each, numbered as the anime faces are."""
    folder.mkdir(parents=True)
    for number in range(1, count + 1):
        Image.new("RGB", (4, 4), colour(number)).save(folder / f"{number}.png")
    return folder


def zipped(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.rglob("*"):
            archive.write(file, file.relative_to(folder))
    return path


def test_anime_faces_are_read_from_a_zip_and_from_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "unpacked"
    pictures = write_pictures(folder / "data", 20)
    (pictures / "readme.txt").write_text("no image")
    first = AnimeFaces.open(folder)
    assert sorted(first.ids) == sorted(f"{number}.png" for number in range(1, 21))
    assert first.attributes == ()
    for path in (folder, pictures, zipped(folder, tmp_path / "anime.zip")):
        source = AnimeFaces.open(path)
        assert source.ids == first.ids
        for position, name in enumerate(source.ids):
            image, values = source.load(position)
            assert image.getpixel((0, 0)) == colour(int(name.removesuffix(".png")))
            assert values == []


@pytest.mark.parametrize(("count", "validation"), [(2, 1), (5, 1), (20, 1), (100, 5), (130, 6)])
def test_one_in_twenty_anime_faces_is_held_out(tmp_path: Path, count: int, validation: int) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(count):
        (folder / f"{number}.png").write_bytes(b"")
    splits = AnimeFaces.open(folder).splits()
    assert splits == {
        TRAIN: range(count - validation),
        VALIDATION: range(count - validation, count),
    }


def test_held_out_anime_faces_come_from_all_over_the_set(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    count = 2_000
    for number in range(count):
        (folder / f"{number}.png").write_bytes(b"")
    source = AnimeFaces.open(folder)
    numbers = [int(source.ids[p].removesuffix(".png")) for p in source.splits()[VALIDATION]]
    # 100 of 2,000: each tenth of the set gives 10 on average, with a deviation of 2.9.
    per_tenth = np.bincount([number * 10 // count for number in numbers], minlength=10)
    assert per_tenth.min() >= 2
    assert per_tenth.max() <= 20
    assert len(set(np.diff(sorted(numbers)))) > 10


def test_descriptions_of_anime_faces_tell_sets_apart(tmp_path: Path) -> None:
    few = write_pictures(tmp_path / "few" / "data", 3)
    many = write_pictures(tmp_path / "many" / "data", 4)
    description = AnimeFaces.open(few).description()
    assert description == AnimeFaces.open(few).description()
    assert description.items() >= {"kind": "anime", "images": "data", "count": 3}.items()
    assert AnimeFaces.open(many).description() != description
    (few / "3.png").rename(few / "4.png")
    assert AnimeFaces.open(few).description() != description


def test_any_kind_of_anime_face_comes_out_as_rgb_on_white(tmp_path: Path) -> None:
    # The left half is red, or dark grey; the right half is transparent where it can be.
    red, grey, white = (200, 0, 0), (60, 60, 60), (255, 255, 255)
    left = np.zeros((64, 64), bool)
    left[:, :32] = True
    alpha = np.where(left, 255, 0).astype(np.uint8)
    rgba = np.dstack([np.full((64, 64, 3), red, np.uint8), alpha])
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    Image.fromarray(rgba).save(tmp_path / "rgba.webp", lossless=True)
    palette = Image.fromarray(np.where(left, 1, 0).astype(np.uint8), "L")
    palette.putpalette([0, 0, 255, *red])
    palette.save(tmp_path / "palette.png", transparency=0)
    shades = np.full((64, 64), grey[0], np.uint8)
    Image.fromarray(np.dstack([shades, alpha])).save(tmp_path / "grey-alpha.png")
    Image.fromarray(np.where(left, shades, 255).astype(np.uint8)).save(tmp_path / "grey.png")
    Image.fromarray(shades).resize((90, 90)).save(tmp_path / "grey.jpeg")
    source = AnimeFaces.open(tmp_path)
    assert len(source.ids) == 6
    for position, name in enumerate(source.ids):
        pixels = fit_image(source.load(position)[0], AnimeOptions().image)
        assert pixels.shape == (64, 64, 3)
        assert pixels.dtype == np.uint8
        expected = np.where(left[:, :, None], grey if "grey" in name else red, white)
        if name == "grey.jpeg":
            expected = np.full((64, 64, 3), grey)
        assert np.array_equal(pixels, expected), name


def test_paths_that_hold_no_anime_faces_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--images .*nowhere: no such file or folder"):
        AnimeFaces.open(tmp_path / "nowhere")
    empty = tmp_path / "empty"
    empty.mkdir()
    for path in (empty, zipped(empty, tmp_path / "empty.zip")):
        with pytest.raises(UserError, match=f"--images {path}: holds no images"):
            AnimeFaces.open(path)
