"""The extractor that learns a dataset's attributes: what it sees, and its file."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ladder import check_ladder, faces

from raygen.core.errors import UserError
from raygen.core.storage import Folder
from raygen.data.sources.drawn_faces import ATTRIBUTES
from raygen.evaluation import domain


@pytest.fixture(scope="module")
def trained() -> domain.Domain:
    images, values = faces(800, 1_000)
    found = domain.train(images, values, faces(0, 200), ATTRIBUTES)
    assert found
    return found


@pytest.mark.slow
@pytest.mark.numeric
def test_it_learns_the_attributes_and_ranks_known_damage(trained: domain.Domain) -> None:
    assert trained.accuracy > trained.chance + 0.1
    assert trained.accuracy > 0.9
    check_ladder(trained.extractor, 400)


def test_the_same_images_give_the_same_network_and_leave_random_numbers_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    found = [
        domain.train(*faces(0, 64), faces(0, 64), ATTRIBUTES, steps=steps) for steps in (5, 5, 6)
    ]
    torch.testing.assert_close(torch.rand(3), expected)
    hashes = [each.extractor.sha256 for each in found if each]
    assert hashes[0] == hashes[1] != hashes[2]


def small() -> domain.Domain:
    """An extractor that has not learnt anything."""
    network = domain.AttributeClassifier(2, 32).eval()
    return domain.Domain(domain._extractor(network), ("a", "ü"), 0.75, 0.5)


def test_a_file_gives_the_same_extractor_back(tmp_path: Path) -> None:
    folder, made = Folder.at(tmp_path), small()
    name = domain.file_name("abc", 32, 32)
    assert domain.load(folder, name) is None
    domain.save(made, folder, name)
    found = domain.load(folder, name)
    assert found
    assert (found.attributes, found.accuracy, found.chance) == (("a", "ü"), 0.75, 0.5)
    assert found.extractor.sha256 == made.extractor.sha256
    assert found.extractor.resizer == made.extractor.resizer
    images = faces(0, 3)[0]
    np.testing.assert_array_equal(
        found.extractor.features([images], "cpu"), made.extractor.features([images], "cpu")
    )


def test_each_dataset_and_size_has_a_file_of_its_own() -> None:
    names = {domain.file_name(*about) for about in (("a", 32, 32), ("b", 32, 32), ("a", 64, 64))}
    assert len(names) == 3
    # Larger images are reduced to 64 pixels first.
    assert domain.file_name("a", 218, 178) == domain.file_name("a", 64, 64)


def test_damaged_files_are_refused_in_one_line(tmp_path: Path) -> None:
    folder = Folder.at(tmp_path)
    domain.save(small(), folder, "x")
    file = tmp_path / domain.FOLDER / "x"
    whole = file.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])

    def with_header(changed: dict[str, object]) -> bytes:
        text = json.dumps(changed).encode()
        return len(text).to_bytes(8, "little") + text + whole[8 + length :]

    about = json.loads(header["__metadata__"]["raygen"])
    without = {name: entry for name, entry in header.items() if name != "__metadata__"}
    wide = {"__metadata__": {"raygen": json.dumps(about | {"side": 10**9})}}
    many = {"__metadata__": {"raygen": json.dumps(about | {"attributes": ["a", "b", "c"]})}}
    nothing = whole[: 8 + length] + bytes(len(whole) - 8 - length)
    for content in (
        *(b"", b"x", whole[:-1], whole[:100]),
        with_header(without),
        with_header(header | wide),
        with_header(header | many),
        nothing[:-4] + np.float32("nan").tobytes(),
    ):
        file.write_bytes(content)
        with pytest.raises(UserError, match="x: .*delete it") as error:
            domain.load(folder, "x")
        assert "\n" not in str(error.value)


def test_attributes_that_nearly_all_images_share_are_not_learnt() -> None:
    values = np.ones((100, 4), np.int8)
    values[:50, 1] = -1
    values[0, 2] = -1
    values[:, 3] = 0
    assert domain.learnable(values).tolist() == [1]
    images = faces(0, 100)[0]
    assert domain.train(images, values[:, [0, 3]], (images, values[:, [0, 3]]), "ab") is None


def test_reduced_images_are_seen_like_the_whole_ones() -> None:
    images = np.repeat(np.repeat(faces(0, 5)[0], 4, axis=1), 4, axis=2)
    small_ones = domain.reduced(images)
    assert small_ones.shape == (5, 64, 64, 3)
    extractor = domain._extractor(domain.AttributeClassifier(2, 64).eval())
    np.testing.assert_allclose(
        extractor.features([images], "cpu"), extractor.features([small_ones], "cpu"), atol=0.05
    )
