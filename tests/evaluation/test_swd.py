"""The sliced Wasserstein distance: its parts against independent computations, and its order."""

import math
import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from raygen.evaluation import swd
from raygen.evaluation.swd import laplacian_pyramid, projected_distance, sliced_wasserstein

pytestmark = pytest.mark.numeric


def pictures(seed: int, count: int = 16, height: int = 32, width: int = 32) -> Tensor:
    """Smooth colours with some grain, of one distribution whatever the seed."""
    random = torch.Generator().manual_seed(seed)
    colours = torch.randn(count, 3, 5, 5, generator=random)
    smooth = F.interpolate(colours, (height, width), mode="bilinear", align_corners=True)
    grain = torch.randn(count, 3, height, width, generator=random)
    return (0.4 * smooth + 0.1 * grain).clamp(-1, 1)


def noise(count: int = 16, height: int = 32, width: int = 32) -> Tensor:
    random = torch.Generator().manual_seed(99)
    return torch.rand(count, 3, height, width, generator=random) * 2 - 1


def convolved(image: np.ndarray) -> np.ndarray:
    """(H, W) float64, the 5 x 5 kernel spelled out and the border mirrored by hand."""
    kernel = np.outer([1, 4, 6, 4, 1], [1, 4, 6, 4, 1]) / 256
    height, width = image.shape
    rows = [abs(y) if y < height else 2 * height - 2 - y for y in range(-2, height + 2)]
    columns = [abs(x) if x < width else 2 * width - 2 - x for x in range(-2, width + 2)]
    padded = image[np.ix_(rows, columns)]
    result = np.zeros_like(image)
    for y in range(5):
        for x in range(5):
            result += kernel[y, x] * padded[y : y + height, x : x + width]
    return result


def enlarged(image: np.ndarray, like: np.ndarray) -> np.ndarray:
    spread = np.zeros(like.shape)
    spread[::2, ::2] = image
    return 4 * convolved(spread)


@pytest.mark.parametrize(
    ("size", "sizes"),
    [
        ((7, 9), [(7, 9)]),
        ((31, 64), [(31, 64)]),
        ((32, 32), [(32, 32), (16, 16)]),
        ((33, 47), [(33, 47), (17, 24)]),
        ((64, 64), [(64, 64), (32, 32), (16, 16)]),
        ((218, 178), [(218, 178), (109, 89), (55, 45), (28, 23)]),
    ],
)
def test_a_pyramid_is_that_of_the_definition_and_adds_up_to_the_image(
    size: tuple[int, int], sizes: list[tuple[int, int]]
) -> None:
    image = noise(1, *size).numpy()
    levels = laplacian_pyramid(image)
    assert [level.shape[2:] for level in levels] == sizes
    assert all(level.dtype == np.float32 for level in levels)

    blurred = image[0, 0].astype(np.float64)
    for _ in sizes[1:]:
        blurred = convolved(blurred)[::2, ::2]
    np.testing.assert_allclose(levels[-1][0, 0], blurred, atol=1e-6)

    total = levels[-1][0, 0].astype(np.float64)
    for level in levels[-2::-1]:
        total = level[0, 0] + enlarged(total, level[0, 0])
    np.testing.assert_allclose(total, image[0, 0], atol=2e-6)


@pytest.mark.parametrize("size", [(7, 9), (33, 47), (64, 130)])
def test_a_level_by_itself_is_the_pyramid_s(size: tuple[int, int]) -> None:
    images = pictures(5, 3, *size).numpy()
    for number, level in enumerate(laplacian_pyramid(images)):
        assert np.array_equal(swd._laplacian_level(images, number), level)


def test_normal_patches_have_no_mean_and_unit_spread_in_each_channel() -> None:
    random = np.random.default_rng(3)
    patches = random.normal(size=(5_000, 3, 7, 7)) * [[[[3]], [[0.2]], [[1e-6]]]] + 100
    patches = patches.astype(np.float32)
    expected = patches - patches.mean(axis=(0, 2, 3), keepdims=True, dtype=np.float64)
    spread = expected.std(axis=(0, 2, 3), keepdims=True)
    assert spread.ravel()[2] < swd.LEAST_SPREAD
    swd._normalise(patches)
    # float32 tells apart 8e-6 at 100.
    np.testing.assert_allclose(
        patches, expected / spread.clip(swd.LEAST_SPREAD), rtol=1e-5, atol=1e-3
    )
    assert patches[:, :2].mean(axis=(0, 2, 3)) == pytest.approx([0, 0], abs=1e-4)
    assert patches[:, :2].std(axis=(0, 2, 3)) == pytest.approx([1, 1], abs=1e-4)


def test_even_colours_have_no_detail_at_any_border() -> None:
    *details, smallest = laplacian_pyramid(np.full((1, 3, 67, 130), 0.7, np.float32))
    assert len(details) == 2
    assert all(np.abs(detail).max() < 1e-6 for detail in details)
    np.testing.assert_allclose(smallest, 0.7, atol=1e-6)


