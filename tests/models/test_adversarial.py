"""The losses of a discriminator and its opponent, against their formulas in double precision."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import (
    Seen,
    batch_of,
    build,
    build_any,
    check_two_workers_equal_one,
    in_double_precision,
    scaled_images,
    small_config,
    step_of,
    tiny_config,
)
from torch import Tensor, nn

from raygen.config.families import DCGANConfig
from raygen.config.fields import updated
from raygen.core.errors import UserError
from raygen.models.adversarial import (
    accuracy,
    discriminator_loss,
    fake_term,
    generator_term,
    gradient_penalty,
    normalisation,
    real_term,
    validation_losses,
)
from raygen.models.dcgan import DCGAN
from raygen.models.layers import PENALTY_NOISE, latents
from raygen.models.vaegan import VAEGAN

pytestmark = pytest.mark.numeric

LOSSES = ("non-saturating", "hinge", "least-squares", "wasserstein-gp")
LOGITS = (-40.0, -3.0, -1.0, -0.2, 0.0, 0.7, 1.0, 1.7, 60.0)
FAKES = (-2.5, 0.3, 0.4, 1.1)
THIRDS = (0.9, -0.6, -0.1, 3.0)


def options(loss: str, **values: object) -> DCGANConfig:
    return updated(DCGANConfig(), {"adversarial_loss": loss, **values}, "test")


def softplus(x: float) -> float:
    """log(1 + exp(x)) = -log(1 - sigmoid(x))."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def average(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def mean_real(loss: str, logits: tuple[float, ...], smoothing: float) -> float:
    target = 1 - smoothing
    formulas: dict[str, Callable[[float], float]] = {
        # -t log p - (1 - t) log (1 - p).
        "non-saturating": lambda x: target * softplus(-x) + (1 - target) * softplus(x),
        "hinge": lambda x: max(0.0, 1 - x),
        "least-squares": lambda x: (x - target) ** 2,
        "wasserstein-gp": lambda x: -x,
    }
    return average([formulas[loss](x) for x in logits])


def mean_fake(loss: str, logits: tuple[float, ...]) -> float:
    formulas: dict[str, Callable[[float], float]] = {
        "non-saturating": softplus,
        "hinge": lambda x: max(0.0, 1 + x),
        "least-squares": lambda x: x**2,
        "wasserstein-gp": lambda x: x,
    }
    return average([formulas[loss](x) for x in logits])


def mean_generator(loss: str, logits: tuple[float, ...]) -> float:
    formulas: dict[str, Callable[[float], float]] = {
        "non-saturating": lambda x: softplus(-x),
        "hinge": lambda x: -x,
        "least-squares": lambda x: (x - 1) ** 2,
        "wasserstein-gp": lambda x: -x,
    }
    return average([formulas[loss](x) for x in logits])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("loss", LOSSES)
