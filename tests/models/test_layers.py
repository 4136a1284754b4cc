"""Shared pieces: codes that do not depend on the workers, the moving average, upsampling, KL."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Normal
from torch.distributions import kl_divergence as exact_divergence

from raygen.models.layers import (
    MovingAverage,
    UpsampleConv2d,
    evaluating,
    frozen,
    initialise_uniform,
    kl_divergence,
    latents,
    recompute_statistics,
    reparameterize,
    scaled,
    with_batch_statistics,
)

pytestmark = pytest.mark.numeric


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_workers_share_the_codes_of_one(world_size: int) -> None:
    whole = latents(12, (5,), (1, 2, 3))
    parts = [latents(12, (5,), (1, 2, 3), rank, world_size) for rank in range(world_size)]
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize("size", [1, 5, 8, 100])
def test_more_codes_begin_with_the_same_codes(size: int) -> None:
    whole = latents(70, (size,), (4,))
    for count in (1, 2, 15, 17, 64):
        assert torch.equal(latents(count, (size,), (4,)), whole[:count])


def test_codes_are_normal_and_follow_their_seed() -> None:
    codes = latents(1000, (100,), (0, 1))
    assert codes.mean().abs() < 0.01
    assert codes.std().item() == pytest.approx(1, abs=0.01)
    assert not torch.equal(codes, latents(1000, (100,), (0, 2)))
    assert not torch.equal(codes, latents(1000, (100,), (1, 0)))


def test_the_average_follows_with_its_half_life() -> None:
    network, average = nn.Linear(1, 1), nn.Linear(1, 1)
    nn.init.zeros_(network.weight)
    moving = MovingAverage(network, average, half_life=100)
    nn.init.ones_(network.weight)
    for _ in range(10):
        # So late in the run that the half-life is not shortened.
        moving.update(batch_images=10, images_seen=1_000_000)
    assert average.weight.item() == pytest.approx(0.5)


def test_early_in_a_run_the_average_follows_faster() -> None:
    network, average = nn.Linear(1, 1), nn.Linear(1, 1)
    nn.init.zeros_(network.weight)
    moving = MovingAverage(network, average, half_life=10_000)
    nn.init.ones_(network.weight)
    moving.update(batch_images=10, images_seen=200)
    assert average.weight.item() == pytest.approx(0.5)


def test_running_statistics_are_copied_not_averaged() -> None:
    network, average = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
    moving = MovingAverage(network, average, half_life=1000)
    network(torch.randn(8, 2, 4, 4) * 5 + 3)
    moving.update(8, 8)
    assert network.running_mean is not None
    assert average.running_mean is not None
    assert torch.equal(average.running_mean, network.running_mean)


def test_a_frozen_network_passes_gradients_and_keeps_none() -> None:
    network = nn.Linear(3, 1)
    network.bias.requires_grad_(False)
    x = torch.ones(1, 3, requires_grad=True)
    with frozen(network):
        network(x).sum().backward()
    assert x.grad is not None
    assert network.weight.grad is None
    assert network.weight.requires_grad
    assert not network.bias.requires_grad


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", [nn.BatchNorm2d, nn.SyncBatchNorm])
def test_batch_statistics_normalise_a_batch_and_are_not_kept(
    kind: type[nn.BatchNorm2d | nn.SyncBatchNorm], training: bool
) -> None:
    norm = kind(3)
    network = nn.Sequential(norm, nn.Dropout(0.9)).train(training)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.fill_(7.0)
    norm.running_var.fill_(0.1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    buffers = dict(network.named_buffers())
    images = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 3 + 2
    with with_batch_statistics(network):
        result = network(images.requires_grad_(True))
    assert not result.requires_grad
    mean, variance = images.mean((0, 2, 3)), images.var((0, 2, 3), correction=0)
    expected = (images - mean.view(3, 1, 1)) / (variance.view(3, 1, 1) + norm.eps).sqrt()
    torch.testing.assert_close(result, expected.detach(), rtol=1e-4, atol=1e-5)
    assert network.training == norm.training == training
    after = network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    # The same tensors, which data-parallel wrappers and averages know.
    assert all(value is buffers[name] for name, value in network.named_buffers())


def test_recomputed_statistics_are_means_over_batches_and_nothing_else_changes() -> None:
    norm = nn.BatchNorm2d(3, momentum=0.2)
    network = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Dropout(0.5), norm, nn.Dropout(0.5)).eval()
    for _ in range(3):
        network.train()(torch.randn(8, 2, 4, 4) * 3)
    network.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    buffers, random = dict(network.named_buffers()), torch.get_rng_state()
    batches = torch.randn(24, 2, 4, 4, generator=torch.Generator().manual_seed(0)).split(8)
    recompute_statistics(network, batches)
    assert torch.equal(torch.get_rng_state(), random)
    with torch.no_grad():
        features = torch.stack([network[0](batch) for batch in batches])
    assert norm.running_mean is not None
    assert norm.running_var is not None
    torch.testing.assert_close(norm.running_mean, features.mean((0, 1, 3, 4)))
    variances = features.var((1, 3, 4), correction=1).mean(0)
    torch.testing.assert_close(norm.running_var, variances)
    for name, value in network.state_dict().items():
        changed = name.endswith(("running_mean", "running_var"))
        assert torch.equal(value, before[name]) is not changed, name
    assert all(value is buffers[name] for name, value in network.named_buffers())
    assert norm.momentum == 0.2
    assert not any(module.training for module in network.modules())


def test_batch_statistics_are_given_back_after_an_error() -> None:
    network = nn.BatchNorm2d(2)
    mean = network.running_mean
    with pytest.raises(ValueError, match="expected 4D"), with_batch_statistics(network):
        network(torch.zeros(2))
    assert network.running_mean is mean
    assert network.training


def test_scaled_channels() -> None:
    assert [scaled(64, width) for width in (1, 0.5, 1.5, 0.001)] == [64, 32, 96, 1]


@pytest.mark.parametrize("crop", [(0, 0), (1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize(("height", "width"), [(4, 4), (5, 3), (1, 1), (2, 7), (1, 6)])
def test_upsampling_convolution_is_upsampling_crop_and_convolution(
    height: int, width: int, crop: tuple[int, int]
) -> None:
    random = torch.Generator().manual_seed(0)
    layer = UpsampleConv2d(3, 5).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, generator=random)
    size = 2 * height - crop[0], 2 * width - crop[1]

    def plain(features: torch.Tensor) -> torch.Tensor:
        enlarged = F.interpolate(features, scale_factor=2.0)[:, :, : size[0], : size[1]]
        return F.conv2d(enlarged, layer.weight, layer.bias, padding=1)

    def as_one(features: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = layer(features, size) if any(crop) else layer(features)
        return result

    x = torch.randn(2, 3, height, width, dtype=torch.float64, generator=random)
    x = x.contiguous(memory_format=torch.channels_last)
    weights = torch.randn(2, 5, *size, dtype=torch.float64, generator=random)
    results, gradients = [], []
    for function in (as_one, plain):
        given = x.clone().requires_grad_(True)
        result = function(given)
        assert result.shape == (2, 5, *size)
        results.append(result)
        gradients.append(torch.autograd.grad(result, [given, *layer.parameters()], weights))
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)
    assert len(gradients[0]) == 3
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(as_one(x), results[1], rtol=1e-12, atol=1e-12)


def test_upsampling_convolution_in_bfloat16_is_as_exact_as_bfloat16() -> None:
    random = torch.Generator().manual_seed(0)
    layer = UpsampleConv2d(8, 4)
    x = torch.randn(2, 8, 5, 4, generator=random, requires_grad=True)
    for size in ((10, 8), (9, 7)):
        exact = layer(x, size)
        with torch.autocast("cpu", torch.bfloat16):
            rough = layer(x, size)
        assert rough.dtype == torch.bfloat16
        assert (rough - exact).norm() < 0.01 * exact.norm()
        slopes = [
            torch.autograd.grad(y.float().square().sum(), [x, *layer.parameters()])
            for y in (rough, exact)
        ]
        for a, b in zip(*slopes, strict=True):
            assert a.dtype == torch.float32
            assert (a - b).norm() < 0.02 * b.norm()


def test_uniform_weights_reach_glorots_bound_and_biases_are_zero() -> None:
    # Glorot & Bengio 2010, equation 16, with a convolution's fans being its kernel's area times
    # its channels.
    layers: dict[nn.Module, float] = {
        nn.Conv2d(20, 30, 5): 6 / (25 * (20 + 30)),
        nn.ConvTranspose2d(40, 10, 3): 6 / (9 * (40 + 10)),
        nn.Linear(60, 90): 6 / (60 + 90),
        UpsampleConv2d(24, 16): 6 / (9 * (24 + 16)),
    }
    norm = nn.BatchNorm2d(4)
    nn.init.constant_(norm.weight, 3.0)
    network = nn.ModuleList([*layers, norm])
    initialise_uniform(network, torch.Generator().manual_seed(0))
    for layer, squared in layers.items():
        weight, bound = layer.get_parameter("weight").detach(), math.sqrt(squared)
        # float32 may round the largest number up.
        assert 0.99 * bound < weight.max() <= bound * (1 + 1e-6)
        assert 0.99 * bound < -weight.min() <= bound * (1 + 1e-6)
        assert weight.var().item() == pytest.approx(squared / 3, rel=0.05)
        assert not layer.get_parameter("bias").any()
    assert torch.equal(norm.weight, torch.full((4,), 3.0))


def test_uniform_weights_follow_the_generator_alone() -> None:
    def weights(seed: int, elsewhere: int) -> torch.Tensor:
        torch.manual_seed(elsewhere)
        layer = nn.Linear(5, 5)
        initialise_uniform(layer, torch.Generator().manual_seed(seed))
        return layer.weight.detach()

    assert torch.equal(weights(0, 1), weights(0, 2))
    assert not torch.equal(weights(0, 1), weights(1, 1))


def some_codes(count: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Means and log variances, (count, size) float64 each."""
    random = torch.Generator().manual_seed(1)
    means = torch.randn(count, size, dtype=torch.float64, generator=random)
    return 1.5 * means, torch.randn(count, size, dtype=torch.float64, generator=random)


