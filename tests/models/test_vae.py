"""The VAE: its shapes and sizes, its loss, its optimizers, its pictures, and two workers."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import (
    Moves,
    Seen,
    batch_of,
    build,
    check_two_workers_equal_one,
    fixed_statistics,
    in_double_precision,
    output_shapes,
    scaled_images,
    sizes,
    small_config,
    step_of,
)
from torch import Tensor, nn
from torch.distributions import Normal
from torch.distributions import kl_divergence as exact_divergence

from raygen.config.families import VAEConfig
from raygen.config.fields import updated
from raygen.config.run import PRESETS, RunConfig
from raygen.core.errors import UserError
from raygen.models.layers import VALIDATION_NOISE
from raygen.models.vae import VAE, Decoder, Encoder, halved

pytestmark = pytest.mark.numeric

LATENT = 8
HEIGHT, WIDTH = 218, 178


def config(**options: Any) -> RunConfig:
    values = {"width": 0.05, "latent_size": LATENT, "batch_size": 4} | options
    return small_config("vae-celeba", **values)


def images(count: int = 4, seed: int = 0) -> Tensor:
    return scaled_images(count, HEIGHT, WIDTH, seed)


@pytest.fixture(scope="module")
def full_size() -> tuple[Encoder, Decoder]:
    return Encoder().eval(), Decoder().eval()


def test_parameter_counts_are_the_reference_systems(full_size: tuple[Encoder, Decoder]) -> None:
    encoder, decoder = full_size
    assert sizes(encoder) == (44_432_640, 3_008)
    assert sizes(decoder) == (23_042_307, 960)
    preset = PRESETS["vae-celeba"]
    assert preset.image.size == "218x178"
    assert preset.width == 1
    assert preset.model.latent_size == 512


def test_shapes_are_the_reference_systems(full_size: tuple[Encoder, Decoder]) -> None:
    encoder, decoder = full_size
    real = images(1)
    assert output_shapes(encoder, nn.MaxPool2d, real) == [
        [32, 109, 89],
        [64, 55, 45],
        [128, 28, 23],
        [256, 14, 12],
    ]
    assert output_shapes(encoder, nn.Flatten, real) == [[43_008]]
    codes = torch.randn(2, 512, generator=torch.Generator().manual_seed(0))
    assert output_shapes(decoder, nn.Linear, codes) == [[43_008]]
    assert output_shapes(decoder, nn.Conv2d, codes) == [
        [256, 28, 23],
        [128, 55, 45],
        [64, 109, 89],
        [32, 218, 178],
        [3, 218, 178],
    ]
    with torch.no_grad():
        mean, log_var = encoder(real)
        decoded = decoder(codes)
    assert mean.shape == log_var.shape == (1, 512)
    assert not torch.equal(mean, log_var)
    assert decoded.shape == (2, 3, 218, 178)
    assert decoded.abs().max() <= 1


@pytest.mark.parametrize(("height", "width"), [(33, 17), (16, 16), (1, 1), (15, 50), (97, 2)])
def test_images_of_any_size_come_back_in_their_size(height: int, width: int) -> None:
    encoder, decoder = (kind(height, width, 5, 0.05) for kind in (Encoder, Decoder))
    with torch.no_grad():
        mean, log_var = encoder(scaled_images(2, height, width))
        assert mean.shape == log_var.shape == (2, 5)
        assert decoder(mean).shape == (2, 3, height, width)


def test_sides_are_halved_and_rounded_up() -> None:
    assert [halved(218, n) for n in range(5)] == [218, 109, 55, 28, 14]
    assert [halved(178, n) for n in range(5)] == [178, 89, 45, 23, 12]


def test_upsampling_doubles_and_crops_the_last_row_and_column() -> None:
    # One block from 2 x 3 to 3 x 5: a convolution of the doubled features, cropped.
    decoder = Decoder(17, 33, 4, 0.05).eval()
    convolution = next(m for m in decoder.blocks.modules() if isinstance(m, nn.Conv2d))
    seen = Seen(convolution)
    with torch.no_grad():
        start = decoder.project(torch.ones(1, 4)).view(1, -1, 2, 3)
        decoder(torch.ones(1, 4))
    doubled = start.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    expected = F.conv2d(doubled[:, :, :3, :5], convolution.weight, convolution.bias, padding=1)
    torch.testing.assert_close(seen.outputs[0], expected, rtol=1e-4, atol=1e-5)


def few_images() -> Tensor:
    """Four smooth images of different colours, (4, 3, 218, 178)."""
    random = torch.Generator().manual_seed(0)
    colours = torch.rand(4, 3, 3, 2, generator=random) * 1.6 - 0.8
    return F.interpolate(colours, (HEIGHT, WIDTH), mode="bilinear")


def doubles(model: VAE, suffix: str = "") -> tuple[Encoder, Decoder]:
    """Copies of encoder and decoder in double precision, as they are now."""
    encoder = copy.deepcopy(model.networks[f"encoder{suffix}"]).double()
    decoder = copy.deepcopy(model.networks[f"decoder{suffix}"]).double()
    assert isinstance(encoder, Encoder)
    assert isinstance(decoder, Decoder)
    return encoder, decoder


def encoded(encoder: Encoder, real: Tensor) -> tuple[Tensor, Tensor]:
    """What the encoder makes of images, in their precision; its own results are single."""
    features = encoder.features(real)
    mean, log_var = encoder.mean(features), encoder.log_var(features)
    assert mean.dtype == log_var.dtype == real.dtype
    return mean, log_var


def decoded_from(decoder: Decoder, codes: Tensor) -> Tensor:
    """What the decoder makes of codes, in their precision."""
    features = decoder.project(codes).unflatten(1, decoder.start)
    for block, (height, width) in zip(decoder.blocks, decoder.sizes[1:], strict=True):
        features = features.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        convolution, relu, norm = block.children()
        assert isinstance(convolution, nn.Conv2d)
        features = features[:, :, :height, :width]
        features = F.conv2d(features, convolution.weight, convolution.bias, padding=1)
        features = norm(relu(features))
    result: Tensor = decoder.image(features)
    return result


def losses_by_hand(
    networks: tuple[Encoder, Decoder], real: Tensor, noise: Tensor, kl_weight: float
) -> dict[str, Tensor]:
    real, noise = real.double(), noise.double()
    mean, log_var = encoded(networks[0], real)
    decoded = decoded_from(networks[1], mean + torch.sqrt(torch.exp(log_var)) * noise)
    mse = ((decoded - real) ** 2).sum() / real.numel()
    posterior = Normal(mean, torch.sqrt(torch.exp(log_var)))
    kl = exact_divergence(posterior, Normal(0.0, 1.0)).sum() / len(real)
    return {"mse": mse, "kl": kl, "total": mse + kl_weight * kl}


@pytest.mark.parametrize("kl_weight", [0.0, 0.05])
def test_the_loss_and_its_gradients_by_hand(kl_weight: float) -> None:
    model = build(VAE, config(kl_weight=kl_weight, optimizer="adam", seed=2))
    fixed_statistics(model, variance=(0.05, 0.2))
    networks, real = doubles(model), few_images().double()
    entered, left = Seen(model.networks["decoder"]), Seen(model.networks["encoder"])
    with in_double_precision(model):
        metrics = model.update(batch_of(real), step_of(7, 4))

    # The noise, from the codes that the decoder was given: one vector for each image.
    mean, log_var = left.outputs[0]
    noise = (entered.inputs[0] - mean.detach()) / torch.exp(log_var.detach() / 2)
    assert noise.shape == (4, LATENT)
    assert all((noise[a] - noise[b]).abs().max() > 0.1 for a in range(4) for b in range(a))
    expected = losses_by_hand(networks, real, noise, kl_weight)
    assert metrics.keys() == {f"loss/{name}" for name in expected}
    for name, value in expected.items():
        assert metrics[f"loss/{name}"].item() == pytest.approx(value.item(), rel=1e-9), name

    expected["total"].backward()
    compared = 0
    for name, double in zip(("encoder", "decoder"), networks, strict=True):
        for mine, exact in zip(model.networks[name].parameters(), double.parameters(), strict=True):
            assert mine.grad is not None
            assert exact.grad is not None
            difference = (mine.grad.double() - exact.grad).norm()
            assert difference <= 1e-9 * exact.grad.norm()
            compared += 1
    assert compared == 8 + 8 + 8 + 2 + 16 + 2


def test_noise_follows_seed_and_step() -> None:
    def codes(seed: int, number: int) -> Tensor:
        model = build(VAE, config(seed=seed))
        entered, left = Seen(model.networks["decoder"]), Seen(model.networks["encoder"])
        model.update(batch_of(images()), step_of(number, 4))
        mean, log_var = left.outputs[0]
        noise: Tensor = (entered.inputs[0] - mean) / torch.exp(log_var / 2)
        return noise.detach()

    first = codes(0, 0)
    assert torch.equal(first, codes(0, 0))
    assert (first - codes(0, 1)).abs().max() > 0.1
    assert (first - codes(1, 0)).abs().max() > 0.1


def flat_weights(model: VAE) -> Tensor:
    networks = (model.networks["encoder"], model.networks["decoder"])
    return torch.cat([p.detach().double().flatten() for n in networks for p in n.parameters()])


def flat_gradients(model: VAE) -> Tensor:
    networks = (model.networks["encoder"], model.networks["decoder"])
    gradients = [p.grad for n in networks for p in n.parameters()]
    return torch.cat([g.double().flatten() for g in gradients if g is not None])


def test_rmsprop_with_decay_nine_tenths_by_default() -> None:
    assert PRESETS["vae-celeba"].model == VAEConfig(optimizer="rmsprop", lr=1e-3)
    model = build(VAE, config(lr=2e-4))
    squares, weights = torch.zeros(()), flat_weights(model)
    for number in range(3):
        model.update(batch_of(images(seed=number)), step_of(number, 4))
        gradients = flat_gradients(model)
        assert gradients.shape == weights.shape
        squares = 0.9 * squares + 0.1 * gradients**2
        weights = weights - 2e-4 * gradients / (squares.sqrt() + 1e-8)
        torch.testing.assert_close(flat_weights(model), weights, rtol=0, atol=1e-6)
        # From the rounded weights, so that nothing but the next step is compared.
        weights = flat_weights(model)


def test_adam_on_request() -> None:
    model = build(VAE, config(lr=2e-4, optimizer="adam"))
    first = second = torch.zeros(())
    weights = flat_weights(model)
    for number in range(3):
        model.update(batch_of(images(seed=number)), step_of(number, 4))
        gradients = flat_gradients(model)
        first = 0.9 * first + 0.1 * gradients
        second = 0.999 * second + 0.001 * gradients**2
        corrected = first / (1 - 0.9 ** (number + 1)), second / (1 - 0.999 ** (number + 1))
        weights = weights - 2e-4 * corrected[0] / (corrected[1].sqrt() + 1e-8)
        torch.testing.assert_close(flat_weights(model), weights, rtol=0, atol=1e-6)
        weights = flat_weights(model)


def test_a_small_model_learns_four_images_by_heart() -> None:
    model, real = build(VAE, config(lr=3e-3)), few_images()
    errors = [
        float(model.update(batch_of(real), step_of(number, 4))["loss/mse"]) for number in range(70)
    ]
    last = math.fsum(errors[-10:]) / 10
    # Much better than any single image is for all four.
    of_mean_image = float((real - real.mean(dim=0)).square().mean())
    assert last < 0.65 * of_mean_image
    assert last < 0.25 * errors[0]


def test_validation_is_the_loss_on_the_averaged_networks() -> None:
    model = build(VAE, config(kl_weight=0.01, ema_images=1_000))
    for number in range(2):
        model.update(batch_of(images(seed=number)), step_of(number, 4))
    real, moves = images(3, seed=9), Moves(model)
    measured = model.validate(batch_of(real), 5)
    assert not moves.take()
    assert model.networks["encoder"].training
    assert model.networks["decoder"].training
    averaged = doubles(model, "_ema")
    noise = model.fixed_noise(3, VALIDATION_NOISE, 5)
    with torch.no_grad():
        expected = losses_by_hand(averaged, real, noise, 0.01)
    assert measured.keys() == {f"validation/{name}" for name in expected}
    for name, value in expected.items():
        assert measured[f"validation/{name}"].item() == pytest.approx(value.item(), rel=1e-4)
    assert all(
        torch.equal(value, model.validate(batch_of(real), 5)[n]) for n, value in measured.items()
    )


def test_encoding_and_decoding_use_the_averaged_networks() -> None:
    model, real = build(VAE, config(ema_images=100_000)), images(3)
    for number in range(3):
        model.update(batch_of(images(seed=number)), step_of(number, 4))
    assert model.can_encode
    mean, log_var = model.encode(real)
    assert mean.shape == log_var.shape == (3, LATENT)
    decoded = model.decode(mean)
    assert decoded.shape == real.shape
    assert decoded.abs().max() <= 1
    assert not decoded.requires_grad
    encoder, decoder = model.networks["encoder_ema"], model.networks["decoder_ema"]
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip((mean, log_var), encoder(real), strict=True))
        assert torch.equal(decoded, decoder(mean))
        trained = model.networks["encoder"].eval()(real)
    assert not torch.equal(mean, trained[0])


def test_without_averages_the_networks_themselves_are_drawn() -> None:
    model, real = build(VAE, config(ema_images=0)), images(2)
    assert set(model.networks) == {"encoder", "decoder"}
    model.update(batch_of(images()), step_of(0, 4))
    mean, _ = model.encode(real)
    assert model.networks["encoder"].training
    with torch.no_grad():
        assert torch.equal(mean, model.networks["encoder"].eval()(real)[0])


def test_pictures_are_of_the_same_codes_and_images() -> None:
    model, real = build(VAE, config(ema_images=100_000)), images(5)
    first, again = model.pictures(3, real), model.pictures(3, real)
    shapes = {name: (len(p.images), p.columns) for name, p in first.items()}
    assert shapes == {
        "samples": (3, 0),
        "interpolation": (40, 8),
        "reconstructions": (10, 8),
        "codes": (16, 4),
    }
    for name, picture in first.items():
        assert picture.images.shape[1:] == (3, HEIGHT, WIDTH)
        assert picture.images.abs().max() <= 1
        assert torch.equal(picture.images, again[name].images)
    pairs = first["reconstructions"].images
    assert torch.equal(pairs[::2], real)
    decoded = model.decode(model.encode(real)[0])
    assert torch.equal(pairs[1::2], decoded)
    # Another state draws others.
    model.update(batch_of(images()), step_of(0, 4))
    assert not torch.equal(model.pictures(3, real)["samples"].images, first["samples"].images)


@pytest.mark.slow
def test_two_workers_with_half_the_batch_equal_one_with_all_of_it(tmp_path: Path) -> None:
    compared = check_two_workers_equal_one(tmp_path, config(), 4, variance=(0.5, 1.5))
    assert compared == {"loss/total", "loss/mse", "loss/kl"}


def test_options_out_of_range_are_refused() -> None:
    for name, value in (("lr", 0.0), ("kl_weight", -0.1), ("optimizer", "sgd")):
        with pytest.raises(UserError, match=f"--{name.replace('_', '-')}"):
            updated(VAEConfig(), {name: value}, "here")
