"""Losses, normalisation and steps of the families that have a discriminator.

A loss has one term for each kind of images that the discriminator sees, real or generated. Their
mean is minimised, which is half of what papers write as a sum of two terms; Adam does not notice
the factor, because its step size does not depend on the scale of the loss.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from raygen.config.families import AdversarialConfig
from raygen.models.base import Metrics, Model, Step
from raygen.models.layers import PENALTY_NOISE

Normalisation = Callable[[int], nn.Module]
"""Builds the normalisation layer for a number of channels."""

SLOPE = 0.2
"""Negative slope of the leaky ReLUs in all discriminators."""


def binary_loss(logits: Tensor, target: float) -> Tensor:
    """Mean binary cross-entropy of logits (N,) against one probability in [0, 1], in nats."""
    logits = logits.float()
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def real_term(options: AdversarialConfig, logits: Tensor) -> Tensor:
    """The discriminator's loss on images (N logits) that it should classify as real.

    Sources: Goodfellow et al. 2014, arXiv 1406.2661, with one-sided label smoothing from Salimans
    et al. 2016, arXiv 1606.03498; hinge: Lim & Ye 2017, arXiv 1705.02894; least squares: Mao et
    al. 2017, arXiv 1611.04076, equation 2 with a = 0, b = c = 1 and without its factor 1/2;
    Wasserstein: Arjovsky et al. 2017, arXiv 1701.07875.
    """
    logits, target = logits.float(), 1 - options.label_smoothing
    match options.adversarial_loss:
        case "non-saturating":
            return binary_loss(logits, target)
        case "hinge":
            return F.relu(1 - logits).mean()
        case "least-squares":
            return (logits - target).square().mean()
        case "wasserstein-gp":
            return -logits.mean()


def fake_term(options: AdversarialConfig, logits: Tensor) -> Tensor:
    """The discriminator's loss on images (N logits) that it should classify as generated."""
    logits = logits.float()
    match options.adversarial_loss:
        case "non-saturating":
            return binary_loss(logits, 0.0)
        case "hinge":
            return F.relu(1 + logits).mean()
        case "least-squares":
            return logits.square().mean()
        case "wasserstein-gp":
            return logits.mean()


def generator_term(options: AdversarialConfig, logits: Tensor) -> Tensor:
    """The generator's loss on its images (N logits), which should pass as real."""
    logits = logits.float()
    match options.adversarial_loss:
        case "non-saturating":
            return binary_loss(logits, 1.0)
        case "least-squares":
            return (logits - 1).square().mean()
        case "hinge" | "wasserstein-gp":
            return -logits.mean()


def discriminator_loss(
    options: AdversarialConfig, real: Mapping[str, Tensor], fake: Mapping[str, Tensor]
) -> Metrics:
    """The discriminator's loss without gradient penalty, in total and by kind of images.

    Args: real, fake: by kind, logits of the images that it should classify as real, as generated.
    Returns: `discriminator`, and `discriminator_<kind>` for each kind.
    """
    real_terms = {kind: real_term(options, logits) for kind, logits in real.items()}
    fake_terms = {kind: fake_term(options, logits) for kind, logits in fake.items()}
    if options.adversarial_loss == "wasserstein-gp":
        # Real and generated images must weigh the same: adding a constant to all logits would
        # lower the loss without end otherwise.
        loss = (_mean(real_terms.values()) + _mean(fake_terms.values())) / 2
    else:
        loss = _mean([*real_terms.values(), *fake_terms.values()])
    terms = {f"discriminator_{kind}": term for kind, term in (real_terms | fake_terms).items()}
    return {"discriminator": loss} | terms


