"""The DCGAN: its shapes and sizes, its losses, its step, and the same step on two workers."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import random_images, run_processes, tiny_config
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from raygen.config import PRESETS, DCGANConfig, RunConfig, updated
from raygen.data.prefetch import scale_images
from raygen.errors import UserError
from raygen.models import build_model
from raygen.models.base import Step
from raygen.models.dcgan import DCGAN, Discriminator, Generator, binary_loss
from raygen.models.layers import latent_codes

CPU = torch.device("cpu")


def sizes(network: nn.Module) -> tuple[int, int]:
    """Trainable parameters, and batch-norm statistics."""
    statistics = [b.numel() for b in network.buffers() if b.is_floating_point()]
    return sum(p.numel() for p in network.parameters()), sum(statistics)


def images(count: int, seed: int = 0) -> Tensor:
    return scale_images(random_images(count, seed=seed), CPU)


def build(config: RunConfig) -> DCGAN:
    model = build_model(config)
    model.to(CPU)
    assert isinstance(model, DCGAN)
    return model


def step_of(number: int, batch_size: int = 8) -> Step:
    return Step(number, batch_size, number * batch_size)


def test_parameter_counts_and_shapes_are_the_reference_systems() -> None:
    generator, discriminator = Generator(), Discriminator()
    assert sizes(generator) == (4_931_715, 1_792)
    assert sizes(discriminator) == (1_034_113, 768)
    fake = generator(torch.randn(3, 100))
    assert fake.shape == (3, 3, 32, 32)
    assert fake.abs().max() <= 1
    assert discriminator(fake).shape == (3,)
    shapes: list[tuple[int, ...]] = []
    for layer in generator.upsample:
        if isinstance(layer, nn.ConvTranspose2d):
            layer.register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape[1:])))
    generator(torch.randn(2, 100))
    assert shapes == [(256, 8, 8), (128, 16, 16), (3, 32, 32)]


def test_width_scales_the_channels() -> None:
    generator, discriminator = Generator(width=0.5), Discriminator(width=0.25)
    assert generator(torch.randn(2, 100)).shape == (2, 3, 32, 32)
    assert discriminator(torch.randn(2, 3, 32, 32)).shape == (2,)
    assert sizes(generator)[0] < 4_931_715 / 3
    assert sizes(discriminator)[0] < 1_034_113 / 12


def test_initial_weights_follow_the_seed_and_their_distribution() -> None:
    config = replace(PRESETS["dcgan-celeba"].run, seed=3)
    first, same, other = (
        build(c).generator.project.weight for c in (config, config, replace(config, seed=4))
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert first.mean().abs() < 1e-4
    assert first.std().item() == pytest.approx(0.02, rel=0.01)


def test_binary_loss_is_cross_entropy_on_logits() -> None:
    logits = [-3.0, -0.2, 0.0, 1.7, 40.0]
    for target in (0.0, 0.9, 1.0):
        expected = 0.0
        for x in logits:
            # -log(sigmoid(x)) = log(1 + exp(-x)), in double precision.
            expected += target * math.log1p(math.exp(-x)) + (1 - target) * (
                x + math.log1p(math.exp(-x))
            )
        loss = binary_loss(torch.tensor(logits), target).item()
        assert loss == pytest.approx(expected / len(logits), rel=1e-6)


def test_a_step_reports_the_losses_of_its_networks() -> None:
    config = tiny_config(label_smoothing=0.2)
    model, real = build(config), images(8)
    networks = {name: n.state_dict() for name, n in build(config).networks.items()}
    metrics = model.update(real, step_of(0))

    # The same by hand, from the weights before the step.
    generator, discriminator = Generator(100, 0.125), Discriminator(0.125)
    generator.load_state_dict(networks["generator"])
    discriminator.load_state_dict(networks["discriminator"])
    fake = generator(latent_codes(8, 100, (1, 0, 0)))
    p_real, p_fake = discriminator(real).sigmoid(), discriminator(fake).sigmoid()
    loss_real = -(0.8 * p_real.log() + 0.2 * (1 - p_real).log()).mean()
    loss_fake = -(1 - p_fake).log().mean()

    def same(name: str, expected: Tensor) -> None:
        torch.testing.assert_close(metrics[name], expected.detach(), rtol=1e-4, atol=1e-6)

    same("loss/discriminator_real", loss_real)
    same("loss/discriminator_fake", loss_fake)
    same("loss/discriminator", (loss_real + loss_fake) / 2)
    right = ((p_real > 0.5).float().mean() + (p_fake < 0.5).float().mean()) / 2
    same("accuracy/discriminator", right)

    # The generator's loss comes from the discriminator after its step, on the same noise.
    discriminator.load_state_dict(networks["discriminator"])
    optimizer = torch.optim.Adam(discriminator.parameters(), 1e-3, (0.5, 0.999))
    halves = binary_loss(discriminator(real), 0.8) + binary_loss(discriminator(fake.detach()), 0)
    (halves / 2).backward()
    optimizer.step()
    loss_generator = -discriminator(fake).sigmoid().log().mean()
    torch.testing.assert_close(
        metrics["loss/generator"], loss_generator.detach(), rtol=1e-3, atol=0
    )


def test_each_step_moves_its_own_network_only() -> None:
    for frozen, moved in (("generator", "discriminator"), ("discriminator", "generator")):
        model = build(tiny_config())
        model.optimizers[frozen].param_groups[0]["lr"] = 0.0
        before = {n: [p.clone() for p in net.parameters()] for n, net in model.networks.items()}
        model.update(images(8), step_of(0))
        after = {n: list(net.parameters()) for n, net in model.networks.items()}
        assert all(torch.equal(a, b) for a, b in zip(before[frozen], after[frozen], strict=True))
        assert not any(torch.equal(a, b) for a, b in zip(before[moved], after[moved], strict=True))
        # The generator's step leaves nothing behind in the discriminator's gradients.
        model.optimizers["discriminator"].zero_grad()
        model.update(images(8), step_of(1))
        assert all(p.requires_grad for p in model.discriminator.parameters())


def test_the_discriminators_gradients_do_not_come_from_the_generators_step() -> None:
    real = images(8)
    one, other = build(tiny_config()), build(tiny_config(lr_g=1.0))
    for model in (one, other):
        model.update(real, step_of(0))
    for a, b in zip(one.discriminator.parameters(), other.discriminator.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert torch.equal(a.grad, b.grad)


def test_training_teaches_the_discriminator_to_tell_flat_images_from_noise() -> None:
    model = build(tiny_config(lr_g=1e-6))
    flat = torch.full((8, 3, 32, 32), 0.8)
    losses = [float(model.update(flat, step_of(k))["loss/discriminator"]) for k in range(30)]
    assert losses[-1] < 0.3 < losses[0]


def test_training_moves_the_generators_colours_towards_the_images() -> None:
    model = build(tiny_config(lr_g=2e-3, lr_d=5e-4, ema_images=0))
    target = torch.tensor([0.9, -0.9, 0.0])
    flat = target.view(1, 3, 1, 1).expand(8, 3, 32, 32)

    def distance() -> float:
        return float((model.pictures(16)["samples"].mean(dim=(0, 2, 3)) - target).abs().max())

    before = distance()
    for k in range(60):
        model.update(flat, step_of(k))
    assert distance() < before / 2


def test_pictures_are_of_the_same_codes_and_of_the_average() -> None:
    model = build(tiny_config(ema_images=100_000))
    first = model.pictures(4)["samples"]
    assert first.shape == (4, 3, 32, 32)
    assert torch.equal(first, model.pictures(4)["samples"])
    assert torch.equal(model.pictures(9)["samples"][:4], first)
    for k in range(3):
        model.update(images(8), step_of(k))
    assert model.generator.training
    ema = model.networks["generator_ema"]
    expected = ema(_fixed_codes(4)).detach()
    assert torch.equal(model.pictures(4)["samples"], expected)
    assert "generator_ema" not in build(tiny_config(ema_images=0)).networks


def _fixed_codes(count: int) -> Tensor:
    return latent_codes(count, 100, (2, 0))


def test_bf16_computes_close_to_fp32() -> None:
    results = []
    for bf16 in (False, True):
        model = build(tiny_config())
        model.bf16 = bf16
        results.append(model.update(images(8), step_of(0)))
        assert {p.dtype for p in model.generator.parameters()} == {torch.float32}
    for name in results[0]:
        torch.testing.assert_close(results[0][name], results[1][name], rtol=0.05, atol=0.05)
    assert any(not torch.equal(results[0][name], results[1][name]) for name in results[0])


def fixed_statistics(model: DCGAN) -> None:
    """Take batch statistics out: batch norm uses its running ones and leaves them alone."""
    for network in model.networks.values():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
                # Not the initial (0, 1), with which batch norm would do almost nothing.
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.uniform_(-0.05, 0.05)
                module.running_var.uniform_(0.01, 0.02)


STEPS = 6


def train_some(rank: int, folder: str, world_size: int) -> None:
    """Train a small DCGAN on this worker's share; the first worker saves what came of it."""
    config = tiny_config(batch_size=8)
    model = build(config)
    torch.manual_seed(0)
    fixed_statistics(model)
    if world_size > 1:
        model.distribute(sync_bn=False)
        assert isinstance(model.parallel["generator"], nn.parallel.DistributedDataParallel)
        assert isinstance(model.parallel["discriminator"], nn.parallel.DistributedDataParallel)
    share = 8 // world_size
    results = {}
    for k in range(STEPS):
        real = images(8, seed=k)[rank * share : (rank + 1) * share]
        metrics = model.update(real, Step(k, 8, 8 * k, rank, world_size))
        for name, value in metrics.items():
            results[f"step{k}/{name}"] = value.double()
    for name, network in model.networks.items():
        results |= {f"{name}/{key}": value for key, value in network.state_dict().items()}
    save_file({k: v.contiguous() for k, v in results.items()}, f"{folder}/{world_size}-{rank}")


@pytest.mark.slow
def test_two_workers_with_half_the_batch_equal_one_with_all_of_it(tmp_path: Path) -> None:
    train_some(0, str(tmp_path), 1)
    run_processes(2, train_some, str(tmp_path), 2)
    alone = load_file(tmp_path / "1-0")
    first, second = load_file(tmp_path / "2-0"), load_file(tmp_path / "2-1")
    initial = build(tiny_config()).networks
    for name, value in alone.items():
        if name.startswith("step"):
            together = (first[name] + second[name]) / 2
            torch.testing.assert_close(together, value, rtol=1e-4, atol=1e-5)
        elif value.is_floating_point():
            assert torch.equal(first[name], second[name]), name
            network, key = name.split("/")
            moved = (value - initial[network].state_dict()[key]).norm()
            difference = (first[name] - value).norm()
            assert difference <= 1e-3 * moved + 1e-7, name


def test_options_out_of_range_are_refused() -> None:
    for name, value in (("lr_g", 0.0), ("beta1", 1.0), ("label_smoothing", -0.1)):
        with pytest.raises(UserError, match=f"--{name.replace('_', '-')}"):
            updated(DCGANConfig(), {name: value}, "here")
