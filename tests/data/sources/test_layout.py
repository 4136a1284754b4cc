"""What folders say of images: splits and labels, in the layouts that other software has."""

import unicodedata
from pathlib import Path

import pytest

from raygen.core.errors import UserError
from raygen.data.sources.image_files import ImageFiles, folder
from raygen.data.sources.layout import MAX_LABELS, find_labels, find_splits
from raygen.data.splits import TEST, TRAIN, VALIDATION, split_folders


def write(place: Path, *names: str) -> str:
    """Empty files of images, which are listed like others."""
    for name in names:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(b"")
    return str(place)


def in_split(source: ImageFiles, split: str) -> list[str]:
    return sorted(source.ids[k] for k in source.splits()[split])


def labels(source: ImageFiles) -> dict[str, list[str]]:
    """The labels that are true of each image."""
    rows = zip(source.ids, source.values.tolist(), strict=True)
    return {
        name: [a for a, value in zip(source.attributes, row, strict=True) if value == 1]
        for name, row in rows
    }


TRAINING = ("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png", "dog/3.png")
HELD_OUT = ("cat/1.png", "dog/8.png")


@pytest.mark.parametrize(
    ("train", "held_out"),
    [
        ("train", "val"),
        ("train", "valid"),
        ("training", "validation"),
        ("Train", "VAL"),
        ("train", "dev"),
        ("train", "test"),
        ("Training", "Testing"),
        ("train2017", "val2017"),
        ("training_set", "test_set"),
        ("set/train", "set/val"),
        ("a/b/train/images", "a/b/val/images"),
        ("seg_train/seg_train", "seg_test/seg_test"),
    ],
)
@pytest.mark.parametrize("labelled", [True, False])
def test_folders_for_splits_are_kept_as_splits(
    tmp_path: Path, train: str, held_out: str, labelled: bool
) -> None:
    names = [f"{train}/{name}" for name in TRAINING] + [f"{held_out}/{n}" for n in HELD_OUT]
    source = folder(write(tmp_path, *names, f"{train}/readme.txt"), labels=labelled)
    assert list(source.splits()) == [TRAIN, VALIDATION]
    for split, place, inside in ((TRAIN, train, TRAINING), (VALIDATION, held_out, HELD_OUT)):
        found = in_split(source, split)
        assert len(found) == len(inside)
        assert all(any(name in path for name in inside) for path in found)
        assert all(place.split("/")[-1] in f"{tmp_path}/{train}/{path}" for path in found)
    if labelled:
        assert source.attributes == ("cat", "dog")
        assert all(own == [name.split("/")[-2]] for name, own in labels(source).items())
    else:
        assert source.attributes == ()
    [note, on_test] = source.notes
    assert "for train (5 images)" in note
    assert "for validation (2 images)" in note
    assert "--test-share takes a test split out of the latter" in on_test
    assert source.without_test() is None
    tested = folder(str(tmp_path), test_share=0.2)
    assert tested.notes == [note]
    assert {s: len(r) for s, r in tested.splits().items()} == {TRAIN: 5, VALIDATION: 1, TEST: 1}
    # The images that train are not changed by it.
    assert in_split(tested, TRAIN) == in_split(source, TRAIN)
    # The order within a split does not follow the names.
    assert source.ids == folder(str(tmp_path), labels=labelled).ids


def test_three_splits_are_kept_and_two_names_of_one_are_joined(tmp_path: Path) -> None:
    names = ("train/a/1.png", "val/a/2.png", "valid/b/3.png", "test/b/4.png", "test/a/5.png")
    source = folder(write(tmp_path, *names), labels=True)
    assert in_split(source, TRAIN) == ["train/a/1.png"]
    assert in_split(source, VALIDATION) == ["val/a/2.png", "valid/b/3.png"]
    assert in_split(source, TEST) == ["test/a/5.png", "test/b/4.png"]
    assert source.attributes == ("a", "b")
    assert source.without_test() is None
    assert folder(str(tmp_path), test_share=0.2).splits() == source.splits()


def test_splits_may_lie_below_the_classes(tmp_path: Path) -> None:
    names = [f"{kind}/{split}/1.png" for kind in ("bottle", "cable") for split in ("train", "test")]
    source = folder(write(tmp_path, *names), labels=True)
    assert in_split(source, TRAIN) == ["bottle/train/1.png", "cable/train/1.png"]
    assert source.attributes == ("bottle", "cable")
    assert labels(source)["cable/test/1.png"] == ["cable"]