def test_the_divergence_is_the_closed_form() -> None:
    mean, log_var = some_codes(6, 40)
    posterior = Normal(mean, (log_var / 2).exp())
    expected = exact_divergence(posterior, Normal(0.0, 1.0)).sum(dim=1)
    assert kl_divergence(mean, log_var).shape == (6,)
    torch.testing.assert_close(kl_divergence(mean, log_var), expected, rtol=1e-12, atol=0)
    single = kl_divergence(mean.float(), log_var.float()).double()
    torch.testing.assert_close(single, expected, rtol=1e-5, atol=0)
    assert not kl_divergence(torch.zeros(3, 7), torch.zeros(3, 7)).any()
    assert (kl_divergence(mean, log_var) > 0).all()


def test_the_divergence_is_the_mean_of_sampled_log_ratios() -> None:
    mean, log_var = some_codes(2, 5)
    random = torch.Generator().manual_seed(2)
    noise = torch.randn(100_000, 2, 5, dtype=torch.float64, generator=random)
    z = mean + (log_var / 2).exp() * noise
    posterior, prior = Normal(mean, (log_var / 2).exp()), Normal(0.0, 1.0)
    ratios = (posterior.log_prob(z) - prior.log_prob(z)).sum(dim=2)
    standard_error = ratios.std(dim=0) / math.sqrt(len(ratios))
    difference = (kl_divergence(mean, log_var) - ratios.mean(dim=0)).abs()
    assert (difference < 4 * standard_error).all()
    # Or it would not tell anything.
    assert (standard_error < 0.01 * kl_divergence(mean, log_var)).all()