def test_each_loss_is_its_formula(loss: str, smoothing: float) -> None:
    chosen, logits = options(loss, label_smoothing=smoothing), torch.tensor(LOGITS)
    of_real = real_term(chosen, logits).item()
    assert of_real == pytest.approx(mean_real(loss, LOGITS, smoothing), rel=1e-6)
    # One-sided: smoothing leaves the targets of generated images as they are.
    assert fake_term(chosen, logits).item() == pytest.approx(mean_fake(loss, LOGITS), rel=1e-6)
    of_generator = generator_term(chosen, logits).item()
    assert of_generator == pytest.approx(mean_generator(loss, LOGITS), rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_of_half_precision_logits_are_taken_in_single(loss: str) -> None:
    logits = torch.tensor(LOGITS).bfloat16()
    rounded = tuple(logits.tolist())
    results = [term(options(loss), logits) for term in (real_term, fake_term, generator_term)]
    assert all(result.dtype == torch.float32 for result in results)
    expected = mean_real(loss, rounded, 0), mean_fake(loss, rounded), mean_generator(loss, rounded)
    assert [r.item() for r in results] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("third", ["none", "real", "fake"])
def test_the_discriminators_loss_is_the_mean_of_its_terms(loss: str, third: str) -> None:
    real, fake = {"real": torch.tensor(LOGITS)}, {"fake": torch.tensor(FAKES)}
    of_real = [mean_real(loss, LOGITS, 0.2)]
    of_fake = [mean_fake(loss, FAKES)]
    if third == "real":
        real["more"] = torch.tensor(THIRDS)
        of_real.append(mean_real(loss, THIRDS, 0.2))
    if third == "fake":
        fake["more"] = torch.tensor(THIRDS)
        of_fake.append(mean_fake(loss, THIRDS))
    if loss == "wasserstein-gp":
        whole = (average(of_real) + average(of_fake)) / 2
    else:
        whole = average(of_real + of_fake)
    expected = {
        "discriminator": whole,
        "discriminator_real": of_real[0],
        "discriminator_fake": of_fake[0],
    }
    if third != "none":
        expected["discriminator_more"] = (of_real + of_fake)[1 if third == "real" else 2]
    losses = discriminator_loss(options(loss, label_smoothing=0.2), real, fake)
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-6), name


@pytest.mark.parametrize(("reals", "fakes"), [(1, 1), (1, 2), (2, 1)])
def test_a_constant_added_to_all_logits_does_not_pay_under_wasserstein(
    reals: int, fakes: int
) -> None:
    random = torch.Generator().manual_seed(0)
    # Powers of two, which are added without rounding.
    kinds = [torch.randint(-64, 64, (16,), generator=random) / 16 for _ in range(reals + fakes)]

    def loss(constant: float) -> float:
        real = {f"real{n}": kinds[n] + constant for n in range(reals)}
        fake = {f"fake{n}": kinds[reals + n] + constant for n in range(fakes)}
        return discriminator_loss(options("wasserstein-gp"), real, fake)["discriminator"].item()

    assert loss(0.0) != 0
    for constant in (1.0, -8.0, 1024.0):
        assert loss(constant) == pytest.approx(loss(0.0), abs=1e-6)


@pytest.mark.parametrize(("loss", "threshold"), [("hinge", 0), ("least-squares", 0.5)])
def test_accuracy_counts_logits_on_the_right_side(loss: str, threshold: float) -> None:
    chosen = options(loss)
    real = torch.tensor([-0.2, -0.1, 0.1, 0.2, 0.3]) + threshold
    fake = torch.tensor([-0.3, -0.2, -0.1, 0.1]) + threshold
    measured = accuracy(chosen, [real], [fake])
    assert measured.keys() == {"accuracy/discriminator"}
    # Three of five are above the threshold, three of four below.
    assert measured["accuracy/discriminator"].item() == pytest.approx((0.6 + 0.75) / 2)
    # Kinds weigh the same, however many images they have.
    few, many = torch.tensor([5.0]), torch.tensor([5.0, 5.0, 5.0, -5.0])
    right = accuracy(chosen, [few], [many, -few])["accuracy/discriminator"]
    assert right.item() == pytest.approx((1 + 0.25 + 1) / 3)


def test_accuracy_has_the_sigmoids_threshold_and_none_under_wasserstein() -> None:
    logits = torch.tensor([0.1, 0.2, 0.4, -0.3])
    both = accuracy(options("non-saturating"), [logits], [logits - 0.3])["accuracy/discriminator"]
    assert both.item() == pytest.approx((0.75 + 0.75) / 2)
    assert accuracy(options("wasserstein-gp"), [logits], [logits]) == {}