def test_on_a_line_the_distance_is_the_area_between_the_cumulative_distributions() -> None:
    real, fake = np.random.default_rng(0).normal([0, 0.3], [1, 2], (50, 2)).astype(np.float32).T
    values = np.sort(np.concatenate([real, fake]))
    heights = np.array([abs((real <= value).mean() - (fake <= value).mean()) for value in values])
    expected = float((heights[:-1] * np.diff(values)).sum())
    distance = projected_distance(real[:, None], fake[:, None], np.random.default_rng(1))
    assert distance == pytest.approx(expected, rel=1e-5)


def test_in_a_plane_a_shift_counts_two_over_pi_of_its_length() -> None:
    real = np.random.default_rng(0).standard_normal((40, 2), np.float32)
    fake = real[::-1] + np.array([3, 4], np.float32)
    distance = projected_distance(real, fake, np.random.default_rng(1))
    assert distance == pytest.approx(5 * 2 / math.pi, rel=0.1)


def test_a_shift_is_measured_in_the_spreads_of_the_real_channels() -> None:
    # Images of one patch leave nothing to chance but the directions, and |cos| of the angle
    # between a random direction and a fixed one has a known mean.
    spread = torch.tensor([0.1, 0.2, 0.4]).view(3, 1, 1)
    real = noise(200, 7, 7) * spread
    shift = 0.05
    offset = shift / real.std(dim=(0, 2, 3)).numpy().repeat(49)
    cosine = math.exp(math.lgamma(147 / 2) - math.lgamma(148 / 2)) / math.sqrt(math.pi)
    expected = 1e3 * float(np.linalg.norm(offset)) * cosine
    assert sliced_wasserstein(real, real + shift) == pytest.approx(expected, rel=0.1)
    # Were the fakes measured in their own spreads, half the contrast would be no difference.
    assert sliced_wasserstein(real, real / 2) > 100


def test_a_set_is_nearer_to_itself_than_to_its_like_and_that_nearer_than_noise() -> None:
    real = pictures(1)
    itself = sliced_wasserstein(real, real)
    like = sliced_wasserstein(real, pictures(2))
    # Not zero: the patches of either set are drawn by themselves ...
    assert 0 < itself < like < sliced_wasserstein(real, noise()) / 3
    # ... unless there is but one patch to draw, and then in any order, up to rounding.
    tiny = noise(40, 7, 7)
    assert sliced_wasserstein(tiny, tiny) == pytest.approx(0, abs=1e-3)
    assert sliced_wasserstein(tiny, tiny.flip(0)) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("size", [(16, 16), (45, 70)])
def test_grows_with_blur_and_with_brightness_and_with_lost_contrast(size: tuple[int, int]) -> None:
    real, fake = pictures(1, 16, *size), pictures(2, 16, *size)
    mean = fake.mean(dim=(2, 3), keepdim=True)
    blurs = [fake]
    for _ in range(3):
        blurs.append(F.avg_pool2d(F.pad(blurs[-1], (1, 1, 1, 1), mode="reflect"), 3, 1))
    ladders = {
        "blur": blurs,
        "brighter": [fake + shift for shift in (0, 0.2, 0.4, 0.6)],
        "darker": [fake - shift for shift in (0, 0.2, 0.4, 0.6)],
        "flatter": [mean + (fake - mean) * contrast for contrast in (1, 0.8, 0.6, 0.3)],
    }
    for change, ladder in ladders.items():
        values = [sliced_wasserstein(real, step) for step in ladder]
        assert all(low < high for low, high in pairwise(values)), (change, values)


def test_the_order_of_the_images_matters_no_more_than_the_seed() -> None:
    real, fake = pictures(1), pictures(2)
    values = [sliced_wasserstein(real, fake, seed) for seed in range(5)]
    assert len(set(values)) == 5
    shuffled = sliced_wasserstein(real, fake.flip(0))
    assert shuffled != values[0]
    assert shuffled == pytest.approx(np.mean(values), rel=0.1)


def test_the_same_images_and_seed_give_the_same_value_and_touch_nothing_else() -> None:
    real, fake = pictures(1, 8), pictures(2, 8)
    before = real.clone(), fake.clone()
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state(legacy=False)
    value = sliced_wasserstein(real, fake, seed=3)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert str(np.random.get_state(legacy=False)) == str(numpy_state)
    assert torch.equal(real, before[0])
    assert torch.equal(fake, before[1])

    torch.manual_seed(1234)
    assert sliced_wasserstein(real, fake, seed=3) == value
    assert sliced_wasserstein(real.double(), fake.double().requires_grad_(), seed=3) == value
    with torch.autocast("cpu"):
        assert sliced_wasserstein(real, fake, seed=3) == value
    halves = real.bfloat16(), fake.half()
    assert sliced_wasserstein(*halves, seed=3) == sliced_wasserstein(
        halves[0].float(), halves[1].float(), seed=3
    )