def test_sampled_codes_have_their_mean_and_variance() -> None:
    mean, log_var = some_codes(1, 4)
    random = torch.Generator().manual_seed(3)
    count = 100_000
    noise = torch.randn(count, 4, dtype=torch.float64, generator=random)
    codes = reparameterize(mean.expand(count, 4), log_var.expand(count, 4), noise)
    variance = log_var[0].exp()
    assert ((codes.mean(dim=0) - mean[0]).abs() < 4 * (variance / count).sqrt()).all()
    ratio = codes.var(dim=0) / variance
    assert ((ratio - 1).abs() < 4 * math.sqrt(2 / count)).all()


def test_sampling_passes_gradients_to_mean_and_log_var() -> None:
    mean, log_var = (t.requires_grad_(True) for t in some_codes(3, 4))
    noise = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    reparameterize(mean, log_var, noise).sum().backward()
    assert mean.grad is not None
    assert log_var.grad is not None
    assert torch.equal(mean.grad, torch.ones(3, 4, dtype=torch.float64))
    # d exp(v / 2) / dv = exp(v / 2) / 2.
    expected = 0.5 * (log_var.detach() / 2).exp() * noise
    torch.testing.assert_close(log_var.grad, expected, rtol=1e-12, atol=0)


def test_evaluating_changes_nothing_and_restores_each_networks_mode() -> None:
    def network() -> nn.Sequential:
        return nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))

    training, resting = network(), network().eval()
    before = {name: value.clone() for name, value in training.state_dict().items()}
    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(0)) + 5
    with evaluating([training, resting]):
        assert not training.training
        assert not resting.training
        first = training(x)
        # Running statistics, still 0 and 1, and no dropout.
        torch.testing.assert_close(first, training[0](x) / math.sqrt(1 + 1e-5))
        assert not first.requires_grad
    assert training.training
    assert not resting.training
    assert training(x).requires_grad
    with pytest.raises(ValueError, match="inside"), evaluating([training]):
        raise ValueError("inside")
    assert training.training
    assert torch.is_grad_enabled()
    untouched = network()
    untouched.load_state_dict(before)
    with evaluating([untouched]):
        untouched(x)
    assert all(torch.equal(before[n], v) for n, v in untouched.state_dict().items())
