"""The DCGAN: its shapes and sizes, its losses, its step, and the same step on two workers."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import (
    Moves,
    Seen,
    batch_of,
    build,
    check_two_workers_equal_one,
    cross_entropy,
    in_double_precision,
    output_shapes,
    scaled_images,
    sizes,
    small_config,
    step_of,
    tiny_config,
)
from torch import Tensor, nn

from raygen.config.families import DCGANConfig
from raygen.config.fields import updated
from raygen.config.run import PRESETS
from raygen.config.schedule import Schedule
from raygen.core.errors import UserError
from raygen.models.adversarial import binary_loss
from raygen.models.base import Metrics
from raygen.models.dcgan import (
    DCGAN,
    Discriminator32,
    Discriminator64,
    Generator32,
    Generator64,
)
from raygen.models.layers import VALIDATION_NOISE, UpsampleConv2d, latents

pytestmark = pytest.mark.numeric


def images(count: int, seed: int = 0) -> Tensor:
    return scaled_images(count, 32, 32, seed)


def drawn_samples(model: DCGAN, count: int) -> Tensor:
    return model.pictures(count, images(2))["samples"].images


def test_parameter_counts_and_shapes_are_the_reference_systems() -> None:
    generator, discriminator = Generator32(), Discriminator32()
    assert sizes(generator) == (4_931_715, 1_792)
    assert sizes(discriminator) == (1_034_113, 768)
    fake = generator(torch.randn(3, 100))
    assert fake.shape == (3, 3, 32, 32)
    assert fake.abs().max() <= 1
    assert discriminator(fake).shape == (3,)
    shapes = output_shapes(generator.upsample, nn.ConvTranspose2d, torch.randn(2, 512, 4, 4))
    assert shapes == [[256, 8, 8], [128, 16, 16], [3, 32, 32]]


def test_the_larger_pairs_counts_and_shapes_are_the_reference_systems() -> None:
    generator, discriminator = Generator64(), Discriminator64()
    assert sizes(generator) == (4_855_875, 832)
    assert sizes(discriminator) == (541_057, 1_024)
    codes = torch.randn(2, 128)
    assert output_shapes(generator, nn.Linear, codes) == [[128 * 16 * 16]]
    assert output_shapes(generator, UpsampleConv2d, codes) == [[256, 32, 32], [128, 64, 64]]
    fake = generator(codes)
    assert fake.shape == (2, 3, 64, 64)
    assert fake.abs().max() <= 1
    assert output_shapes(discriminator, nn.Conv2d, fake) == [
        [32, 32, 32],
        [64, 16, 16],
        [128, 8, 8],
        [256, 8, 8],
        [64, 8, 8],
    ]
    assert discriminator(fake).shape == (2,)
    # Keras's momentum 0.8 is 0.2 here; every dropout drops 30 %.
    norms = [m for n in (generator, discriminator) for m in n.modules()]
    assert {m.momentum for m in norms if isinstance(m, nn.BatchNorm2d)} == {0.2}
    assert [m.p for m in norms if isinstance(m, nn.Dropout)] == [0.3] * 5


@pytest.mark.parametrize(
    ("preset", "side", "latent_size"), [("dcgan-celeba", 32, 100), ("dcgan-anime", 64, 128)]
)
def test_a_presets_networks_are_for_its_images(preset: str, side: int, latent_size: int) -> None:
    assert PRESETS[preset].image.height == PRESETS[preset].image.width == side
    assert PRESETS[preset].model.latent_size == latent_size
    model = build(DCGAN, small_config(preset))
    assert model.decode(torch.randn(2, latent_size)).shape == (2, 3, side, side)


def test_width_scales_the_channels() -> None:
    generator, discriminator = Generator32(width=0.5), Discriminator32(width=0.25)
    assert generator(torch.randn(2, 100)).shape == (2, 3, 32, 32)
    assert discriminator(torch.randn(2, 3, 32, 32)).shape == (2,)
    assert sizes(generator)[0] < 4_931_715 / 3
    assert sizes(discriminator)[0] < 1_034_113 / 12


def test_initial_weights_follow_the_seed_and_their_distribution() -> None:
    config = replace(PRESETS["dcgan-celeba"], seed=3)
    first, same, other = (
        build(DCGAN, c).networks["generator"].get_parameter("project.weight")
        for c in (config, config, replace(config, seed=4))
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
    model, real = build(DCGAN, config), images(8).double()
    networks = {name: n.state_dict() for name, n in build(DCGAN, config).networks.items()}
    with in_double_precision(model):
        metrics = model.update(batch_of(real), step_of(0))

    # The same by hand, from the weights before the step.
    generator, discriminator = Generator32(100, 0.125).double(), Discriminator32(0.125).double()
    generator.load_state_dict(networks["generator"])
    discriminator.load_state_dict(networks["discriminator"])
    fake = generator(latents(8, (100,), (1, 0, 0)).double())
    p_real, p_fake = discriminator(real).sigmoid(), discriminator(fake).sigmoid()
    loss_real = -(0.8 * p_real.log() + 0.2 * (1 - p_real).log()).mean()
    loss_fake = -(1 - p_fake).log().mean()

    def same(name: str, expected: Tensor) -> None:
        torch.testing.assert_close(metrics[name], expected.detach(), rtol=1e-9, atol=0)

    same("loss/discriminator_real", loss_real)
    same("loss/discriminator_fake", loss_fake)
    same("loss/discriminator", (loss_real + loss_fake) / 2)
    right = ((p_real > 0.5).double().mean() + (p_fake < 0.5).double().mean()) / 2
    same("accuracy/discriminator", right)

    # The generator's loss comes from the discriminator after its step, on the same noise.
    discriminator.load_state_dict(networks["discriminator"])
    optimizer = torch.optim.Adam(discriminator.parameters(), 1e-3, (0.5, 0.999))
    q_real, q_fake = discriminator(real).sigmoid(), discriminator(fake.detach()).sigmoid()
    halves = -(0.8 * q_real.log() + 0.2 * (1 - q_real).log()).mean() - (1 - q_fake).log().mean()
    (halves / 2).backward()
    optimizer.step()
    same("loss/generator", -discriminator(fake).sigmoid().log().mean())


def test_each_step_moves_its_own_network_only() -> None:
    for frozen, moved in (("generator", "discriminator"), ("discriminator", "generator")):
        model = build(DCGAN, tiny_config())
        model.optimizers[frozen].param_groups[0]["lr"] = 0.0
        before = {n: [p.clone() for p in net.parameters()] for n, net in model.networks.items()}
        model.update(batch_of(images(8)), step_of(0))
        after = {n: list(net.parameters()) for n, net in model.networks.items()}
        assert all(torch.equal(a, b) for a, b in zip(before[frozen], after[frozen], strict=True))
        assert not any(torch.equal(a, b) for a, b in zip(before[moved], after[moved], strict=True))
        # The generator's step leaves nothing behind in the discriminator's gradients.
        model.optimizers["discriminator"].zero_grad()
        model.update(batch_of(images(8)), step_of(1))
        assert all(p.requires_grad for p in model.networks["discriminator"].parameters())


def test_the_discriminators_gradients_do_not_come_from_the_generators_step() -> None:
    real = images(8)
    one, other = build(DCGAN, tiny_config()), build(DCGAN, tiny_config(lr_g=1.0))
    for model in (one, other):
        model.update(batch_of(real), step_of(0))
    for a, b in zip(*(m.networks["discriminator"].parameters() for m in (one, other)), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert torch.equal(a.grad, b.grad)


def test_training_teaches_the_discriminator_to_tell_flat_images_from_noise() -> None:
    model = build(DCGAN, tiny_config(lr_g=1e-6))
    flat = torch.full((8, 3, 32, 32), 0.8)
    losses = [
        float(model.update(batch_of(flat), step_of(k))["loss/discriminator"]) for k in range(30)
    ]
    assert losses[-1] < 0.3 < losses[0]


def test_training_moves_the_generators_colours_towards_the_images() -> None:
    model = build(DCGAN, tiny_config(lr_g=2e-3, lr_d=5e-4, ema_images=0))
    target = torch.tensor([0.9, -0.9, 0.0])
    flat = target.view(1, 3, 1, 1).expand(8, 3, 32, 32)

    def distance() -> float:
        return float((drawn_samples(model, 16).mean(dim=(0, 2, 3)) - target).abs().max())

    before = distance()
    for k in range(60):
        model.update(batch_of(flat), step_of(k))
    assert distance() < before / 2


def test_pictures_are_of_the_same_codes_and_of_the_average() -> None:
    model = build(DCGAN, tiny_config(ema_images=100_000))
    first = drawn_samples(model, 4)
    assert first.shape == (4, 3, 32, 32)
    assert torch.equal(first, drawn_samples(model, 4))
    # Another number of images may be multiplied in another order.
    torch.testing.assert_close(drawn_samples(model, 9)[:4], first)
    for k in range(3):
        model.update(batch_of(images(8)), step_of(k))
    assert model.networks["generator"].training
    ema = model.networks["generator_ema"]
    expected = ema(_fixed_codes(4)).detach()
    assert torch.equal(drawn_samples(model, 4), expected)
    assert "generator_ema" not in build(DCGAN, tiny_config(ema_images=0)).networks


def _fixed_codes(count: int) -> Tensor:
    return latents(count, (100,), (2, 0))


def test_bf16_computes_close_to_fp32() -> None:
    results = []
    for bf16 in (False, True):
        model = build(DCGAN, tiny_config())
        model.bf16 = bf16
        results.append(model.update(batch_of(images(8)), step_of(0)))
        assert {p.dtype for p in model.networks["generator"].parameters()} == {torch.float32}
    for name in results[0]:
        torch.testing.assert_close(results[0][name], results[1][name], rtol=0.05, atol=0.05)
    assert any(not torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_the_larger_networks_start_glorot_uniform_after_the_seed() -> None:
    config = small_config("dcgan-anime", seed=3)
    first, same, other = (
        build(DCGAN, c).networks["generator"].get_parameter("upsample.3.weight")
        for c in (config, config, replace(config, seed=4))
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    bound = math.sqrt(6 / (9 * (first.shape[0] + first.shape[1])))
    assert 0.95 * bound < first.abs().max() <= bound


def test_smoothing_moves_the_target_of_real_images_alone() -> None:
    results = [
        build(DCGAN, tiny_config(label_smoothing=s)).update(batch_of(images(8)), step_of(0))
        for s in (0, 0.3)
    ]
    plain, smooth = ({k: float(v) for k, v in r.items()} for r in results)
    assert plain["loss/discriminator_fake"] == smooth["loss/discriminator_fake"]
    # Cross-entropy against 0.7 is that against 1, and 0.3 times the mean logit.
    model = build(DCGAN, tiny_config())
    logit = float(model.networks["discriminator"](images(8)).mean().detach())
    assert abs(logit) > 1e-4
    assert smooth["loss/discriminator_real"] == pytest.approx(
        plain["loss/discriminator_real"] + 0.3 * logit, abs=1e-6
    )


def test_half_batches_for_the_discriminator_and_a_whole_one_for_the_generator() -> None:
    config = small_config("dcgan-anime", label_smoothing=0.1)
    assert config.batch_size == 8
    assert config.step_images == 4
    model = build(DCGAN, config)
    shown = Seen(model.networks["discriminator"])
    made = Seen(model.networks["generator"])
    real = scaled_images(4, 64, 64)
    metrics = model.update(batch_of(real), step_of(5, images=4))

    assert [len(codes) for codes in made.inputs] == [4, 8]
    codes = torch.cat(made.inputs)
    assert len(codes.unique(dim=0)) == 12
    assert codes.shape == (12, 128)
    for given, images_of in zip(shown.inputs, (real, *made.outputs), strict=True):
        assert torch.equal(given, images_of)
    of_real, of_fake, of_generator = shown.outputs
    expected = {
        "loss/discriminator_real": cross_entropy(of_real, 0.9),
        "loss/discriminator_fake": cross_entropy(of_fake, 0.0),
        "loss/generator": cross_entropy(of_generator, 1.0),
    }
    halves = expected["loss/discriminator_real"], expected["loss/discriminator_fake"]
    expected["loss/discriminator"] = sum(halves) / 2
    for name, value in expected.items():
        assert float(metrics[name]) == pytest.approx(value, rel=1e-5), name


def test_whole_batches_share_the_noise_between_the_two_steps() -> None:
    model = build(DCGAN, tiny_config())
    shown = Seen(model.networks["discriminator"])
    made = Seen(model.networks["generator"])
    model.update(batch_of(images(8)), step_of(0))
    assert [len(codes) for codes in made.inputs] == [8]
    assert torch.equal(shown.inputs[1], shown.inputs[2])
    # Other steps have other noise.
    model.update(batch_of(images(8)), step_of(1))
    assert not torch.isin(made.inputs[0], made.inputs[1]).any()


@pytest.mark.parametrize("half_batches", [False, True])
@pytest.mark.parametrize("schedule", ["1:1", "5:1", "1:2", "2:3", "two-phase"])
def test_only_the_networks_whose_turn_it_is_change(schedule: str, half_batches: bool) -> None:
    config = tiny_config(schedule=schedule, half_batches=half_batches, ema_images=0)
    model, total = build(DCGAN, config), 11
    moves = Moves(model)
    for number in range(total):
        step = step_of(number, config.step_images, total)
        metrics = model.update(batch_of(images(config.step_images, seed=number)), step)
        turn = Schedule.parse(schedule).turn(number, total)
        turns = {"discriminator": turn.discriminator, "generator": turn.generator}
        assert moves.take() == {name for name, steps in turns.items() if steps}
        # And a network that rests reports nothing.
        assert {n for n in turns if f"loss/{n}" in metrics} == {n for n in turns if turns[n]}


@pytest.mark.parametrize("half_batches", [False, True])
def test_a_step_leaves_the_gradients_of_the_network_that_rests(half_batches: bool) -> None:
    config = tiny_config(schedule="two-phase", half_batches=half_batches)
    # Of 8 iterations, the first is the discriminator's and the fifth the generator's.
    for number, resting in ((0, "generator"), (4, "discriminator")):
        model = build(DCGAN, config)
        parameters = list(model.networks[resting].parameters())
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, 7.0)
        model.update(batch_of(images(config.step_images)), step_of(number, config.step_images, 8))
        assert all(p.grad is not None and bool((p.grad == 7).all()) for p in parameters)


@pytest.mark.parametrize("preset", ["dcgan-celeba", "dcgan-anime"])
def test_validation_measures_both_losses_without_touching_the_networks(preset: str) -> None:
    chosen = small_config(preset, label_smoothing=0.2, ema_images=1_000)
    model, side = build(DCGAN, chosen), chosen.image.height
    for number in range(2):
        shown = scaled_images(chosen.step_images, side, side, seed=number)
        model.update(batch_of(shown), step_of(number, chosen.step_images))
    moves, real = Moves(model), scaled_images(8, side, side, seed=5)
    states = {n: {k: v.clone() for k, v in m.state_dict().items()} for n, m in nets(model)}
    first: Metrics = model.validate(batch_of(real), 3)
    again = model.validate(batch_of(real), 3)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(
        first["validation/generator"], model.validate(batch_of(real), 4)["validation/generator"]
    )
    assert not moves.take()
    for name, network in nets(model):
        for key, value in network.state_dict().items():
            assert torch.equal(value, states[name][key])
        assert network.training == (not name.endswith("_ema"))
    # As in the discriminator's own step: each kind in a training batch of its own, here without
    # dropout. The images are those of the averaged generator.
    generator, discriminator = (model.networks[n] for n in ("generator_ema", "discriminator"))
    for layer in discriminator.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    with torch.no_grad():
        real_logits = discriminator(real)
        fake = generator(model.fixed_noise(8, VALIDATION_NOISE, 3))
        fake_logits = discriminator(fake)
    halves = cross_entropy(real_logits, 0.8), cross_entropy(fake_logits, 0.0)
    expected = {
        "discriminator": sum(halves) / 2,
        "discriminator_real": halves[0],
        "discriminator_fake": halves[1],
        "generator": cross_entropy(fake_logits, 1.0),
    }
    assert first.keys() == {f"validation/{name}" for name in expected}
    for name, value in expected.items():
        assert float(first[f"validation/{name}"]) == pytest.approx(value, rel=1e-5)


def nets(model: DCGAN) -> list[tuple[str, nn.Module]]:
    return list(model.networks.items())


def test_interpolations_are_rows_of_the_same_codes() -> None:
    model = build(DCGAN, tiny_config())
    pictures = model.pictures(4, images(0))
    assert set(pictures) == {"samples", "interpolation"}
    assert pictures["interpolation"].images.shape == (40, 3, 32, 32)
    assert pictures["interpolation"].columns == 8


@pytest.mark.slow
def test_two_workers_with_half_the_batch_equal_one_with_all_of_it(tmp_path: Path) -> None:
    compared = check_two_workers_equal_one(tmp_path, tiny_config(), 6, variance=(0.01, 0.02))
    assert compared == {
        "loss/discriminator",
        "loss/discriminator_real",
        "loss/discriminator_fake",
        "loss/generator",
        "accuracy/discriminator",
    }


def test_options_out_of_range_are_refused() -> None:
    for name, value in (("lr_g", -1.0), ("beta1", 1.0), ("label_smoothing", -0.1)):
        with pytest.raises(UserError, match=f"--{name.replace('_', '-')}"):
            updated(DCGANConfig(), {name: value}, "here")
