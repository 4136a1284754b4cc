"""Sources: what is listed, what is loaded, and what is refused."""

import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers import load_image
from PIL import Image

from raygen.core.errors import UserError
from raygen.data.images import fit_image
from raygen.data.options import AnimeOptions
from raygen.data.sources import drawn_faces
from raygen.data.sources.drawn import DrawnFaces
from raygen.data.sources.drawn_faces import write_celeba_layout
from raygen.data.sources.image_files import ImageFiles, celeba, folder
from raygen.data.splits import TEST, TRAIN, VALIDATION

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
        source = celeba(str(path), str(table))
        assert source.ids == [f"{k:06d}.jpg" for k in range(1, COUNT + 1)]
        assert source.attributes == drawn_faces.ATTRIBUTES
        assert source.splits() == {
            TRAIN: range(9),
            VALIDATION: range(9, 10),
            TEST: range(10, COUNT),
        }
        image, values = load_image(source, 4)
        face, attributes = drawn_faces.draw_face(2, 4)
        assert np.abs(np.asarray(image, float) - np.asarray(face, float)).mean() < 4
        assert values == [1 if attributes[name] else -1 for name in source.attributes]


def test_drawn_faces_are_numbered_like_celeba() -> None:
    source = DrawnFaces(10, seed=2)
    image, values = load_image(source, 4)
    face, attributes = drawn_faces.draw_face(2, 4)
    assert source.ids[4] == "000005.jpg"
    assert image.tobytes() == face.tobytes()
    assert values == [1 if attributes[name] else -1 for name in source.attributes]
    assert source.splits() == {TRAIN: range(8), VALIDATION: range(8, 9), TEST: range(9, 10)}
    assert DrawnFaces(10).description() != source.description()


def test_paths_that_hold_no_images_are_refused(layout: tuple[Path, Path], tmp_path: Path) -> None:
    table = layout[1]
    with pytest.raises(UserError, match="--images .*nowhere: no such file or folder"):
        celeba(str(tmp_path / "nowhere"), str(table))
    with pytest.raises(UserError, match="--images .*: cannot be read as a folder, zip or tar"):
        celeba(str(table), str(table))
    with pytest.raises(UserError, match="--images .*: holds no images"):
        celeba(str(tmp_path), str(table))
    (tmp_path / "1.jpg").write_bytes(b"")
    (tmp_path / "notes.md").write_bytes(b"")
    with pytest.raises(UserError, match=r"--images .*: holds one image .*beside it: notes\.md"):
        celeba(str(tmp_path), str(table))
    hidden = tmp_path / ".data"
    hidden.mkdir()
    for name in ("2.jpg", "more.zip"):
        (hidden / name).write_bytes(b"")
    (tmp_path / "more.zip").write_bytes(b"")
    with pytest.raises(UserError, match="1 archive, as more.zip: unpack it.*; hidden files and"):
        celeba(str(tmp_path), str(table))
    shutil.rmtree(hidden)
    (tmp_path / "1.jpg").unlink()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"two files are named 1\.jpg \(a/1\.jpg and b/1\.jpg\)"):
        celeba(str(tmp_path), str(table))
    # Where names are paths, these are two images.
    assert sorted(folder(str(tmp_path)).ids) == ["a/1.jpg", "b/1.jpg"]


def test_tables_and_images_must_agree(layout: tuple[Path, Path], tmp_path: Path) -> None:
    images, table = layout
    lines = table.read_text().splitlines()
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("\n".join([*lines[:2], *lines[3:], lines[2].replace("000002", "000099")]))
    with pytest.raises(
        UserError,
        match=r"--attributes .*wrong\.csv: no line for 000002\.jpg\. Use the table that belongs to",
    ):
        celeba(str(images), str(wrong))
    parts = tmp_path / "parts.txt"
    parts.write_text("".join(f"{k:06d}.jpg 0\n" for k in range(1, 10)))
    with pytest.raises(UserError, match=r"--partition .*: no line for 000010\.jpg; no line for"):
        celeba(str(images), str(table), str(parts))


def test_part_of_the_images_take_their_rows_of_the_whole_table(
    layout: tuple[Path, Path], tmp_path: Path
) -> None:
    images, table = layout
    with zipfile.ZipFile(images) as archive:
        archive.extractall(tmp_path)
    place = tmp_path / "img_align_celeba"
    for number in (2, 5, COUNT):
        (place / f"{number:06d}.jpg").unlink()
    # Drawings beside the photographs belong to no row; photographs that are not read do.
    (place / "logo.svg").write_text("<svg>")
    (place / "000002.heic").write_bytes(b"\0\0\0\x18ftypheic")
    parts = tmp_path / "parts.txt"
    parts.write_text("".join(f"{k:06d}.jpg {k % 2}\n" for k in range(1, COUNT + 1)))
    whole, source = celeba(str(images), str(table)), celeba(str(place), str(table))
    present = [f"{k:06d}.jpg" for k in range(1, COUNT) if k not in (2, 5)]
    assert source.ids == sorted([*present, "000002.heic"])
    assert source.ignored == ["logo.svg"]
    for position, name in enumerate(source.ids):
        expected = whole.values[whole.ids.index(name.replace("heic", "jpg"))]
        assert source.values[position].tolist() == expected.tolist()
    [other, without] = source.notes
    assert "as 000002.jpg for 000002.heic" in other
    assert f"2 of {COUNT} rows have no image, as line 6 (000005.jpg)" in without
    splits = celeba(str(place), str(table), str(parts)).splits()
    assert {split: len(r) for split, r in splits.items()} == {TRAIN: 5, VALIDATION: 4}