@pytest.mark.parametrize("loss", LOSSES)
def test_validation_has_the_losses_of_both_players(loss: str) -> None:
    fake = {"fake": torch.tensor(FAKES), "reconstruction": torch.tensor(THIRDS)}
    measured = validation_losses(options(loss), {"real": torch.tensor(LOGITS)}, fake)
    kinds = mean_fake(loss, FAKES), mean_fake(loss, THIRDS)
    of_generator = [mean_generator(loss, FAKES), mean_generator(loss, THIRDS)]
    assert measured.keys() == {
        "validation/discriminator",
        "validation/discriminator_real",
        "validation/discriminator_fake",
        "validation/discriminator_reconstruction",
        "validation/generator",
    }
    assert measured["validation/discriminator_fake"].item() == pytest.approx(kinds[0])
    assert measured["validation/discriminator_reconstruction"].item() == pytest.approx(kinds[1])
    assert measured["validation/generator"].item() == pytest.approx(average(of_generator))


class Linear(nn.Module):
    """The critic w . x."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight


class Bowl(nn.Module):
    """The critic |x|^2 / 2, whose gradient at x is x."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1).square().sum(dim=1) / 2


def test_the_penalty_of_a_linear_critic() -> None:
    weight = torch.randn(3 * 4 * 4, generator=torch.Generator().manual_seed(0))
    critic, length = Linear(weight.clone()), math.sqrt(float(weight.double().square().sum()))
    real, fake = scaled_images(5, 4, 4, seed=1), scaled_images(5, 4, 4, seed=2)
    penalty = gradient_penalty(critic, real, fake, torch.linspace(0, 1, 5))
    assert penalty.item() == pytest.approx((length - 1) ** 2, rel=1e-5)
    penalty.backward()
    assert critic.weight.grad is not None
    expected = 2 * (length - 1) * weight / length
    torch.testing.assert_close(critic.weight.grad, expected, rtol=1e-5, atol=1e-6)


def test_the_penalty_is_taken_between_the_images() -> None:
    real, fake = scaled_images(4, 4, 4, seed=1), scaled_images(4, 4, 4, seed=2)
    shares = [0.0, 0.25, 0.5, 1.0]
    between = [
        share * r + (1 - share) * f
        for share, r, f in zip(shares, real.double(), fake.double(), strict=True)
    ]
    expected = average([(float(x.square().sum().sqrt()) - 1) ** 2 for x in between])
    penalty = gradient_penalty(Bowl(), real, fake, torch.tensor(shares))
    assert penalty.item() == pytest.approx(expected, rel=1e-5)
    # A share of 1 is the real image, of 0 the generated one.
    only_real = gradient_penalty(Bowl(), real, fake, torch.ones(4))
    assert only_real.item() == pytest.approx(
        average([(float(x.double().square().sum().sqrt()) - 1) ** 2 for x in real]), rel=1e-5
    )


