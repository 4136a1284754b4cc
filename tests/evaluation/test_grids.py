"""Grids and PNG files."""

import io
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.utils import make_grid

from raygen.evaluation.grids import GridFile, encode_png, grid, to_uint8, upper_part


def test_pixels_come_back_as_they_went_in() -> None:
    pixels = torch.arange(256).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    values = pixels.float() / 127.5 - 1
    assert np.array_equal(to_uint8(values), pixels.permute(0, 2, 3, 1).numpy())
    assert to_uint8(torch.full((1, 3, 1, 1), 7.0)).max() == 255
    assert to_uint8(torch.full((1, 3, 1, 1), -7.0)).min() == 0


def test_a_grid_lays_images_out_row_by_row() -> None:
    values = torch.linspace(-1, 1, 6).view(6, 1, 1, 1).expand(6, 3, 4, 5)
    pixels = grid(values, columns=3)
    assert pixels.shape == (2 * (4 + 2) + 2, 3 * (5 + 2) + 2, 3)
    expected = to_uint8(values)[:, 0, 0, 0]
    for number in range(6):
        row, column = divmod(number, 3)
        top, left = 2 + row * 6, 2 + column * 7
        assert (pixels[top : top + 4, left : left + 5, 0] == expected[number]).all()
    assert grid(values).shape == pixels.shape


@pytest.mark.parametrize(("count", "columns"), [(1, 4), (3, 8), (7, 3), (8, 2)])
def test_a_grid_is_that_of_torchvision(count: int, columns: int) -> None:
    images = torch.rand(count, 3, 5, 4, generator=torch.Generator().manual_seed(count)) * 2 - 1
    expected = make_grid(images, nrow=columns, padding=2, pad_value=1.0)
    assert np.array_equal(grid(images, columns), to_uint8(expected[None])[0])


def test_grids_have_no_gaps_where_they_can() -> None:
    def shape(count: int) -> tuple[int, int]:
        height, width, _ = grid(torch.zeros(count, 3, 4, 4)).shape
        return (height - 2) // 6, (width - 2) // 6

    expected = {2: (1, 2), 10: (2, 5), 15: (3, 5), 16: (4, 4), 64: (8, 8), 7: (3, 3)}
    assert {count: shape(count) for count in expected} == expected


def test_png_files_keep_every_pixel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_png(pixels)))), pixels)


def test_the_upper_part_of_a_grid_is_read_without_the_rest() -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 6, 5, 3), np.uint8)
    written = io.BytesIO()
    file = GridFile(written, 8, 2, 6, 5)
    file.add(images)
    whole = np.asarray(Image.open(io.BytesIO(written.getvalue())))
    for data in (written.getvalue(), encode_png(whole)):
        for rows in (1, 10, 34, 99):
            part = Image.open(io.BytesIO(upper_part(data, rows)))
            assert np.array_equal(np.asarray(part), whole[:rows])
    # The end of the file is not needed.
    large = np.random.default_rng(0).integers(0, 256, (400, 300, 3), np.uint8)
    begin = encode_png(large)[: 200 * 300 * 3]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(upper_part(begin, 100)))), large[:100])


def test_what_is_no_grid_has_no_upper_part() -> None:
    def saved(image: Image.Image) -> bytes:
        file = io.BytesIO()
        image.save(file, "PNG")
        return file.getvalue()

    whole = encode_png(np.zeros((8, 8, 3), np.uint8))
    huge = whole[:16] + b"\x7f\xff\xff\xff" + whole[20:]
    damaged = whole[:43] + b"\xff" * (len(whole) - 43)
    for data, problem in (
        (b"", "not a PNG file"),
        (whole[:20], "not a PNG file"),
        (b"GIF89a" + whole[6:], "not a PNG file"),
        (saved(Image.new("L", (8, 8))), "not a PNG of 8 bits for each"),
        (huge, "pixels wide"),
        (whole[:45], "ends early"),
        (whole[:33], "ends early"),
    ):
        with pytest.raises(ValueError, match=problem):
            upper_part(data, 4)
    with pytest.raises((ValueError, zlib.error)):
        upper_part(damaged, 4)