@pytest.mark.parametrize("suffix", ["txt", "csv"])
def test_a_partition_decides_the_splits(
    layout: tuple[Path, Path], tmp_path: Path, suffix: str
) -> None:
    images, table = layout
    parts = {f"{k:06d}.jpg": (0, 2, 1)[k % 3] for k in range(1, COUNT + 1)}
    path = tmp_path / f"parts.{suffix}"
    if suffix == "csv":
        rows = ["image_id,partition", *(f"{name},{part}" for name, part in parts.items())]
    else:
        rows = [f"{name} {part}" for name, part in parts.items()]
    path.write_text("\n".join(rows))
    source = celeba(str(images), str(table), str(path))
    splits = source.splits()
    assert list(splits) == [TRAIN, VALIDATION, TEST]
    for number, split in enumerate((TRAIN, VALIDATION, TEST)):
        names = [source.ids[k] for k in splits[split]]
        assert names == [name for name, part in parts.items() if part == number]
    whole = celeba(str(images), str(table))
    for position, name in enumerate(source.ids):
        image, values = load_image(source, position)
        same, expected = load_image(whole, whole.ids.index(name))
        assert (image.tobytes(), values) == (same.tobytes(), expected)
    assert whole.description() != source.description()
    path.write_text(path.read_text().replace(",1", ",0").replace(" 1", " 0"))
    with pytest.raises(UserError, match="--partition .*: has no image for validation"):
        celeba(str(images), str(table), str(path))


def anime(images: Path) -> ImageFiles:
    return folder(str(images), kind="anime")


def test_subfolders_can_be_labels(tmp_path: Path) -> None:
    for label, count in (("cat", 3), ("dog", 2), ("größe 2", 1)):
        write_pictures(tmp_path / "set" / label, count)
    source = folder(str(tmp_path), labels=True)
    assert source.attributes == ("cat", "dog", "größe 2")
    for position, name in enumerate(source.ids):
        expected = [1 if name.startswith(f"{label}/") else -1 for label in source.attributes]
        assert load_image(source, position)[1] == expected
    assert folder(str(tmp_path)).attributes == ()
    with pytest.raises(UserError, match="--labels: takes up to 256 subfolders.*lies in none"):
        folder(str(write_pictures(tmp_path / "one" / "only", 3)), labels=True)
    # A single subfolder is the label of all.
    single = folder(str(tmp_path / "one"), labels=True)
    assert (single.attributes, single.values.tolist()) == (("only",), [[1]] * 3)
    assert single.notes == ["all images have one label, only"]
    Image.new("RGB", (4, 4)).save(tmp_path / "set" / "loose.png")
    with pytest.raises(UserError, match=r"--labels: .*loose\.png lies in none"):
        folder(str(tmp_path / "set"), labels=True)


def test_the_share_of_validation_can_be_chosen(tmp_path: Path) -> None:
    place = str(write_pictures(tmp_path / "set", 20))
    assert counts(folder(place)) == {TRAIN: 18, VALIDATION: 1, TEST: 1}
    half = folder(place, 0.5)
    assert counts(half) == {TRAIN: 9, VALIDATION: 10, TEST: 1}
    assert half.description() != folder(place).description()
    # However few there are, each split has one.
    few = str(write_pictures(tmp_path / "few", 3))
    for share in (0.01, 0.94):
        assert counts(folder(few, share)) == {TRAIN: 1, VALIDATION: 1, TEST: 1}


def counts(source: ImageFiles) -> dict[str, int]:
    return {split: len(positions) for split, positions in source.splits().items()}


def test_the_share_of_tests_can_be_chosen(tmp_path: Path, layout: tuple[Path, Path]) -> None:
    place = str(write_pictures(tmp_path / "set", 20))
    assert counts(folder(place, 0.25, test_share=0.5)) == {TRAIN: 5, VALIDATION: 5, TEST: 10}
    assert counts(folder(place, 0.25, test_share=0)) == {TRAIN: 15, VALIDATION: 5}
    images, table = map(str, layout)
    assert counts(celeba(images, table, test_share=0)) == {TRAIN: 9, VALIDATION: 2}
    assert counts(celeba(images, table, test_share=0.01)) == {TRAIN: 9, VALIDATION: 1, TEST: 1}
    drawn = DrawnFaces(100, test_share=0.15).splits()
    assert drawn == {TRAIN: range(80), VALIDATION: range(80, 85), TEST: range(85, 100)}


