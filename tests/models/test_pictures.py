"""Pictures of a model: arcs between codes, codes drawn as maps, and how the grids are laid out."""

import math

import pytest
import torch
from helpers import build, scaled_images, small_config
from torch import Tensor, nn

from raygen.data.batch import Batch
from raygen.models.base import Metrics, Model, Step
from raygen.models.dcgan import DCGAN
from raygen.models.pictures import (
    CODES_SHOWN,
    RECONSTRUCTIONS,
    interpolations,
    map_shape,
    reconstructions,
    samples,
    slerp,
)

pytestmark = pytest.mark.numeric


def code(size: int, seed: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


SHARES = torch.linspace(0, 1, 9)


def test_an_arc_begins_and_ends_at_its_codes() -> None:
    first, last = code(50, 0), 3 * code(50, 1)
    codes = slerp(first, last, SHARES)
    assert codes.shape == (9, 50)
    torch.testing.assert_close(codes[0], first)
    torch.testing.assert_close(codes[-1], last)


def test_an_arc_keeps_the_norm_and_turns_evenly() -> None:
    first, last = code(50, 0), code(50, 1)
    last = last * first.norm() / last.norm()
    codes = slerp(first, last, SHARES).double()
    lengths = codes.norm(dim=1)
    torch.testing.assert_close(lengths, lengths[:1].expand(9), rtol=1e-5, atol=0)
    # A straight line between them would come much nearer to 0.
    straight = (first + last).norm() / 2
    assert straight < 0.9 * lengths[4]
    unit = codes / lengths.unsqueeze(1)
    angles = torch.acos((unit[:-1] * unit[1:]).sum(dim=1))
    whole = math.acos(float(unit[0] @ unit[-1]))
    torch.testing.assert_close(angles, torch.full((8,), whole / 8).double(), rtol=1e-3, atol=0)


def test_half_way_between_orthogonal_codes() -> None:
    first, last = torch.tensor([2.0, 0.0, 0.0]), torch.tensor([0.0, 2.0, 0.0])
    middle = slerp(first, last, torch.tensor([0.5]))
    expected = torch.tensor([[math.sqrt(2), math.sqrt(2), 0.0]])
    torch.testing.assert_close(middle, expected)
    # A third of the way is 30 degrees.
    third = slerp(first, last, torch.tensor([1 / 3]))
    torch.testing.assert_close(third, torch.tensor([[math.sqrt(3), 1.0, 0.0]]))


@pytest.mark.parametrize("size", [1, 2, 8, 100, 512])
@pytest.mark.parametrize("factor", [1.0, 2.5, -1.0])
def test_codes_on_one_line_with_zero_have_a_path_too(size: int, factor: float) -> None:
    for seed in range(20):
        first = code(size, seed)
        codes = slerp(first, factor * first, SHARES)
        assert torch.isfinite(codes).all()
        # None is much longer than its ends.
        longest = max(1.0, abs(factor)) * first.norm()
        assert (codes.norm(dim=1) <= 1.01 * longest).all()
        torch.testing.assert_close(codes[0], first)
        torch.testing.assert_close(codes[-1], factor * first)
    zero = torch.zeros(size)
    assert torch.isfinite(slerp(zero, zero, SHARES)).all()
    assert torch.isfinite(slerp(zero, code(size, 0), SHARES)).all()


class Known(Model):
    """A model whose codes are known: it encodes to given ones, and decodes to a flat image whose
    grey level is the code's first number."""

    can_encode = True

    def __init__(self, mean: Tensor, log_var: Tensor, height: int, width: int) -> None:
        config = small_config("vaegan-anime", latent_size=mean.shape[1])
        super().__init__(config, {"encoder": nn.Linear(1, 1)}, averaged=())
        self.mean, self.log_var, self.size = mean, log_var, (height, width)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.mean[: len(images)], self.log_var[: len(images)]

    def sample(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        return noise[:, :1, None, None].clamp(-1, 1).expand(-1, 3, *self.size)

    def update(self, batch: Batch, step: Step) -> Metrics:
        raise NotImplementedError

    def validate(self, batch: Batch, number: int) -> Metrics:
        raise NotImplementedError


def test_the_shape_of_a_map() -> None:
    assert map_shape(512) == (32, 16)
    assert map_shape(256) == (16, 16)
    assert map_shape(7) == (7, 1)
    assert map_shape(1000) == (40, 25)
    assert map_shape(100) == (10, 10)
    assert map_shape(128) == (16, 8)
    assert map_shape(1) == (1, 1)


@pytest.mark.parametrize(
    ("latent_size", "height", "width", "rows", "columns", "scale"),
    [
        (512, 64, 64, 32, 16, 2),
        (256, 64, 64, 16, 16, 4),
        (7, 64, 64, 7, 1, 9),
        (1000, 64, 64, 40, 25, 1),
        (512, 218, 178, 32, 16, 6),
        (256, 218, 178, 16, 16, 11),
        (7, 218, 178, 7, 1, 31),
        (1000, 218, 178, 40, 25, 5),
    ],
)
def test_code_maps_show_each_number_as_a_square(
    latent_size: int, height: int, width: int, rows: int, columns: int, scale: int
) -> None:
    mean, log_var = (torch.stack([code(latent_size, s + n) for n in (0, 1)]) for s in (0, 10))
    model, images = Known(mean, log_var, height, width), scaled_images(2, height, width)
    picture = reconstructions(model, images)["codes"]
    # An image, its mean, its log_var, its reconstruction; then the next one's.
    assert picture.columns == 4
    assert picture.images.shape == (8, 3, height, width)
    assert torch.equal(picture.images[0::4], images)
    assert torch.equal(picture.images[3::4], model.decode(mean))

    # Grey is 0 for the means, the middle of the range for the log variances.
    of_mean = mean / mean.abs().max()
    of_log_var = 2 * (log_var - log_var.min()) / (log_var.max() - log_var.min()) - 1
    top, left = (height - rows * scale) // 2, (width - columns * scale) // 2
    for cells, values in ((picture.images[1::4], of_mean), (picture.images[2::4], of_log_var)):
        expected = torch.ones(2, height, width)
        for row in range(rows):
            for column in range(columns):
                y, x = top + row * scale, left + column * scale
                square = values[:, row * columns + column, None, None]
                expected[:, y : y + scale, x : x + scale] = square
        for channel in range(3):
            torch.testing.assert_close(cells[:, channel], expected, rtol=0, atol=1e-6)
        assert values.abs().max() == pytest.approx(1)


def test_maps_that_are_larger_than_the_images_are_reduced() -> None:
    # 101 is a prime number, so that its map is 101 x 1.
    mean = torch.stack([code(101, 0)])
    picture = reconstructions(Known(mean, mean, 64, 64), scaled_images(1, 64, 64))["codes"]
    assert picture.images.shape == (4, 3, 64, 64)
    column = picture.images[1, 0]
    drawn = (column != 1).any(dim=0).nonzero().flatten().tolist()
    assert drawn == [31]
    values = mean[0] / mean.abs().max()
    assert torch.isin(column[:, 31], values).all()


def test_codes_that_are_all_alike_can_be_drawn() -> None:
    zeros = torch.zeros(2, 16)
    picture = reconstructions(Known(zeros, zeros + 0.3, 8, 8), scaled_images(2, 8, 8))["codes"]
    assert torch.isfinite(picture.images).all()
    assert picture.images.abs().max() <= 1


def test_only_the_first_images_are_shown() -> None:
    mean = torch.stack([code(16, seed) for seed in range(20)])
    model, images = Known(mean, mean, 8, 8), scaled_images(20, 8, 8)
    assert (CODES_SHOWN, RECONSTRUCTIONS) == (4, 16)
    assert torch.equal(reconstructions(model, images)["codes"].images[0::4], images[:4])
    pairs = reconstructions(model, images)["reconstructions"]
    assert pairs.columns == 8
    assert pairs.images.shape == (32, 3, 8, 8)
    assert torch.equal(pairs.images[0::2], images[:16])
    assert torch.equal(pairs.images[1::2], model.decode(mean[:16]))
    few = reconstructions(model, images[:3])["reconstructions"]
    assert few.images.shape == (6, 3, 8, 8)


def test_interpolations_are_rows_along_arcs_of_the_prior() -> None:
    model = build(DCGAN, small_config("dcgan-celeba"))
    seen: list[Tensor] = []
    generator = model.networks["generator"]
    generator.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    picture = interpolations(model)
    assert picture.columns == 8
    assert picture.images.shape == (40, 3, 32, 32)
    rows = seen[0].view(5, 8, 100)
    for row in rows:
        torch.testing.assert_close(row, slerp(row[0], row[-1], torch.linspace(0, 1, 8)))
        # A column is an equal share of the way: the steps are of one length where the ends are.
        assert not torch.allclose(row[0], row[-1])
    ends = rows[:, [0, -1]].flatten(0, 1)
    assert len(ends.unique(dim=0)) == 10
    assert ends.mean().abs() < 0.1
    assert ends.std().item() == pytest.approx(1, abs=0.1)
    assert torch.equal(interpolations(model).images, picture.images)
    # The samples are other codes.
    samples(model, 10)
    assert not torch.isin(seen[-1], ends).any()


def test_pictures_codes_follow_the_runs_seed() -> None:
    first, same, other = (
        build(DCGAN, small_config("dcgan-celeba", seed=seed)) for seed in (0, 0, 1)
    )
    other.networks["generator"].load_state_dict(first.networks["generator"].state_dict())
    for draw in (lambda m: samples(m, 4), interpolations):
        assert torch.equal(draw(first).images, draw(same).images)
        assert not torch.equal(draw(first).images, draw(other).images)


def test_opposite_codes_of_any_length_are_joined_by_a_line() -> None:
    for seed in range(200):
        first = code(8, seed)
        path = slerp(first, -3 * first, SHARES)
        assert path.norm(dim=1).max() <= 3.001 * first.norm()
