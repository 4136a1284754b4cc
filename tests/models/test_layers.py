"""Shared pieces: codes that do not depend on the workers, and the moving average."""

import pytest
import torch
from torch import nn

from raygen.models.layers import MovingAverage, frozen, latent_codes, scaled


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_workers_share_the_codes_of_one(world_size: int) -> None:
    whole = latent_codes(12, 5, (1, 2, 3))
    parts = [latent_codes(12, 5, (1, 2, 3), rank, world_size) for rank in range(world_size)]
    assert torch.equal(torch.cat(parts), whole)


def test_codes_are_normal_and_follow_their_seed() -> None:
    codes = latent_codes(1000, 100, (0, 1))
    assert codes.mean().abs() < 0.01
    assert codes.std().item() == pytest.approx(1, abs=0.01)
    assert not torch.equal(codes, latent_codes(1000, 100, (0, 2)))
    assert not torch.equal(codes, latent_codes(1000, 100, (1, 0)))


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


def test_scaled_channels() -> None:
    assert [scaled(64, width) for width in (1, 0.5, 1.5, 0.001)] == [64, 32, 96, 1]