def _mean(values: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean()


def accuracy(options: AdversarialConfig, real: Iterable[Tensor], fake: Iterable[Tensor]) -> Metrics:
    """Share of correctly classified logits, in [0, 1]; each kind of images weighs the same.

    Empty for wasserstein-gp, whose logits have no threshold.
    """
    if options.adversarial_loss == "wasserstein-gp":
        return {}
    threshold = 0.5 if options.adversarial_loss == "least-squares" else 0.0
    right = [(logits.detach() > threshold).float().mean() for logits in real]
    right += [(logits.detach() < threshold).float().mean() for logits in fake]
    return {"accuracy/discriminator": _mean(right)}


def step_discriminator(
    model: Model,
    options: AdversarialConfig,
    real: Mapping[str, Tensor],
    fake: Mapping[str, Tensor],
    step: Step,
) -> Metrics:
    """Take one step of the optimizer `discriminator`.

    Args: real, fake: by kind, images (N, C, H, W) that the network should classify as real, as
        generated; the first kind of each enters the gradient penalty. They get no gradients.
    """
    discriminator = model.parallel["discriminator"]
    with model.autocast():
        real_logits = {kind: discriminator(images) for kind, images in real.items()}
        fake_logits = {kind: discriminator(images) for kind, images in fake.items()}
    losses = discriminator_loss(options, real_logits, fake_logits)
    if options.adversarial_loss == "wasserstein-gp":
        penalty = _penalty(model, next(iter(real.values())), next(iter(fake.values())), step)
        # Half of the paper's weight, to match the mean over the terms.
        losses["discriminator"] = losses["discriminator"] + options.gradient_penalty / 2 * penalty
        losses["gradient_penalty"] = penalty
    model.minimise("discriminator", losses["discriminator"], step)
    metrics = {f"loss/{name}": loss.detach() for name, loss in losses.items()}
    return metrics | accuracy(options, real_logits.values(), fake_logits.values())


def validation_losses(
    options: AdversarialConfig, real: Mapping[str, Tensor], fake: Mapping[str, Tensor]
) -> Metrics:
    """Losses of both networks on logits of held-out and generated images, by kind."""
    losses = discriminator_loss(options, real, fake)
    losses["generator"] = _mean(generator_term(options, logits) for logits in fake.values())
    return {f"validation/{name}": loss for name, loss in losses.items()}


def _penalty(model: Model, real: Tensor, fake: Tensor, step: Step) -> Tensor:
    # The normal cdf turns the normal noise, which all workers share, into uniform numbers.
    normal = model.noise(step, len(real) * step.world_size, PENALTY_NOISE, shape=(1,))
    shares = torch.special.ndtr(normal.squeeze(1))
    return gradient_penalty(model.networks["discriminator"], real, fake, shares)


def gradient_penalty(
    discriminator: nn.Module, real: Tensor, fake: Tensor, shares: Tensor
) -> Tensor:
    """Mean of (|gradient of the logit at a point between the images| - 1)^2.

    Args:
        discriminator: the network without its data-parallel wrapper, which still averages these
            gradients with the others when the whole loss is differentiated.
        real, fake: (N, C, H, W).
        shares: (N,) in [0, 1], the weight of the real image in each point.
    Source: Gulrajani et al. 2017, arXiv 1704.00028, equation 3.
    """
    weights = shares.view(-1, 1, 1, 1)
    between = (weights * real + (1 - weights) * fake).detach().requires_grad_(True)
    # Full precision, for the gradient of a gradient; and `forward`, because compiled networks
    # cannot be differentiated twice.
    with torch.autocast(between.device.type, enabled=False):
        logits = discriminator.forward(between.float())
        [slopes] = torch.autograd.grad(logits.sum(), between, create_graph=True)
    penalty: Tensor = (slopes.flatten(1).norm(dim=1) - 1).square().mean()
    return penalty


def normalisation(options: AdversarialConfig, batch_norm: Normalisation) -> Normalisation:
    """The normalisation layers of a discriminator, for the options that it has.

    The gradient penalty concerns single images and so needs layer norm (arXiv 1704.00028,
    section 4); spectral norm needs no layer (arXiv 1802.05957, appendix B).
    """
    if options.spectral_norm:
        return lambda channels: nn.Identity()
    if options.adversarial_loss == "wasserstein-gp":
        return lambda channels: nn.GroupNorm(1, channels)
    return batch_norm


def normalise_spectrum(network: nn.Module, generator: torch.Generator) -> None:
    """Divide the weights of all convolutions and linear layers by their largest singular value.

    Args: generator: draws the seed that the estimated singular vectors start from.
    Source: Miyato et al. 2018, arXiv 1802.05957.
    """
    # Stay on the CPU: on the meta device there would be no number to seed with.
    seed = int(torch.randint(2**62, (1,), generator=generator, device="cpu"))
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        for module in list(network.modules()):
            if isinstance(module, nn.Conv2d | nn.Linear):
                spectral_norm(module)
