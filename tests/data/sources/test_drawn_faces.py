"""The built-in faces: reproducible, varied, and showing what their attributes say."""

import csv
import hashlib
import io
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from raygen.data.sources import drawn_faces
from raygen.data.sources.drawn_faces import Face

pytestmark = pytest.mark.numeric

WITHOUT: dict[str, dict[str, Any]] = {
    "Bald": {"hair": "short", "volume": 5.0},
    "Bangs": {"bangs": "none"},
    "Big_Nose": {"nose_width": 10.0, "nose_length": 21.0},
    "Black_Hair": {"hair_name": "red", "hair_colour": (160, 70, 34)},
    "Blond_Hair": {"hair_name": "red", "hair_colour": (160, 70, 34)},
    "Brown_Hair": {"hair_name": "red", "hair_colour": (180, 80, 40)},
    "Bushy_Eyebrows": {"brow_thickness": 3.0},
    "Eyeglasses": {"frames": "none"},
    "Goatee": {"beard": "none"},
    "Gray_Hair": {"hair_name": "red", "hair_colour": (160, 70, 34)},
    "Male": {"male": False, "half_width": 46.0, "chin": 62.0, "jaw": 1.0},
    "Mouth_Slightly_Open": {"gap": 0.0},
    "Mustache": {"beard": "none"},
    "Narrow_Eyes": {"eye_height": 5.5},
    "Pale_Skin": {"pale": False, "skin": (238, 200, 172)},
    "Rosy_Cheeks": {"rosy": False},
    "Smiling": {"smile": -0.5, "mouth_width": 15.0},
    "Wavy_Hair": {"wave": 0.0},
    "Wearing_Earrings": {"earrings": "none"},
    "Wearing_Hat": {"hat": "none"},
    "Wearing_Lipstick": {"lipstick": False, "lip_colour": (200, 140, 125)},
}
"""Parameters that take an attribute away from a face that has it."""


def test_a_face_is_a_function_of_seed_and_index() -> None:
    first, attributes = drawn_faces.draw_face(7, 3)
    again, same = drawn_faces.draw_face(7, 3)
    assert first.size == (178, 218)
    assert first.mode == "RGB"
    assert first.tobytes() == again.tobytes()
    assert attributes == same == drawn_faces.face_attributes(7, 3)
    for other in ((7, 4), (8, 3)):
        assert drawn_faces.draw_face(*other)[0].tobytes() != first.tobytes()


def test_the_version_names_these_very_parameters() -> None:
    # Who changes what a face looks like has to raise VERSION, or old datasets pass for new ones.
    text = "".join(repr(drawn_faces.sample_face(0, index)) for index in range(50))
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    assert (drawn_faces.VERSION, digest) == (1, "582c531cb38f484f")


def test_negative_arguments_are_refused() -> None:
    for arguments in ((-1, 0), (0, -1)):
        with pytest.raises(ValueError, match="non-negative"):
            drawn_faces.draw_face(*arguments)


def test_each_attribute_is_true_in_a_tenth_to_six_tenths_of_the_faces() -> None:
    count = 2_000
    faces = [drawn_faces.face_attributes(0, index) for index in range(count)]
    assert len(drawn_faces.ATTRIBUTES) >= 12
    for name in drawn_faces.ATTRIBUTES:
        share = sum(face[name] for face in faces) / count
        assert 0.1 <= share <= 0.6, name


def changed_pixels(face: Face, other: Face) -> int:
    """Pixels that differ by more than an eighth of the range in some channel."""
    first, second = (np.asarray(drawn_faces.paint(f), np.int16) for f in (face, other))
    return int((np.abs(first - second).max(axis=2) > 32).sum())


@pytest.mark.parametrize("name", drawn_faces.ATTRIBUTES)
def test_an_attribute_can_be_seen_in_every_face_that_has_it(name: str) -> None:
    faces = (drawn_faces.sample_face(1, index) for index in range(400))
    having = [face for face in faces if drawn_faces.attributes_of(face)[name]][:12]
    for face in having:
        without = replace(face, **WITHOUT[name])
        assert not drawn_faces.attributes_of(without)[name]
        assert changed_pixels(face, without) >= 40


def test_faces_are_aligned_and_fill_a_centred_square() -> None:
    # The mean of many faces has its darkest spots, the eyes, on CelebA's row.
    mean = np.mean(
        [np.asarray(drawn_faces.draw_face(2, i)[0].convert("L"), float) for i in range(80)], axis=0
    )
    left, right = mean[95:130, 55:80], mean[95:130, 98:123]
    for eye in (left, right):
        row = 95 + int(np.unravel_index(eye.argmin(), eye.shape)[0])
        assert abs(row - 112) <= 6


def test_the_celeba_layout_holds_the_same_faces(tmp_path: Path) -> None:
    images, table = drawn_faces.write_celeba_layout(tmp_path, 5, seed=4)
    with zipfile.ZipFile(images) as archive:
        names = archive.namelist()
        assert names == [f"img_align_celeba/{k:06d}.jpg" for k in range(1, 6)]
        decoded = Image.open(io.BytesIO(archive.read(names[2])))
        face, attributes = drawn_faces.draw_face(4, 2)
        error = np.asarray(decoded, float) - np.asarray(face, float)
        assert np.abs(error).mean() < 4  # JPEG at quality 92.
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image_id"] for row in rows] == [f"{k:06d}.jpg" for k in range(1, 6)]
    assert {k: v for k, v in rows[2].items() if k != "image_id"} == {
        name: "1" if value else "-1" for name, value in attributes.items()
    }
    before = images.read_bytes(), table.read_bytes()
    drawn_faces.write_celeba_layout(tmp_path, 5, seed=4)
    assert (images.read_bytes(), table.read_bytes()) == before
