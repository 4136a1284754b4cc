"""Models of different sizes are compared on images that were made alike."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import load_image, write_dataset

from raygen.config.run import ImageFormat
from raygen.data.images import fit_images
from raygen.data.sources.drawn import DrawnFaces
from raygen.measuring.common_size import reduced, reduction


def test_samples_are_reduced_as_the_real_images_were(tmp_path: Path) -> None:
    faces = DrawnFaces(6)
    large, small = ImageFormat(218, 178), ImageFormat.parse("32")
    both = [fit_images(load_image(faces, k)[0], [large, small]) for k in range(6)]
    manifests = []
    for image in (large, small):
        written, _ = write_dataset(tmp_path / image.size, [4], [2], image.width, 5, image.height)
        manifests.append(replace(written, crop=image.crop))
    target = reduction(*manifests)
    assert target == small
    np.testing.assert_array_equal(
        reduced(np.stack([pair[0] for pair in both]), target),
        np.stack([pair[1] for pair in both]),
    )


def test_squares_of_one_crop_are_only_resized(tmp_path: Path) -> None:
    large, small = (write_dataset(tmp_path / str(s), [4], [2], s)[0] for s in (64, 32))
    assert reduction(large, small) == ImageFormat(32, 32)
    cropped = [replace(manifest, crop=150) for manifest in (large, small)]
    assert reduction(*cropped) == ImageFormat(32, 32)
    images = np.full((2, 64, 64, 3), 7, np.uint8)
    np.testing.assert_array_equal(reduced(images, ImageFormat(32, 32)), images[:, ::2, ::2])


def test_what_cannot_be_made_alike_is_refused(tmp_path: Path) -> None:
    large, small = (write_dataset(tmp_path / str(s), [4], [2], s)[0] for s in (64, 32))
    with pytest.raises(ValueError, match="32x32 is not larger than 64x64"):
        reduction(small, large)
    with pytest.raises(ValueError, match="a square of 150 pixels"):
        reduction(large, replace(small, crop=150))
    for other in (
        replace(small, source={"kind": "other"}),
        replace(small, rejected=({"id": "1", "split": "train", "reason": "damaged"},)),
        write_dataset(tmp_path / "fewer", [3], [2], 32)[0],
    ):
        with pytest.raises(ValueError, match="not prepared from the same files"):
            reduction(large, other)