def test_a_test_split_is_taken_out_of_a_partition_without_one_only_if_asked_for(
    layout: tuple[Path, Path], tmp_path: Path
) -> None:
    images, table = map(str, layout)
    parts = tmp_path / "parts.txt"
    parts.write_text("".join(f"{k:06d}.jpg {int(k % 2)}\n" for k in range(1, COUNT + 1)))
    source = celeba(images, table, str(parts))
    assert counts(source) == {TRAIN: 5, VALIDATION: 6}
    assert source.without_test() is None
    assert "--test-share takes a test split out of the latter" in source.notes[-1]
    source = celeba(images, table, str(parts), 0.2)
    assert source.notes == []
    assert counts(source) == {TRAIN: 5, VALIDATION: 4, TEST: 2}
    assert [source.ids[k] for k in source.splits()[TEST]] == ["000009.jpg", "000011.jpg"]
    with pytest.raises(UserError, match=r"--test-share 0\.6: must be less than 0\.545, because"):
        celeba(images, table, str(parts), 0.6)
    # One that the partition brings is not changed.
    parts.write_text("".join(f"{k:06d}.jpg {k % 3}\n" for k in range(1, COUNT + 1)))
    source = celeba(images, table, str(parts), 0.5)
    assert counts(source) == {TRAIN: 3, VALIDATION: 4, TEST: 4}
    assert source.notes == [
        "--test-share is not used: the images come with a test split of their own"
    ]


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
    first = anime(folder)
    assert sorted(first.ids) == sorted(f"{number}.png" for number in range(1, 21))
    assert first.attributes == ()
    for path in (folder, pictures, zipped(folder, tmp_path / "anime.zip")):
        source = anime(path)
        assert source.ids == first.ids
        for position, name in enumerate(source.ids):
            image, values = load_image(source, position)
            assert image.getpixel((0, 0)) == colour(int(name.removesuffix(".png")))
            assert values == []


@pytest.mark.parametrize(("count", "each"), [(2, 1), (3, 1), (5, 1), (20, 1), (100, 5), (130, 6)])
def test_one_in_twenty_anime_faces_validates_and_one_tests(
    tmp_path: Path, count: int, each: int
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(count):
        (folder / f"{number}.png").write_bytes(b"")
    splits = anime(folder).splits()
    tests = each if count > 2 else 0
    expected = {
        TRAIN: range(count - each - tests),
        VALIDATION: range(count - each, count),
        TEST: range(count - each - tests, count - each),
    }
    # Of two images, one validates and none tests.
    assert splits == {split: positions for split, positions in expected.items() if positions}


def test_held_out_anime_faces_come_from_all_over_the_set(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    count = 2_000
    for number in range(count):
        (folder / f"{number}.png").write_bytes(b"")
    source = anime(folder)
    numbers = [int(source.ids[p].removesuffix(".png")) for p in source.splits()[VALIDATION]]
    # 100 of 2,000: each tenth of the set gives 10 on average, with a deviation of 2.9.
    per_tenth = np.bincount([number * 10 // count for number in numbers], minlength=10)
    assert per_tenth.min() >= 2
    assert per_tenth.max() <= 20
    assert len(set(np.diff(sorted(numbers)))) > 10


def test_descriptions_of_anime_faces_tell_sets_apart(tmp_path: Path) -> None:
    few = write_pictures(tmp_path / "few" / "data", 3)
    many = write_pictures(tmp_path / "many" / "data", 4)
    description = anime(few).description()
    assert description == anime(few).description()
    assert description.items() >= {"kind": "anime", "images": "data", "count": 3}.items()
    assert anime(many).description() != description
    (few / "3.png").rename(few / "4.png")
    assert anime(few).description() != description


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
    source = anime(tmp_path)
    assert len(source.ids) == 6
    for position, name in enumerate(source.ids):
        pixels = fit_image(load_image(source, position)[0], AnimeOptions().images_wanted[0])
        assert pixels.shape == (64, 64, 3)
        assert pixels.dtype == np.uint8
        expected = np.where(left[:, :, None], grey if "grey" in name else red, white)
        if name == "grey.jpeg":
            expected = np.full((64, 64, 3), grey)
        assert np.array_equal(pixels, expected), name


def test_paths_that_hold_no_anime_faces_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--images .*nowhere: no such file or folder"):
        anime(tmp_path / "nowhere")
    empty = tmp_path / "empty"
    empty.mkdir()
    for path in (empty, zipped(empty, tmp_path / "empty.zip")):
        with pytest.raises(UserError, match=f"--images {path}: holds no images"):
            anime(path)
