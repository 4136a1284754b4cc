"""The VAE-GAN: its shapes and sizes, and who learns what from which loss under both objectives."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import (
    Moves,
    Seen,
    batch_of,
    build,
    check_two_workers_equal_one,
    cross_entropy,
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

from raygen.config.families import VAEGANConfig
from raygen.config.fields import updated
from raygen.config.run import PRESETS, RunConfig
from raygen.core.errors import UserError
from raygen.models.layers import PRIOR_NOISE, TRAINING_NOISE, VALIDATION_NOISE, latents
from raygen.models.vaegan import (
    VAEGAN,
    Decoder,
    Discriminator,
    Encoder,
    feature_distance,
    reconstruction_distance,
)

pytestmark = pytest.mark.numeric

LATENT = 8
BATCH = 6
SEED = 3
VARIANCE = (0.3, 0.9)
"""Of the features, when batch statistics are taken out."""
OBJECTIVES = ("larsen", "article")


def config(**options: Any) -> RunConfig:
    values = {"latent_size": LATENT, "batch_size": BATCH, "seed": SEED, "half_batches": False}
    return small_config("vaegan-anime", **(values | options))


def images(count: int = BATCH, seed: int = 0) -> Tensor:
    return scaled_images(count, 64, 64, seed)


def a_step(number: int, total: int = 1_000) -> Any:
    return step_of(number, BATCH, total)


def fixed(**options: Any) -> VAEGAN:
    """A model without batch statistics, so that networks can be called again with equal results."""
    model = build(VAEGAN, config(**options))
    fixed_statistics(model, VARIANCE)
    return model


def test_parameter_counts_are_the_reference_systems() -> None:
    assert sizes(Encoder()) == (1_319_808, 480)
    assert sizes(Decoder()) == (1_353_603, 992)
    assert sizes(Discriminator()) == (671_041, 640)
    preset = PRESETS["vaegan-anime"]
    assert preset.image.size == "64x64"
    assert preset.width == 1
    assert preset.model.latent_size == 256
    assert preset.batch_size == 256


def test_shapes_are_the_reference_systems() -> None:
    real, codes = images(2), torch.randn(2, 256, generator=torch.Generator().manual_seed(0))
    assert output_shapes(Encoder(), nn.Conv2d, real) == [
        [16, 32, 32],
        [32, 16, 16],
        [64, 8, 8],
        [128, 4, 4],
    ]
    assert output_shapes(Encoder(), nn.Linear, real) == [[256], [256]]
    assert output_shapes(Decoder(), nn.Linear, codes) == [[1_024]]
    assert output_shapes(Decoder(), nn.ConvTranspose2d, codes) == [
        [128, 4, 4],
        [64, 8, 8],
        [32, 16, 16],
        [16, 32, 32],
        [3, 64, 64],
    ]
    assert output_shapes(Discriminator(), nn.Conv2d, real) == [
        [32, 32, 32],
        [64, 16, 16],
        [128, 8, 8],
        [128, 4, 4],
    ]
    discriminator = Discriminator().eval()
    logits, features = discriminator(real), discriminator(real, features_only=True)
    assert logits.shape == (2,)
    # Those that measure reconstructions come from the block before the last.
    assert features.shape == (2, 128 * 8 * 8)
    decoded = Decoder()(codes)
    assert decoded.shape == (2, 3, 64, 64)
    assert decoded.abs().max() <= 1
    epsilons = {m.eps for m in Encoder().modules() if isinstance(m, nn.BatchNorm2d)}
    assert epsilons == {1e-5}


def test_log_variances_lie_between_minus_one_and_one() -> None:
    encoder = Encoder(LATENT, 0.0625)
    with torch.no_grad():
        moderate = encoder(images())
        for layer in encoder.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(100)
        mean, log_var = encoder(images())
    assert mean.shape == log_var.shape == (BATCH, LATENT)
    assert moderate[1].abs().max() < 1
    assert 0.99 < log_var.abs().max() <= 1
    # The means are as large as they like.
    assert mean.abs().max() > 2


def test_feature_distance_is_half_the_squared_difference() -> None:
    random = torch.Generator().manual_seed(0)
    first, second = (torch.randn(3, 50, generator=random) for _ in range(2))
    expected = [
        0.5 * math.fsum((x - y) ** 2 for x, y in zip(a, b, strict=True))
        for a, b in zip(first.tolist(), second.tolist(), strict=True)
    ]
    assert feature_distance(first, second).tolist() == pytest.approx(expected, rel=1e-6)
    # Which is the negative log density of a Gaussian, but for a constant.
    of_same = -Normal(second, 1.0).log_prob(second).sum(dim=1)
    density = -Normal(first, 1.0).log_prob(second).sum(dim=1) - of_same
    torch.testing.assert_close(feature_distance(first, second), density, rtol=1e-4, atol=1e-3)
    assert feature_distance(first.bfloat16(), second.bfloat16()).dtype == torch.float32


class Exact:
    """Copies of a model's networks in double precision, and what a step makes of them."""

    def __init__(self, model: VAEGAN, number: int, real: Tensor) -> None:
        encoder, decoder, discriminator = (
            copy.deepcopy(model.networks[name]).double()
            for name in ("encoder", "decoder", "discriminator")
        )
        assert isinstance(encoder, Encoder)
        assert isinstance(decoder, Decoder)
        assert isinstance(discriminator, Discriminator)
        self.encoder, self.decoder, self.discriminator = encoder, decoder, discriminator
        # The networks return single precision, so what they consist of is called in their place.
        self.real = real.double()
        self.mean, self.log_var = (
            encoder.mean(features := encoder.features(self.real)),
            (encoder.log_var(features)),
        )
        noise, prior = (
            latents(len(real), (LATENT,), (purpose, SEED, number)).double()
            for purpose in (TRAINING_NOISE, PRIOR_NOISE)
        )
        self.codes = self.mean + torch.exp(0.5 * self.log_var) * noise
        self.prior = prior
        posterior = Normal(self.mean, torch.exp(0.5 * self.log_var))
        self.kl = exact_divergence(posterior, Normal(0.0, 1.0)).sum() / len(real)

    def decode(self, codes: Tensor) -> Tensor:
        features = self.decoder.project(codes)
        result: Tensor = self.decoder.upsample(features.view(len(codes), -1, 2, 2))
        return result

    def judge(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and features."""
        features = self.discriminator.features(pictures)
        return self.discriminator.judge(features).squeeze(1), features.flatten(1)


def fooled(logits: Tensor) -> Tensor:
    """The generator's loss: -log of the probability of being real."""
    return -torch.log(torch.sigmoid(logits)).mean()


def close(mine: nn.Module, losses: Tensor, exact: nn.Module) -> None:
    """The gradients that a step left in a network are those of a loss."""
    gradients = torch.autograd.grad(losses, list(exact.parameters()), retain_graph=True)
    assert len(gradients) > 5
    for (name, parameter), gradient in zip(mine.named_parameters(), gradients, strict=True):
        assert parameter.grad is not None
        assert gradient.norm() > 0
        difference = (parameter.grad.double() - gradient).norm()
        assert difference <= 1e-9 * gradient.norm(), name


def named(model: VAEGAN) -> list[tuple[str, nn.Module]]:
    return list(model.networks.items())


def hold(model: VAEGAN, *optimizers: str) -> None:
    """Let these optimizers take steps of no length."""
    for name in optimizers:
        for group in model.optimizers[name].param_groups:
            group["lr"] = 0.0


def gradients_of(model: VAEGAN, name: str) -> list[Tensor]:
    gradients = [parameter.grad for parameter in model.networks[name].parameters()]
    return [gradient.clone() for gradient in gradients if gradient is not None]


def equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("gamma", [0.0, 0.3])
def test_larsen_gives_encoder_and_decoder_their_own_gradients(gamma: float) -> None:
    model, real = fixed(schedule="1:1", gamma=gamma, lr_d=1e-2), images()
    hold(model, "encoder", "decoder")
    before = Exact(model, 4, real)
    with in_double_precision(model):
        metrics = model.update(batch_of(real.double()), a_step(4))

    # The discriminator has taken its step, and is used as it is now.
    exact = Exact(model, 4, real)
    weights = [list(e.discriminator.parameters()) for e in (before, exact)]
    assert not any(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    decoded, generated = exact.decode(exact.codes), exact.decode(exact.prior)
    logits, features = exact.judge(decoded)
    _, of_real = exact.judge(exact.real)
    distance = ((features - of_real) ** 2).sum() / 2 / len(real)
    by_reconstruction, by_noise = fooled(logits), fooled(exact.judge(generated)[0])

    close(model.networks["encoder"], exact.kl + distance, exact.encoder)
    of_decoder = gamma * distance + by_reconstruction + by_noise
    close(model.networks["decoder"], of_decoder, exact.decoder)
    for name, value in (
        ("encoder", exact.kl + distance),
        ("kl", exact.kl),
        ("feature_distance", distance),
        ("decoder", of_decoder),
        ("generator_reconstruction", by_reconstruction),
        ("generator_fake", by_noise),
    ):
        assert metrics[f"loss/{name}"].item() == pytest.approx(value.item(), rel=1e-9), name


def test_larsen_keeps_the_adversarial_loss_from_the_encoder() -> None:
    def gradients(gamma: float, classify: float, loss: str) -> tuple[list[Tensor], list[Tensor]]:
        model = fixed(schedule="1:1", gamma=gamma, adversarial_loss=loss)
        hold(model, "encoder", "decoder", "discriminator")
        [last] = [m for m in model.networks["discriminator"].modules() if isinstance(m, nn.Linear)]
        with torch.no_grad():
            last.weight.mul_(classify)
        model.update(batch_of(images()), a_step(0))
        return gradients_of(model, "encoder"), gradients_of(model, "decoder")

    encoder, decoder = gradients(0.01, 1.0, "non-saturating")
    for other in (
        gradients(10.0, 1.0, "non-saturating"),
        gradients(0.01, 5.0, "non-saturating"),
        gradients(0.01, 1.0, "least-squares"),
    ):
        assert equal(encoder, other[0])
        assert not any(torch.equal(a, b) for a, b in zip(decoder, other[1], strict=True))


def test_larsens_discriminator_has_three_terms() -> None:
    model, real = fixed(schedule="two-phase", label_smoothing=0.1), images()
    exact = Exact(model, 0, real)
    with in_double_precision(model):
        metrics = model.update(batch_of(real.double()), a_step(0))
    logits = {
        "real": exact.judge(exact.real)[0],
        "reconstruction": exact.judge(exact.decode(exact.codes))[0],
        "fake": exact.judge(exact.decode(exact.prior))[0],
    }
    targets = {"real": 0.9, "reconstruction": 0.0, "fake": 0.0}
    terms = {name: cross_entropy(logits[name].detach(), targets[name]) for name in logits}
    expected = {f"loss/discriminator_{name}": value for name, value in terms.items()}
    expected["loss/discriminator"] = math.fsum(terms.values()) / 3
    right = [(logits["real"] > 0), (logits["reconstruction"] < 0), (logits["fake"] < 0)]
    expected["accuracy/discriminator"] = sum(float(r.double().mean()) for r in right) / 3
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
        assert metrics[name].item() == pytest.approx(value, rel=1e-9), name
    whole = (
        -0.9 * torch.log(torch.sigmoid(logits["real"])).mean()
        - 0.1 * torch.log(torch.sigmoid(-logits["real"])).mean()
        - torch.log(torch.sigmoid(-logits["reconstruction"])).mean()
        - torch.log(torch.sigmoid(-logits["fake"])).mean()
    ) / 3
    close(model.networks["discriminator"], whole, exact.discriminator)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_discriminators_gradients_are_of_its_own_step(objective: str) -> None:
    def gradients(schedule: str) -> list[Tensor]:
        model = fixed(objective=objective, schedule=schedule)
        model.update(batch_of(images()), a_step(0))
        return gradients_of(model, "discriminator")

    # Alone in the first iteration of two-phase, and with the others in 1:1.
    alone, together = gradients("two-phase"), gradients("1:1")
    assert len(alone) > 5
    assert equal(alone, together)


def test_larsens_steps_leave_the_gradients_of_those_that_rest() -> None:
    everyone = {"encoder", "decoder", "discriminator"}
    # Of 8 iterations, the first is the discriminator's and the fifth the other networks'.
    for number, stepping in ((0, {"discriminator"}), (4, {"encoder", "decoder"})):
        model = build(VAEGAN, config(schedule="two-phase"))
        for name in everyone:
            for parameter in model.networks[name].parameters():
                parameter.grad = torch.full_like(parameter, 7.0)
        model.update(batch_of(images()), a_step(number, 8))
        for name in everyone:
            untouched = [bool((g == 7).all()) for g in gradients_of(model, name)]
            assert not any(untouched) if name in stepping else all(untouched), (number, name)


def test_the_articles_discriminator_step_leaves_the_other_gradients_to_the_vae_step() -> None:
    def gradients(schedule: str) -> tuple[list[Tensor], list[Tensor]]:
        model = fixed(objective="article", schedule=schedule, lr_d=0.5)
        hold(model, "decoder")
        model.update(batch_of(images()), a_step(0))
        return gradients_of(model, "encoder"), gradients_of(model, "decoder")

    # Neither the discriminator's nor the generator's step shows in what the VAE step left behind.
    both, rests = gradients("1:1"), gradients("2:3")
    assert len(both[0]) > 5
    assert equal(both[0], rests[0])
    assert equal(both[1], rests[1])
    # It is only taken where the generator steps.
    assert gradients("two-phase") == ([], [])
    # The discriminator's gradients are left by its own steps: the fifth of 8 is not one.
    model = build(VAEGAN, config(objective="article", schedule="two-phase"))
    for parameter in model.networks["discriminator"].parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    model.update(batch_of(images()), a_step(4, 8))
    assert all(bool((g == 7).all()) for g in gradients_of(model, "discriminator"))


@pytest.mark.parametrize("number", [0, 19, 20, 39])
def test_the_articles_terms_in_the_first_and_in_the_second_half(number: int) -> None:
    model, real = fixed(objective="article", schedule="1:1", lr_d=1e-2), images()
    hold(model, "decoder", "vae")
    before = Exact(model, number, real)
    with in_double_precision(model):
        metrics = model.update(batch_of(real.double()), a_step(number, 40))
    after = Exact(model, number, real)
    # Reconstructions are decoded from the means, and count as real, as long as they are shown.
    reconstruction, generated = before.decode(before.mean), before.decode(before.prior)
    terms = {
        "real": fooled(before.judge(before.real)[0]),
        "reconstruction": fooled(before.judge(reconstruction)[0]),
        "fake": fooled(-before.judge(generated)[0]),
    }
    if number >= 20:
        del terms["reconstruction"]
    whole = torch.stack(list(terms.values())).mean()
    close(model.networks["discriminator"], whole, before.discriminator)

    of_reconstruction = fooled(after.judge(reconstruction)[0])
    of_generated = fooled(after.judge(generated)[0])
    mse = ((before.decode(before.codes) - before.real) ** 2).mean()
    expected = {
        "discriminator": whole,
        **{f"discriminator_{name}": value for name, value in terms.items()},
        "generator": (of_reconstruction + of_generated) / 2,
        "generator_reconstruction": of_reconstruction,
        "generator_fake": of_generated,
        "vae": 2 * mse + before.kl,
        "mse": mse,
        "kl": before.kl,
    }
    assert metrics.keys() == {f"loss/{name}" for name in expected} | {"accuracy/discriminator"}
    for name, value in expected.items():
        assert metrics[f"loss/{name}"].item() == pytest.approx(value.item(), rel=1e-9), name


@pytest.mark.parametrize("number", [3, 4])
def test_the_articles_vae_step_is_of_sgd_on_both_networks_in_the_generators_turns(
    number: int,
) -> None:
    # Of 8 iterations, the fourth is everyone's and the fifth the generator's.
    model, real = fixed(objective="article", schedule="two-phase", lr_vae=0.05), images()
    hold(model, "decoder")
    exact = Exact(model, number, real)
    networks = {"encoder": exact.encoder, "decoder": exact.decoder}
    loss = 2 * ((exact.decode(exact.codes) - exact.real) ** 2).mean() + exact.kl
    with in_double_precision(model):
        model.update(batch_of(real.double()), a_step(number, 8))
    for name, network in networks.items():
        close(model.networks[name], loss, network)
        gradients = torch.autograd.grad(loss, list(network.parameters()), retain_graph=True)
        for mine, was, gradient in zip(
            model.networks[name].parameters(), network.parameters(), gradients, strict=True
        ):
            moved = mine.detach().double() - was.detach()
            assert (moved + 0.05 * gradient).norm() <= 1e-9 * 0.05 * gradient.norm()


def test_the_articles_generator_step_moves_the_decoder_alone() -> None:
    model, real = fixed(objective="article", schedule="1:2", lr_g=1e-3), images()
    hold(model, "vae")
    exact = Exact(model, 0, real)
    with in_double_precision(model):
        moves = Moves(model)
        model.update(batch_of(real.double()), a_step(0))
    assert moves.take() == {"decoder"}
    # Its mean loss on reconstructions and samples, whose gradient decides the sign of Adam's
    # first step.
    logits = [exact.judge(exact.decode(codes.detach()))[0] for codes in (exact.mean, exact.prior)]
    loss = (fooled(logits[0]) + fooled(logits[1])) / 2
    gradients = torch.autograd.grad(loss, list(exact.decoder.parameters()))
    compared = 0
    for mine, was, gradient in zip(
        model.networks["decoder"].parameters(), exact.decoder.parameters(), gradients, strict=True
    ):
        moved = mine.detach().double() - was.detach()
        sure = gradient.abs() > 1e-4
        expected = -1e-3 * gradient.sign()[sure]
        torch.testing.assert_close(moved[sure], expected, rtol=1e-2, atol=1e-6)
        compared += int(sure.sum())
    assert compared > 100


@pytest.mark.parametrize("half_batches", [False, True])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_which_networks_move_in_two_phases(objective: str, half_batches: bool) -> None:
    model = build(VAEGAN, config(objective=objective, half_batches=half_batches))
    assert model.options.schedule == "two-phase"
    letters = {"discriminator": "D", "encoder": "E", "decoder": "G"}
    moves, moved, reported = Moves(model), [], []
    numbers = [*range(8), *range(32, 40)]
    for number in numbers:
        metrics = model.update(batch_of(images(seed=number)), a_step(number, 40))
        moved.append("".join(sorted(letters[name] for name in moves.take())))
        generator = "loss/decoder" if objective == "larsen" else "loss/generator"
        reported.append(
            ("D" if "loss/discriminator" in metrics else "") + ("G" if generator in metrics else "")
        )
    first, last = reported[:8], reported[8:]
    assert first == ["D", "D", "D", "DG", "D", "D", "D", "DG"]
    assert last == ["G", "G", "G", "DG", "G", "G", "G", "DG"]
    assert moved[:8] == ["D", "D", "D", "DEG", "D", "D", "D", "DEG"]
    assert moved[8:] == ["EG", "EG", "EG", "DEG", "EG", "EG", "EG", "DEG"]


def test_the_articles_generator_steps_follow_the_schedule() -> None:
    model = build(VAEGAN, config(objective="article"))
    hold(model, "vae")
    moves, moved = Moves(model), []
    for number in [*range(8), *range(32, 40)]:
        model.update(batch_of(images(seed=number)), a_step(number, 40))
        moved.append("decoder" in moves.take())
    assert moved[:8] == [False, False, False, True] * 2
    assert moved[8:] == [True] * 8


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_half_batches_are_every_other_image(objective: str) -> None:
    # The first iteration of two-phase, where nobody but the discriminator calls itself.
    for half, stride in ((True, 2), (False, 1)):
        model, real = build(VAEGAN, config(objective=objective, half_batches=half)), images()
        assert model.config.step_images == BATCH
        shown = Seen(model.networks["discriminator"])
        made = Seen(model.networks["decoder"])
        metrics = model.update(batch_of(real), a_step(0))
        reconstruction, generated = made.outputs[:2]
        whole = {
            "larsen": (real, generated, reconstruction),
            "article": (real, reconstruction, generated),
        }[objective]
        assert [len(batch) for batch in whole] == [BATCH] * 3
        assert len(shown.inputs) == 3
        for given, batch in zip(shown.inputs, whole, strict=True):
            assert torch.equal(given, batch[::stride])
        of_real = cross_entropy(shown.outputs[0], 1.0)
        assert metrics["loss/discriminator_real"].item() == pytest.approx(of_real, rel=1e-5)
    # By default half of them.
    assert VAEGANConfig().half_batches


def test_larsen_lets_the_generators_side_see_the_whole_batch() -> None:
    # The fifth of 8 iterations, where the discriminator rests.
    model = build(VAEGAN, config(half_batches=True))
    shown = Seen(model.networks["discriminator"])
    model.update(batch_of(images()), a_step(4, 8))
    # Reconstructions are measured in one batch with the real images.
    assert [len(batch) for batch in shown.inputs] == [2 * BATCH, BATCH, BATCH]


class FadedDecoder(nn.Module):
    """Makes of codes (N, L) the real images, at a contrast of 0.5 + the codes' mean."""

    def __init__(self, real: Tensor) -> None:
        super().__init__()
        self.real = real
        self.more = nn.Parameter(torch.zeros(()))

    def forward(self, codes: Tensor) -> Tensor:
        return self.real * (0.5 + self.more + codes.mean(dim=1).view(-1, 1, 1, 1))


class FixedEncoder(nn.Module):
    """Makes of any images the same mean, at first 0, and hardly any variance."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(LATENT))

    def forward(self, real: Tensor) -> tuple[Tensor, Tensor]:
        return self.mean.expand(len(real), -1), torch.full((len(real), LATENT), -40.0)


def test_reconstructions_at_half_the_contrast_are_far_from_their_images() -> None:
    discriminator = build(VAEGAN, config()).networks["discriminator"]
    assert discriminator.training
    real = images()
    contrast = torch.tensor(1.0, requires_grad=True)

    def distance(decoded: Tensor) -> Tensor:
        return reconstruction_distance(discriminator, decoded, real).mean()

    assert distance(real).item() == pytest.approx(0, abs=1e-6)
    half = distance(real / 2).item()
    of_others = distance(images(seed=1)).item()
    # Of a half that batch norm would otherwise hide.
    apart = [discriminator(each, features_only=True) for each in (real / 2, real)]
    assert half > 20 * feature_distance(*apart).mean().item()
    assert half > 0.05 * of_others
    for value, wish in ((0.5, -1), (0.9, -1), (1.1, 1), (2.0, 1)):
        faded = real * (contrast * value)
        [slope] = torch.autograd.grad(distance(faded), contrast)
        assert slope * wish > 0, value


def test_larsen_restores_the_contrast_of_reconstructions() -> None:
    real = images()
    model = build(VAEGAN, config(schedule="1:1", gamma=1e6))
    encoder, decoder = FixedEncoder(), FadedDecoder(real)
    model.parallel |= {"encoder": encoder, "decoder": decoder}
    metrics = model.update(batch_of(real), a_step(0))
    discriminator = model.networks["discriminator"]
    expected = reconstruction_distance(discriminator, real / 2, real).mean().item()
    assert metrics["loss/feature_distance"].item() == pytest.approx(expected, rel=1e-4)
    # Descending, both make the contrast larger.
    assert encoder.mean.grad is not None
    assert (encoder.mean.grad < 0).all()
    assert decoder.more.grad is not None
    assert decoder.more.grad < 0


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_validation_by_hand(objective: str) -> None:
    model = build(VAEGAN, config(objective=objective, ema_images=1_000))
    for number in range(2):
        model.update(batch_of(images(seed=number)), a_step(number))
    real, moves = images(4, seed=9), Moves(model)
    states = {n: {k: v.clone() for k, v in m.state_dict().items()} for n, m in named(model)}
    measured = model.validate(batch_of(real), 5)
    assert not moves.take()
    for name, network in named(model):
        assert all(torch.equal(v, states[name][k]) for k, v in network.state_dict().items())
    assert all(model.networks[name].training for name in model.trained)
    encoder, decoder = model.networks["encoder_ema"], model.networks["decoder_ema"]
    # In training mode, as in its own step.
    discriminator = model.networks["discriminator"]
    with torch.no_grad():
        mean, log_var = encoder(real)
        decoded = decoder(mean)
        logits = {
            "real": discriminator(real),
            "fake": discriminator(decoder(model.fixed_noise(4, VALIDATION_NOISE, 5))),
            "reconstruction": discriminator(decoded),
        }
    targets = {"real": 1.0, "fake": 0.0, "reconstruction": 0.0}
    terms = {name: cross_entropy(logits[name], targets[name]) for name in logits}
    posterior = Normal(mean.double(), (log_var.double() / 2).exp())
    expected = {
        **{f"discriminator_{name}": value for name, value in terms.items()},
        "discriminator": math.fsum(terms.values()) / 3,
        "generator": (
            cross_entropy(logits["fake"], 1.0) + cross_entropy(logits["reconstruction"], 1.0)
        )
        / 2,
        "mse": float((decoded.double() - real.double()).square().mean()),
        "kl": float(exact_divergence(posterior, Normal(0.0, 1.0)).sum()) / 4,
    }
    assert measured.keys() == {f"validation/{name}" for name in expected}
    for name, value in expected.items():
        assert measured[f"validation/{name}"].item() == pytest.approx(value, rel=1e-5), name


def test_pictures_are_drawn_with_the_averages() -> None:
    model, real = build(VAEGAN, config(ema_images=100_000)), images(3)
    assert set(model.networks) == {
        "encoder",
        "decoder",
        "discriminator",
        "encoder_ema",
        "decoder_ema",
    }
    for number in range(2):
        model.update(batch_of(images(seed=number)), step_of(number, BATCH, 2))
    mean, log_var = model.encode(real)
    with torch.no_grad():
        expected = model.networks["encoder_ema"](real)
        assert torch.equal(mean, expected[0])
        assert torch.equal(log_var, expected[1])
        assert torch.equal(model.decode(mean), model.networks["decoder_ema"](mean))
    first, again = model.pictures(5, real), model.pictures(5, real)
    assert {name: (tuple(p.images.shape), p.columns) for name, p in first.items()} == {
        "samples": ((5, 3, 64, 64), 0),
        "interpolation": ((40, 3, 64, 64), 8),
        "reconstructions": ((6, 3, 64, 64), 8),
        "codes": ((12, 3, 64, 64), 4),
    }
    assert all(torch.equal(first[name].images, again[name].images) for name in first)
    assert torch.equal(first["reconstructions"].images[::2], real)
    assert torch.equal(first["reconstructions"].images[1::2], model.decode(mean))


def test_larsen_trains_towards_the_real_images_features() -> None:
    # The discriminator stands still, and what it measures must shrink.
    model, real = build(VAEGAN, config(schedule="1:1", lr_g=5e-3, lr_vae=5e-3, gamma=1.0)), images()
    hold(model, "discriminator")
    history = [model.update(batch_of(real), a_step(number)) for number in range(30)]
    first, last = (float(history[k]["loss/feature_distance"]) for k in (0, -1))
    assert last < 0.7 * first


@pytest.mark.slow
def test_two_workers_with_half_the_batch_equal_one_with_all_of_it(tmp_path: Path) -> None:
    chosen = config(batch_size=8, half_batches=True)
    compared = check_two_workers_equal_one(tmp_path, chosen, 8, VARIANCE)
    assert compared == {
        "loss/discriminator",
        "loss/discriminator_real",
        "loss/discriminator_fake",
        "loss/discriminator_reconstruction",
        "accuracy/discriminator",
        "loss/encoder",
        "loss/kl",
        "loss/feature_distance",
        "loss/decoder",
        "loss/generator_reconstruction",
        "loss/generator_fake",
    }


def test_each_objective_has_its_own_learning_rates_unless_told() -> None:
    def rates(**options: Any) -> dict[str, tuple[str, float]]:
        optimizers = build(VAEGAN, config(**options)).optimizers
        return {n: (type(o).__name__, o.param_groups[0]["lr"]) for n, o in optimizers.items()}

    assert rates() == {
        "discriminator": ("Adam", 2e-4),
        "decoder": ("Adam", 1e-3),
        "encoder": ("Adam", 1e-3),
    }
    assert rates(objective="article") == {
        "discriminator": ("Adam", 2e-4),
        "decoder": ("Adam", 1e-4),
        "vae": ("SGD", 3e-4),
    }
    told = {"lr_g": 0.02, "lr_vae": 0.03, "lr_d": 0.04}
    for objective, last in (("larsen", "encoder"), ("article", "vae")):
        found = rates(objective=objective, **told)
        assert [found[n][1] for n in ("decoder", last, "discriminator")] == [0.02, 0.03, 0.04]
    for optimizer in ("discriminator", "decoder"):
        group = build(VAEGAN, config()).optimizers[optimizer].param_groups[0]
        assert group["betas"] == (0.5, 0.999)


def test_options_out_of_range_are_refused() -> None:
    for name, value in (("gamma", -1.0), ("lr_vae", -1.0), ("lr_d", -1.0), ("objective", "both")):
        with pytest.raises(UserError, match=f"--{name.replace('_', '-')}"):
            updated(VAEGANConfig(), {name: value}, "here")
