"""Networks for images of other sizes than the presets': which there are, and what they make."""

from typing import Any

import pytest
import torch
from helpers import batch_of, build_any, scaled_images, small_config, step_of

from raygen.config.run import PRESETS, RunConfig
from raygen.core.errors import UserError
from raygen.models import build_model


@pytest.mark.parametrize("preset", ["dcgan-celeba", "dcgan-anime", "vaegan-anime"])
@pytest.mark.parametrize("side", [32, 64, 128])
def test_families_with_a_discriminator_train_at_three_sizes(preset: str, side: int) -> None:
    model = build_any(small_config(preset, size=str(side), schedule="1:1"))
    count = model.config.step_images
    metrics = model.update(batch_of(scaled_images(count, side, side)), step_of(0, count))
    assert all(bool(torch.isfinite(value)) for value in metrics.values())
    images = model.sample(model.fixed_noise(3, purpose=1))
    assert images.shape == (3, 3, side, side)
    assert model.image_shape == (3, side, side)


@pytest.mark.parametrize("size", ["8x8", "17x31", "64x48", "100x100"])
def test_a_vae_trains_at_any_size(size: str) -> None:
    model = build_any(small_config("vae-celeba", size=size, latent_size=4))
    _, height, width = model.image_shape
    assert f"{height}x{width}" == size
    model.update(batch_of(scaled_images(8, height, width)), step_of(0, 8))
    mean, _ = model.encode(scaled_images(2, height, width))
    assert model.decode(mean).shape == (2, 3, height, width)


def shapes(config: RunConfig) -> dict[str, Any]:
    networks = build_model(config).networks
    return {name: {k: v.shape for k, v in n.state_dict().items()} for name, n in networks.items()}


@pytest.mark.parametrize("preset", PRESETS)
def test_the_presets_own_size_gives_the_presets_own_networks(preset: str) -> None:
    config = small_config(preset)
    assert shapes(config.updated({"size": config.size}, "test")) == shapes(config)
    # Both DCGANs are of one family: size alone decides between the article's two pairs.
    if preset == "dcgan-celeba":
        other = small_config("dcgan-anime", latent_size=100)
        assert shapes(config.updated({"size": "64"}, "test")) == shapes(other)


@pytest.mark.parametrize(
    ("preset", "size", "message"),
    [
        ("dcgan-celeba", "48", "--size 48x48: must be one of 32, 64, 128"),
        ("vaegan-anime", "64x32", "--size 64x32: must be one of 32, 64, 128"),
        ("vae-celeba", "7x64", "--size 7x64: must have at least 8 pixels a side"),
        ("vae-celeba", "large", "--size large: must be pixels as in 32"),
        ("vae-celeba", "0", "--size 0: must be pixels"),
    ],
)
def test_a_size_that_no_networks_are_built_for_is_refused(
    preset: str, size: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        small_config(preset, size=size)