def small_critic() -> nn.Module:
    """Smooth, so that finite differences tell its gradients, and with a layer norm."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2, padding=1),
            nn.GroupNorm(1, 4),
            nn.Tanh(),
            nn.Conv2d(4, 2, 3, padding=1),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(2 * 3 * 3, 1),
            nn.Flatten(0),
        )


def explicit_penalty(critic: nn.Module, points: Tensor) -> Tensor:
    """Image by image, in the precision of the points."""
    total = torch.zeros((), dtype=points.dtype)
    for point in points:
        x = point[None].clone().requires_grad_(True)
        [slope] = torch.autograd.grad(critic(x).squeeze(), x, create_graph=True)
        total = total + ((slope**2).sum().sqrt() - 1) ** 2
    return total / len(points)


def test_the_penalty_of_a_convolutional_critic_and_its_gradient() -> None:
    critic = small_critic()
    double = copy.deepcopy(critic).double()
    real, fake = scaled_images(3, 6, 6, seed=1), scaled_images(3, 6, 6, seed=2)
    shares = torch.tensor([0.2, 0.9, 0.5])
    penalty = gradient_penalty(critic, real, fake, shares)
    penalty.backward()

    # The slopes by finite differences.
    weights = shares.double().view(-1, 1, 1, 1)
    points = weights * real.double() + (1 - weights) * fake.double()
    step = 1e-5
    moves = step * torch.eye(points[0].numel(), dtype=torch.float64).view(-1, *points.shape[1:])
    values = []
    with torch.no_grad():
        for point in points:
            slope = (double(point + moves) - double(point - moves)) / (2 * step)
            values.append((math.sqrt(float(slope.square().sum())) - 1) ** 2)
    assert penalty.item() == pytest.approx(average(values), rel=1e-5)
    assert float(explicit_penalty(double, points).detach()) == pytest.approx(average(values))

    # Its gradient with respect to each weight, by finite differences again.
    compared = 0
    for parameter, exact in zip(critic.parameters(), double.parameters(), strict=True):
        differences = torch.zeros_like(exact)
        for place in range(exact.numel()):
            ends = []
            for sign in (1, -1):
                with torch.no_grad():
                    exact.view(-1)[place] += sign * step
                ends.append(explicit_penalty(double, points).detach())
                with torch.no_grad():
                    exact.view(-1)[place] -= sign * step
            differences.view(-1)[place] = (ends[0] - ends[1]) / (2 * step)
        if parameter.grad is None:
            # The last bias, which no slope depends on.
            assert not differences.any()
            continue
        compared += 1
        largest = differences.abs().max().item()
        torch.testing.assert_close(
            parameter.grad.double(), differences, rtol=1e-3, atol=1e-5 * largest + 1e-9
        )
    assert compared == 7


def test_the_penalty_is_computed_in_full_precision() -> None:
    critic, real, fake = small_critic(), scaled_images(3, 6, 6, 1), scaled_images(3, 6, 6, 2)
    plain = gradient_penalty(critic, real, fake, torch.full((3,), 0.5))
    with torch.autocast("cpu", torch.bfloat16):
        assert critic(real).dtype == torch.bfloat16
        again = gradient_penalty(critic, real, fake.bfloat16(), torch.full((3,), 0.5))
        same = gradient_penalty(critic, real, fake, torch.full((3,), 0.5))
    assert torch.equal(same, plain)
    assert again.item() == pytest.approx(plain.item(), rel=0.02)


def test_a_step_with_the_penalty_by_hand() -> None:
    config = tiny_config(adversarial_loss="wasserstein-gp", gradient_penalty=6.0, seed=5)
    model = build(DCGAN, config)
    double = copy.deepcopy(model.networks["discriminator"]).double()
    made, real = Seen(model.networks["generator"]), scaled_images(8, 32, 32).double()
    with in_double_precision(model):
        metrics = model.update(batch_of(real), step_of(3))

    fake = made.outputs[0]
    # How far between the images: uniform numbers, from the step's normal ones.
    normal = latents(8, (1,), (PENALTY_NOISE, 5, 3)).double()
    shares = (1 + torch.erf(normal / math.sqrt(2))) / 2
    assert ((shares > 0) & (shares < 1)).all()
    weights = shares.view(-1, 1, 1, 1)
    of_real, of_fake = -double(real).mean(), double(fake).mean()
    penalty = explicit_penalty(double, weights * real + (1 - weights) * fake)
    loss = (of_real + of_fake + 6 * penalty) / 2
    for name, value in (
        ("discriminator", loss),
        ("discriminator_real", of_real),
        ("discriminator_fake", of_fake),
        ("gradient_penalty", penalty),
    ):
        assert metrics[f"loss/{name}"].item() == pytest.approx(value.item(), rel=1e-4, abs=1e-6)
    assert "accuracy/discriminator" not in metrics
    loss.backward()
    for mine, exact in zip(
        model.networks["discriminator"].parameters(), double.parameters(), strict=True
    ):
        assert mine.grad is not None
        assert exact.grad is not None
        largest = exact.grad.abs().max().item()
        torch.testing.assert_close(
            mine.grad.double(), exact.grad, rtol=1e-3, atol=1e-4 * largest + 1e-7
        )


def kinds(network: nn.Module) -> set[type[nn.Module]]:
    """Which normalising layers a network has."""
    norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)
    return {type(module) for module in network.modules() if isinstance(module, norms)}


@pytest.mark.parametrize("preset", ["dcgan-celeba", "dcgan-anime", "vaegan-anime"])
@pytest.mark.parametrize(
    ("loss", "spectral_norm", "expected"),
    [
        ("non-saturating", False, {nn.BatchNorm2d}),
        ("hinge", False, {nn.BatchNorm2d}),
        ("wasserstein-gp", False, {nn.GroupNorm}),
        ("hinge", True, set()),
        ("wasserstein-gp", True, set()),
    ],
)
def test_what_normalises_in_a_discriminator(
    preset: str, loss: str, spectral_norm: bool, expected: set[type[nn.Module]]
) -> None:
    config = small_config(preset, adversarial_loss=loss, spectral_norm=spectral_norm)
    model = build_any(config)
    assert kinds(model.networks["discriminator"]) == expected
    for name in set(model.networks) - {"discriminator"}:
        assert kinds(model.networks[name]) == {nn.BatchNorm2d}


def test_layer_norm_is_over_all_channels_and_pixels_of_an_image() -> None:
    layer = normalisation(options("wasserstein-gp"), nn.BatchNorm2d)(6)
    x = 3 + 5 * torch.randn(4, 6, 5, 5, generator=torch.Generator().manual_seed(0))
    result = layer(x).detach().flatten(1)
    assert result.mean(dim=1).abs().max() < 1e-5
    torch.testing.assert_close(result.var(dim=1, unbiased=False), torch.ones(4))
    torch.testing.assert_close(layer(x[:1]).detach().flatten(1), result[:1])


def singular_values(network: nn.Module) -> list[float]:
    """The largest of each convolution's (as filters by the rest) and linear layer's weight."""
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    with torch.no_grad():
        return [float(torch.linalg.svdvals(m.weight.flatten(1).double())[0]) for m in layers]


@pytest.mark.parametrize(
    ("preset", "side", "layers"),
    [("dcgan-celeba", 32, 4), ("dcgan-anime", 64, 6), ("vaegan-anime", 64, 5)],
)
def test_spectral_norm_makes_the_largest_singular_value_1(
    preset: str, side: int, layers: int
) -> None:
    model = build_any(small_config(preset, spectral_norm=True, width=0.125))
    discriminator = model.networks["discriminator"]
    random, images = torch.Generator().manual_seed(0), scaled_images(2, side, side)
    for moved in (0.0, 1.0):
        with torch.no_grad():
            for parameter in discriminator.parameters():
                if parameter.dim() > 1:
                    parameter.add_(moved * torch.randn(parameter.shape, generator=random))
            discriminator.train()
            for _ in range(20):
                discriminator(images)
        discriminator.eval()
        assert singular_values(discriminator) == pytest.approx([1.0] * layers, rel=0.05)
    plain = build_any(small_config(preset, width=0.125)).networks["discriminator"]
    assert any(abs(value - 1) > 0.2 for value in singular_values(plain))


@pytest.mark.parametrize("preset", ["dcgan-celeba", "vaegan-anime"])
def test_spectral_norm_starts_after_the_seed_alone(preset: str) -> None:
    def state(seed: int, elsewhere: int) -> dict[str, Tensor]:
        torch.manual_seed(elsewhere)
        model = build_any(small_config(preset, spectral_norm=True, seed=seed))
        return model.networks["discriminator"].state_dict()

    first, same, other = state(3, 0), state(3, 1), state(4, 0)
    # A vector of one number is 1 or -1, whatever the seed.
    vectors = [n for n in first if n.endswith(("_u", "_v")) and first[n].numel() > 1]
    assert vectors
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in vectors)


def test_spectral_norm_leaves_torchs_own_random_numbers_alone() -> None:
    build_any(tiny_config())
    drawn = []
    for spectral_norm in (False, True):
        torch.manual_seed(0)
        build_any(tiny_config(spectral_norm=spectral_norm))
        drawn.append(torch.rand(3))
    assert torch.equal(*drawn)


@pytest.mark.parametrize("spectral_norm", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("preset", "side"), [("dcgan-celeba", 32), ("vaegan-anime", 64)])
def test_each_loss_teaches_a_discriminator_flat_images_from_noise(
    preset: str, side: int, loss: str, spectral_norm: bool
) -> None:
    values = {
        "adversarial_loss": loss,
        "spectral_norm": spectral_norm,
        "lr_d": 5e-3,
        "lr_g": 1e-6,
        "latent_size": 8,
        "schedule": "1:1",
        "half_batches": False,
    }
    model = build_any(small_config(preset, **values))
    flat = torch.full((8, 3, side, side), 0.8)
    history = [model.update(batch_of(flat), step_of(number)) for number in range(20)]
    for metrics in history:
        assert all(bool(torch.isfinite(value)) for value in metrics.values())
    if loss == "wasserstein-gp":
        apart = [
            -float(m["loss/discriminator_real"] + m["loss/discriminator_fake"]) for m in history
        ]
        assert apart[-1] > 0.2 > apart[0]
        assert min(float(m["loss/gradient_penalty"]) for m in history) >= 0
    else:
        assert float(history[-1]["accuracy/discriminator"]) == 1
        first, last = (float(history[k]["loss/discriminator"]) for k in (0, -1))
        assert last < 0.4 * first


@pytest.mark.parametrize("preset", ["dcgan-celeba", "vaegan-anime"])
def test_wasserstein_gp_trains_with_rates_decays_and_a_schedule_of_its_own(preset: str) -> None:
    def settings(**told: Any) -> tuple[Any, ...]:
        model = build_any(small_config(preset, **told))
        assert isinstance(model, DCGAN | VAEGAN)
        generator = "generator" if isinstance(model, DCGAN) else "decoder"
        groups = [model.optimizers[n].param_groups[0] for n in (generator, "discriminator")]
        assert len({group["betas"] for group in groups}) == 1
        turns = [model.schedule.turn(number, 1_000) for number in range(10)]
        steps = sum(t.discriminator for t in turns), sum(t.generator for t in turns)
        return groups[0]["betas"], groups[0]["lr"], groups[1]["lr"], steps

    critic = {"adversarial_loss": "wasserstein-gp"}
    assert settings(**critic) == ((0.0, 0.9), 1e-4, 1e-4, (10, 2))
    own = {"beta1": 0.3, "beta2": 0.99, "lr_g": 2e-4, "lr_d": 3e-4, "schedule": "1:2"}
    expected = (0.3, 0.99), 2e-4, 3e-4, (5, 10)
    assert settings(**critic, **own) == settings(**own) == expected
    assert settings()[0] == (0.5, 0.999)


@pytest.mark.slow
def test_two_workers_equal_one_with_the_gradient_penalty(tmp_path: Path) -> None:
    config = tiny_config(adversarial_loss="wasserstein-gp")
    compared = check_two_workers_equal_one(tmp_path, config, 6, variance=(0.01, 0.02))
    assert compared == {
        "loss/discriminator",
        "loss/discriminator_real",
        "loss/discriminator_fake",
        "loss/gradient_penalty",
        "loss/generator",
    }


def test_options_out_of_range_are_refused() -> None:
    for name, value in (("adversarial_loss", "mean"), ("gradient_penalty", 0.0)):
        with pytest.raises(UserError, match=f"--{name.replace('_', '-')}"):
            updated(DCGANConfig(), {name: value}, "here")