@pytest.mark.parametrize("size", [(7, 7), (7, 40), (33, 47), (218, 178)])
@pytest.mark.parametrize("count", [1, 6])
def test_odd_and_oblong_images_are_measured(count: int, size: tuple[int, int]) -> None:
    real, fake = pictures(1, count, *size), pictures(2, count, *size)
    value = sliced_wasserstein(real, fake)
    assert 0 < value < sliced_wasserstein(real, noise(count, *size) * 3)


def test_patches_come_from_everywhere_up_to_every_border() -> None:
    real = pictures(1, 16, 13, 15)
    itself = sliced_wasserstein(real, real)
    for turns in range(4):
        edged = real.rot90(turns, (2, 3)).clone()
        edged[:, :, 0] += 2
        assert sliced_wasserstein(real, edged.rot90(-turns, (2, 3))) > itself * 1.3, turns


def test_no_image_is_left_out_when_there_are_more_than_are_worked_on_at_once() -> None:
    real = pictures(1, 50, 150, 150)
    assert real[:, 0].numel() > swd.PIXELS_AT_ONCE
    changed = real.clone()
    changed[-3:] += 1
    itself, apart = sliced_wasserstein(real, real), sliced_wasserstein(real, changed)
    assert itself * 2 < apart


def test_images_beyond_the_bound_give_fewer_patches_but_one_at_least(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = pictures(1)
    values = []
    for bound in (2**16, 16 * 8, 10):
        monkeypatch.setattr(swd, "MOST_PATCHES", bound)
        values.append(sliced_wasserstein(real, real))
    assert values[0] * 2 < values[1] < values[2] / 1.2
    assert math.isfinite(values[2])


def test_even_and_broken_images_give_a_plain_number_or_nan() -> None:
    black = torch.full((4, 3, 32, 32), -1.0)
    assert sliced_wasserstein(black, black) < 1
    assert 1e3 < sliced_wasserstein(black, noise(4)) < math.inf
    assert math.isnan(sliced_wasserstein(black, black * math.nan))


@pytest.mark.parametrize(
    ("real", "fake", "message"),
    [
        ((2, 3, 8, 8), (3, 3, 8, 8), "(2, 3, 8, 8) and (3, 3, 8, 8)"),
        ((2, 3, 8, 8), (2, 3, 8, 9), "(2, 3, 8, 8) and (2, 3, 8, 9)"),
        ((0, 3, 8, 8), (0, 3, 8, 8), "N >= 1 and H, W >= 7, not (0, 3, 8, 8)"),
        ((2, 3, 6, 8), (2, 3, 6, 8), "H, W >= 7, not (2, 3, 6, 8)"),
        ((2, 1, 8, 8), (2, 1, 8, 8), "(N, 3, H, W)"),
        ((3, 8, 8), (3, 8, 8), "(N, 3, H, W)"),
    ],
)
def test_other_shapes_are_refused(
    real: tuple[int, ...], fake: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        sliced_wasserstein(torch.zeros(real), torch.zeros(fake))


@pytest.mark.parametrize("tails", ["normal", "heavy"])
def test_many_numbers_have_the_distance_of_the_sorted_ones(tails: str) -> None:
    random = np.random.default_rng(0)
    shape = (64, 2**16)
    draw = random.standard_normal if tails == "normal" else random.standard_cauchy
    exact, binned = [], []
    for first, second in zip(draw(shape), draw(shape) * 1.01 + 0.01, strict=True):
        # As real projections: not beyond a few dozen standard deviations.
        lines = [np.clip(line, -30, 30).astype(np.float32) for line in (first, second)]
        exact.append(np.abs(np.sort(lines[0]) - np.sort(lines[1])).mean(dtype=np.float64))
        binned.append(swd.line_distance(*lines))
    np.testing.assert_allclose(binned, exact, rtol=2e-3)
    assert np.mean(binned) == pytest.approx(np.mean(exact), rel=1e-5)


def test_many_equal_numbers_have_no_distance_and_nan_has_none() -> None:
    ones = np.ones(2**13, np.float32)
    assert swd.line_distance(ones, ones) == 0
    assert swd.line_distance(ones, ones * 3) == pytest.approx(2)
    assert math.isnan(swd.line_distance(ones, ones * np.float32("nan")))


@pytest.mark.parametrize("parts", [2, 3])
def test_the_parts_of_a_distance_add_up_to_it(parts: int) -> None:
    real, fake = pictures(0), noise()
    shares = [sliced_wasserstein(real, fake, 7, part, parts) for part in range(parts)]
    assert min(shares) >= 0
    assert sum(shares) == pytest.approx(sliced_wasserstein(real, fake, 7), rel=1e-6)
