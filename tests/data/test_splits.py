"""How images are divided: three splits, of which older versions made two."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from saved_datasets import write_saved

from raygen.config.run import ImageFormat
from raygen.core.errors import UserError
from raygen.data.originals import open_originals
from raygen.data.sources.drawn import DrawnFaces
from raygen.data.sources.drawn_faces import write_celeba_layout
from raygen.data.sources.huggingface import huggingface
from raygen.data.sources.image_files import celeba, folder
from raygen.data.sources.source import Source
from raygen.data.splits import (
    TEST,
    TRAIN,
    VALIDATION,
    first_part_trains,
    last_part_tests,
    last_parts_held_out,
    share_of_validation,
)

SHARES = st.floats(0.001, 0.999)
NOT_TIMED = settings(deadline=None)


def before(count: int, share: float) -> tuple[list[int], list[int]]:
    """What trained and what validated of so many images before there were test splits."""
    boundary = max(1, min(round(count * share), count - 1))
    return list(range(boundary)), list(range(boundary, count))


def check_cover(ranges: dict[str, range], count: int) -> None:
    """Each image is in exactly one split, and each split has one if there are enough images."""
    assert sorted(k for positions in ranges.values() for k in positions) == list(range(count))
    assert all(ranges.values())


@NOT_TIMED
@given(st.integers(2, 2_000), st.floats(0.001, 0.199))
def test_celebas_test_images_come_out_of_those_that_validated(count: int, test: float) -> None:
    trained, validated = before(count, 0.8)
    alone = first_part_trains(count, 0.8, 0)
    assert [[*alone[split]] for split in (TRAIN, VALIDATION)] == [trained, validated]
    for share in (test, 0.1):
        ranges = first_part_trains(count, 0.8, share)
        check_cover(ranges, count)
        if count < 3:
            assert ranges == alone
            continue
        if len(validated) > 1:
            assert [*ranges[TRAIN]] == trained
            assert [*ranges[VALIDATION], *ranges[TEST]] == validated
        wanted = min(max(1, share * count), count - 2)
        # Within an image, as the training images' share is rounded too.
        assert abs(len(ranges[TEST]) - wanted) < 1.5
    if count >= 3:
        assert 0 <= len(ranges[VALIDATION]) - len(ranges[TEST]) <= 1


def test_celebas_own_numbers() -> None:
    ranges = first_part_trains(202_599, 0.8, 0.1)
    assert {s: len(r) for s, r in ranges.items()} == {
        TRAIN: 162_079,
        VALIDATION: 20_260,
        TEST: 20_260,
    }


@NOT_TIMED
@given(st.integers(2, 2_000), SHARES, SHARES)
def test_other_test_images_come_out_of_those_that_trained(
    count: int, validation: float, test: float
) -> None:
    trained, validated = before(count, 1 - validation)
    alone = last_parts_held_out(count, validation, 0)
    assert [[*alone[split]] for split in (TRAIN, VALIDATION)] == [trained, validated]
    ranges = last_parts_held_out(count, validation, test)
    check_cover(ranges, count)
    if count < 3:
        assert ranges == alone
        return
    assert set(ranges) == {TRAIN, VALIDATION, TEST}
    if len(trained) > 1:
        assert [*ranges[VALIDATION]] == validated
    assert [*ranges[TRAIN]] == list(range(len(ranges[TRAIN])))
    wanted = min(max(1, test * count), len(trained) - 1 if len(trained) > 1 else 1)
    assert abs(len(ranges[TEST]) - wanted) <= 1


@NOT_TIMED
@given(st.integers(1, 1000), st.integers(1, 1000), st.floats(0.0001, 0.999))
def test_splits_that_images_come_with_give_test_images_out_of_validation_alone(
    train: int, validation: int, share: float
) -> None:
    own = {TRAIN: range(train), VALIDATION: range(train, train + validation)}
    if share * (train + validation) >= validation:
        with pytest.raises(UserError, match=r"--test-share .*: must be less than .*, because test"):
            share_of_validation(own, share, "--images x")
        return
    ranges = last_part_tests(own, share_of_validation(own, share, "--images x"))
    check_cover(ranges, train + validation)
    assert ranges[TRAIN] == own[TRAIN]
    # A single image goes on validating.
    assert (TEST in ranges) == (validation > 1)
    if validation > 1:
        assert [*ranges[VALIDATION], *ranges[TEST]] == [*own[VALIDATION]]
        wanted = min(max(1, share * (train + validation)), validation - 1)
        assert abs(len(ranges[TEST]) - wanted) <= 1


def write_pictures(place: Path, names: Sequence[str]) -> str:
    for name in names:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(place / name)
    return str(place)


def make_celeba(place: Path, test_share: float | None = None) -> Source:
    images, table = place / "celeba/img_align_celeba.zip", place / "celeba/list_attr_celeba.csv"
    if not images.exists():
        images, table = write_celeba_layout(place / "celeba", 45)
    return celeba(str(images), str(table), test_share=test_share)


def make_folder(place: Path, test_share: float | None = None) -> Source:
    return folder(
        write_pictures(place / "set", [f"{k}.png" for k in range(45)]), test_share=test_share
    )


def make_huggingface(place: Path, test_share: float | None = None) -> Source:
    if not (place / "hf").exists():
        write_saved(place / "hf", [range(20), range(20, 45)])
    return huggingface(str(place / "hf"), test_share=test_share)


def make_drawn(place: Path, test_share: float | None = None) -> Source:
    return DrawnFaces(45, test_share=test_share)


MAKERS = [make_celeba, make_folder, make_huggingface, make_drawn]


@pytest.mark.parametrize("make", MAKERS)
def test_a_source_divides_its_images_as_older_versions_did(
    tmp_path: Path, make: Callable[..., Source]
) -> None:
    source, untested = make(tmp_path), make(tmp_path, test_share=0)
    older = source.without_test()
    assert older is not None
    # As with no test split: the same images in the same order, described in the same way.
    assert older.splits() == untested.splits()
    assert older.ids == untested.ids
    assert older.description() == untested.description() != source.description()
    assert [older.open(k, older.read(k))[1] for k in range(45)] == [
        untested.open(k, untested.read(k))[1] for k in range(45)
    ]
    assert set(older.splits()) == {TRAIN, VALIDATION}
    # What is divided as before, or as was asked for, has no older form.
    assert older.without_test() is None
    assert untested.without_test() is None
    assert make(tmp_path, test_share=0.05).without_test() is None


@pytest.mark.parametrize("make", MAKERS)
def test_no_image_moves_between_training_and_validation(
    tmp_path: Path, make: Callable[..., Source]
) -> None:
    source = make(tmp_path)
    older = source.without_test()
    assert older is not None

    def images(source: Source, split: str) -> set[str]:
        return {source.ids[k] for k in source.splits()[split]}

    tested = images(source, TEST)
    assert images(source, TRAIN) == images(older, TRAIN) - tested
    assert images(source, VALIDATION) == images(older, VALIDATION) - tested
    was = VALIDATION if make in (make_celeba, make_drawn) else TRAIN
    assert tested < images(older, was)
    for split, positions in source.splits().items():
        # Within a split, the order is the older one, too.
        order = [older.ids.index(source.ids[k]) for k in positions]
        assert order == sorted(order), split


def test_drawn_faces_without_a_test_split_are_described_as_before_there_was_one() -> None:
    assert DrawnFaces(45, 3, 0).description().keys() == {"kind", "count", "seed", "version"}
    assert DrawnFaces(45, 3).description() == DrawnFaces(45, 3, 0.1).description()
    assert json.loads(json.dumps(DrawnFaces(45).description())) == DrawnFaces(45).description()


UNTESTED = "f9f5dcbef7ac476437530f3209a3e3fa5849e66b21206d0874dbd7ebd20d3bf7"
"""The fingerprint that the last version without test splits gave the images below."""


def test_originals_of_a_run_begun_without_a_test_split_have_none_now_either(
    tmp_path: Path,
) -> None:
    data, image = str(tmp_path / "set"), ImageFormat(4, 4)
    (tmp_path / "set").mkdir()
    for number in range(45):
        (tmp_path / f"set/{number}.png").write_bytes(b"listed only")
    manifest = open_originals(data, image)
    assert {split: manifest.rows(split) for split in manifest.splits} == {
        TRAIN: 41,
        VALIDATION: 2,
        TEST: 2,
    }
    older = open_originals(data, image, UNTESTED)
    assert older.fingerprint == UNTESTED
    assert {split: older.rows(split) for split in older.splits} == {TRAIN: 43, VALIDATION: 2}
    assert older.originals is not None
    names, _ = older.originals.labels(VALIDATION, np.arange(2))
    assert manifest.originals is not None
    assert manifest.originals.labels(VALIDATION, np.arange(2))[0] == names
    # Of another dataset, it is another dataset as before.
    for begun in ("", manifest.fingerprint, "ab" * 32):
        assert open_originals(data, image, begun).fingerprint == manifest.fingerprint