def test_a_single_class_in_a_split_is_a_label(tmp_path: Path) -> None:
    source = folder(
        write(tmp_path, "train/cat/1.png", "train/cat/2.png", "val/cat/1.png"), 0.5, True
    )
    assert source.attributes == ("cat",)
    assert source.values.tolist() == [[1], [1], [1]]
    assert in_split(source, VALIDATION) == ["val/cat/1.png"]


def test_images_of_a_split_without_classes_have_no_label(tmp_path: Path) -> None:
    place = write(tmp_path, "set/train/1.png", "set/train/2.png", "set/val/3.png")
    assert in_split(folder(place), VALIDATION) == ["val/3.png"]
    with pytest.raises(UserError, match=r"--labels: .* train/\d.png lies in none"):
        folder(place, labels=True)


def test_images_for_tests_may_have_no_class(tmp_path: Path) -> None:
    source = folder(write(tmp_path, "train/a/1.png", "train/b/2.png", "test/3.png"), labels=True)
    assert source.attributes == ("a", "b")
    values = dict(zip(source.ids, source.values.tolist(), strict=True))
    assert values == {"train/a/1.png": [1, -1], "train/b/2.png": [-1, 1], "test/3.png": [0, 0]}
    assert any("their labels are unknown" in note for note in source.notes)
    # Some of the images that train, though, are most likely misplaced.
    write(tmp_path, "train/4.png")
    with pytest.raises(UserError, match=r"--labels: .* (train|test)/\d.png lies in none"):
        folder(str(tmp_path), labels=True)


def test_folders_beside_a_split_are_refused_with_a_way_on(tmp_path: Path) -> None:
    place = write(tmp_path, "train/a/1.png", "val/a/2.png", "extra/3.png")
    with pytest.raises(
        UserError, match="train/ and val/ look like a split, but extra/3.png lies in neither; move"
    ):
        folder(place)
    source = folder(place, labels=True, keep_splits=False)
    assert source.attributes == ("extra", "train", "val")
    assert source.notes == []
    ranges = source.splits()
    assert {split: len(r) for split, r in ranges.items()} == {TRAIN: 1, VALIDATION: 1, TEST: 1}


@pytest.mark.parametrize(
    "folders",
    [("train", "car"), ("val", "test"), ("train", "training"), ("train", "test_drive"), ("a", "b")],
)
def test_other_folders_are_no_split(folders: tuple[str, ...]) -> None:
    assert split_folders(folders) == {}
    assert find_splits([f"{name}/1.png" for name in folders], "set") is None


def test_labels_of_one_form_are_one_label() -> None:
    composed, taken_apart = (unicodedata.normalize(form, "größe") for form in ("NFC", "NFD"))
    assert composed != taken_apart
    found = find_labels([f"{composed}/1.png", f"{taken_apart}/2.png", "b/3.png"], "set")
    assert found.names == ("b", composed)
    assert found.values.tolist() == [[-1, 1], [-1, 1], [1, -1]]
    assert found.notes == []


def test_labels_that_look_alike_are_told() -> None:
    found = find_labels(["Cat/1.png", "cat/2.png", "dog/3.png", "dog /4.png"], "set")
    assert found.names == ("Cat", "cat", "dog", "dog ")
    [note] = found.notes
    assert note == "labels that look alike are kept apart: 'Cat' and 'cat', 'dog' and 'dog '"


def test_of_many_subfolders_some_can_be_chosen() -> None:
    names = [f"{number:03d}/1.png" for number in range(MAX_LABELS + 44)]
    with pytest.raises(
        UserError, match="are 300 subfolders, .* choose some with --keep-attributes"
    ):
        find_labels(names, "set")
    found = find_labels(names, "set", chosen=["007", "100"])
    assert found.names == ("007", "100")
    assert (found.values == 1).sum(axis=0).tolist() == [1, 1]
    assert found.values[7].tolist() == [1, -1]
    assert found.values[8].tolist() == [-1, -1]
    with pytest.raises(UserError, match="--keep-attributes cow: .* no attribute of that name; it"):
        find_labels(names, "set", chosen=["cow"])
