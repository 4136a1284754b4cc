"""Options of the model families, kept apart from the networks so that they load without torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, get_args

import tyro

from raygen.config.domains import Choice, Range, Space, decades_around
from raygen.config.fields import (
    Changeable,
    NotSearched,
    option,
    require,
    require_at_least,
    require_choice,
    require_positive,
)
from raygen.config.schedule import TWO_PHASE, Schedule

AdversarialLoss = Literal["non-saturating", "hinge", "least-squares", "wasserstein-gp"]
VAEGANObjective = Literal["larsen", "article"]
Optimizer = Literal["rmsprop", "adam"]

OPEN: Mapping[str, str | float] = {"schedule": "auto", "beta1": -1.0, "beta2": -1.0}
"""Values that mean "the default", of options of which 0 cannot mean that."""

FD = "quality/fd"
"""Tag of the Fréchet distance between samples and validation images, in whatever features."""
LEAST_SIDE = 8
"""Side of the smallest images whose quality can be measured, in pixels."""
LARGEST_LATENT = 2**16
"""Upper limit of the latent size: more than the smallest images have values."""


@dataclass(frozen=True)
class ModelConfig:
    """Options that every family has. A family that needs more has a subclass."""

    latent_size: int = 128
    """Length of a latent code, drawn from N(0, I)."""
    ema_images: Changeable[int] = 10_000
    """Half-life, in images, of the moving average of the weights that draws the pictures; 0 draws
    with the weights as they are."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "latent_size")
        size = self.latent_size
        require(size <= LARGEST_LATENT, "--latent-size", size, f"be at most {LARGEST_LATENT}")
        require_at_least(self, 0, "ema_images")

    @property
    def images_divisor(self) -> int:
        """Divide `batch_size` by this for the images that a step takes from the dataset."""
        return 1

    @property
    def least_images(self) -> int:
        """Least number of images that each worker needs in a step."""
        return 1

    @property
    def sides(self) -> tuple[int, ...]:
        """Image sides that the networks can be built for, in pixels; empty: any side."""
        return ()

    def check_size(self, height: int, width: int, size: str) -> None:
        """Raises: UserError if the networks cannot be built for images of this size."""
        if self.sides:
            known = ", ".join(map(str, self.sides))
            fits = height == width and height in self.sides
            require(fits, "--size", size, f"be one of {known}, for this preset's networks")
        least = min(height, width)
        require(least >= LEAST_SIDE, "--size", size, f"have at least {LEAST_SIDE} pixels a side")

    def updates(self, steps: int, total: int) -> dict[str, int]:
        """Optimizer steps of each network, by name, in the first training steps of a run.

        Args: total: steps of the whole run. Families whose networks rest in some steps, or step
            twice in one, override this.
        """
        return {"networks": steps}

    @property
    def own(self) -> Mapping[str, Any]:
        """Defaults of the options whose default depends on other options, by name.

        The options themselves have 0, or what `OPEN` says, for "the default".
        """
        return {}

    @property
    def left_open(self) -> frozenset[str]:
        """Names of the options that have their own default."""
        return frozenset(name for name in self.own if getattr(self, name) == OPEN.get(name, 0))

    @property
    def explicit(self) -> Self:
        """The same options, with each value that means "the default" replaced by that default."""
        own = self.own
        return replace(self, **{name: own[name] for name in self.left_open})

    @property
    def search_space(self) -> Space:
        """The default search space of a sweep."""
        return {}

    @property
    def metric_tags(self) -> tuple[str, ...]:
        """Tags of the metrics that the family logs in training and validation."""
        return ()

    @property
    def best_by(self) -> str:
        """Tag of the metric that selects the best checkpoint and a sweep's best trial."""
        return FD


@dataclass(frozen=True)
class AdversarialConfig(ModelConfig):
    """Options of the families that have a discriminator."""

    schedule: Changeable[str] = "auto"
    """Discriminator steps : generator steps, as 1:1, 5:1, 1:2; or two-phase: 4:1 in the first half
    of the run and 1:4 in the second; auto: 1:1, or 5:1 for wasserstein-gp."""
    adversarial_loss: AdversarialLoss = "non-saturating"
    """non-saturating (Goodfellow et al. 2014), hinge, least-squares, or wasserstein-gp (Gulrajani
    et al. 2017), whose discriminator normalises by layer in place of batch, and which has learning
    rates, decays and a schedule of its own unless told otherwise."""
    gradient_penalty: Changeable[float] = 10.0
    """Weight of the gradient penalty of wasserstein-gp."""
    spectral_norm: bool = False
    """Normalise the discriminator's weights by their largest singular value, in place of batch
    norm (Miyato et al. 2018, arXiv 1802.05957)."""
    label_smoothing: Changeable[float] = 0.0
    """One-sided: the discriminator's target for real images is 1 minus this, in [0, 1); for the
    losses that have targets, non-saturating and least-squares."""
    lr_g: Changeable[float] = 0.0
    """Learning rate of the generator's Adam; 0: 1e-4."""
    lr_d: Changeable[float] = 0.0
    """Learning rate of the discriminator's Adam; 0: the preset's own (1e-3 for dcgan-celeba, 1e-4
    for dcgan-anime), or 1e-4 for wasserstein-gp."""
    beta1: Changeable[float] = -1.0
    """Adam's first-moment decay, for all networks, in [0, 1); -1: 0.5, or 0 for wasserstein-gp."""
    beta2: Changeable[float] = -1.0
    """Adam's second-moment decay, for all networks, in [0, 1); -1: 0.999, or 0.9 for
    wasserstein-gp."""
    own_lr_d: NotSearched[tyro.conf.Suppress[float]] = 1e-4
    """The preset's own learning rate of the discriminator."""
    half_batches: bool = False
    """The discriminator's step takes half a batch of images of each kind, the generator's a whole
    batch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.schedule != OPEN["schedule"]:
            Schedule.parse(self.schedule)
        require_choice(self, "adversarial_loss", AdversarialLoss)
        require_positive(self, "own_lr_d", "gradient_penalty")
        for name in ("lr_g", "lr_d"):
            rate = getattr(self, name)
            holds = rate >= 0 and math.isfinite(rate)
            require(holds, option(name), rate, "be above 0 and finite, or 0 for the default")
        for name in ("beta1", "beta2"):
            decay = getattr(self, name)
            holds = 0 <= decay < 1 or decay == OPEN[name]
            require(holds, option(name), decay, f"be in [0, 1), or {OPEN[name]:g} for the default")
        smoothing = self.label_smoothing
        require(0 <= smoothing < 1, "--label-smoothing", smoothing, "be in [0, 1)")

    @property
    def sides(self) -> tuple[int, ...]:
        return (32, 64, 128)

    def turns(self, steps: int, total: int) -> tuple[int, int]:
        """How often the discriminator and the generator step in the first steps of a run.

        Args: total: steps of the whole run.
        """
        return Schedule.parse(self.explicit.schedule).steps(steps, total)

    @property
    def own(self) -> Mapping[str, Any]:
        if self.adversarial_loss == "wasserstein-gp":
            # Gulrajani et al. 2017, arXiv 1704.00028, algorithm 1.
            return {"schedule": "5:1", "beta1": 0.0, "beta2": 0.9, "lr_g": 1e-4, "lr_d": 1e-4}
        return {
            "schedule": "1:1",
            "beta1": 0.5,
            "beta2": 0.999,
            "lr_g": 1e-4,
            "lr_d": self.own_lr_d,
        }

    @property
    def search_space(self) -> Space:
        explicit = self.explicit
        return {
            "lr_g": decades_around(explicit.lr_g),
            "lr_d": decades_around(explicit.lr_d),
            # From a discriminator that steps rarely to one that steps often.
            "schedule": Choice(("1:2", "1:1", "2:1", "4:1", "5:1", TWO_PHASE)),
            "beta1": Choice((0.0, 0.5)),
            "label_smoothing": Range(0.0, 0.2),
        }

    @property
    def metric_tags(self) -> tuple[str, ...]:
        names = ["discriminator", "discriminator_real", "discriminator_fake"]
        critic = self.adversarial_loss == "wasserstein-gp"
        return (
            *(f"{group}/{name}" for group in ("loss", "validation") for name in names),
            "loss/gradient_penalty" if critic else "accuracy/discriminator",
            "validation/generator",
        )


@dataclass(frozen=True)
class DCGANConfig(AdversarialConfig):
    """Options of the DCGAN family (Radford et al. 2015, arXiv 1511.06434)."""

    def updates(self, steps: int, total: int) -> dict[str, int]:
        discriminator, generator = self.turns(steps, total)
        return {"generator": generator, "discriminator": discriminator}

    @property
    def metric_tags(self) -> tuple[str, ...]:
        return (*super().metric_tags, "loss/generator")

    @property
    def images_divisor(self) -> int:
        # Only the discriminator uses images.
        return 2 if self.half_batches else 1


@dataclass(frozen=True)
class VAEConfig(ModelConfig):
    """Options of the VAE family (Kingma & Welling 2014, arXiv 1312.6114)."""

    latent_size: int = 512
    """Length of a latent code, whose prior is N(0, I)."""
    kl_weight: Changeable[float] = 1e-4
    """Weight of the KL divergence, in nats per image, against the mean squared error over all
    pixels."""
    lr: Changeable[float] = 1e-3
    """Learning rate."""
    optimizer: Optimizer = "rmsprop"
    """rmsprop (decay 0.9) or adam (decays 0.9 and 0.999)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "lr")
        require_at_least(self, 0, "kl_weight")
        require_choice(self, "optimizer", Optimizer)

    def updates(self, steps: int, total: int) -> dict[str, int]:
        return {"encoder": steps, "decoder": steps}

    @property
    def least_images(self) -> int:
        # Latents are batch-normalised, and a single image has no variance.
        return 2

    @property
    def search_space(self) -> Space:
        optimizers: tuple[Optimizer, ...] = get_args(Optimizer)
        return {
            "lr": decades_around(self.lr),
            "kl_weight": decades_around(self.kl_weight or VAEConfig.kl_weight),
            "optimizer": Choice(optimizers),
        }

    @property
    def metric_tags(self) -> tuple[str, ...]:
        return tuple(
            f"{group}/{name}" for group in ("loss", "validation") for name in ("total", "mse", "kl")
        )

    @property
    def best_by(self) -> str:
        return "validation/mse"


@dataclass(frozen=True)
class VAEGANConfig(AdversarialConfig):
    """Options of the VAE-GAN family (Larsen et al. 2015, arXiv 1512.09300)."""

    latent_size: int = 256
    """Length of a latent code, whose prior is N(0, I)."""
    schedule: Changeable[str] = "auto"
    """Discriminator steps : generator steps, as 1:1, 5:1, 1:2; or two-phase: 4:1 in the first half
    of the run and 1:4 in the second; auto: two-phase, or 5:1 for wasserstein-gp. The generator's
    steps are those of encoder and decoder, with the objective `article` the VAE step too."""
    objective: VAEGANObjective = "larsen"
    """larsen: the paper's, which measures reconstructions by the discriminator's features;
    article: by pixels, with a VAE step of its own, which tends to collapse the posterior."""
    gamma: Changeable[float] = 0.1
    """larsen: weight of the reconstruction against the adversarial loss in the decoder."""
    lr_g: Changeable[float] = 0.0
    """Learning rate of the decoder's Adam; 0: the objective's own, 1e-3 for larsen and 1e-4 for
    article, or 1e-4 for wasserstein-gp."""
    lr_d: Changeable[float] = 0.0
    """Learning rate of the discriminator's Adam; 0: 2e-4, or 1e-4 for wasserstein-gp."""
    own_lr_d: NotSearched[tyro.conf.Suppress[float]] = 2e-4
    lr_vae: Changeable[float] = 0.0
    """Learning rate of the encoder's Adam (larsen) or of the VAE step's SGD (article); 0: the
    objective's own, 1e-3 and 3e-4."""
    half_batches: bool = True
    """The discriminator's step takes every other image of the batch, of each kind."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 0, "lr_vae", "gamma")
        require_choice(self, "objective", VAEGANObjective)

    def updates(self, steps: int, total: int) -> dict[str, int]:
        discriminator, generator = self.turns(steps, total)
        # The decoder's own step, and the VAE's.
        decoder = 2 * generator if self.objective == "article" else generator
        return {"encoder": generator, "decoder": decoder, "discriminator": discriminator}

    @property
    def own(self) -> Mapping[str, Any]:
        decoder, vae = (1e-3, 1e-3) if self.objective == "larsen" else (1e-4, 3e-4)
        if self.adversarial_loss == "wasserstein-gp":
            return {**super().own, "lr_vae": vae}
        return {**super().own, "schedule": TWO_PHASE, "lr_g": decoder, "lr_vae": vae}

    @property
    def metric_tags(self) -> tuple[str, ...]:
        names = ["discriminator_reconstruction", "generator_reconstruction", "generator_fake", "kl"]
        if self.objective == "larsen":
            names += ["encoder", "decoder", "feature_distance"]
        else:
            names += ["vae", "mse", "generator"]
        measured = ["discriminator_reconstruction", "mse", "kl"]
        return (
            *super().metric_tags,
            *(f"loss/{name}" for name in names),
            *(f"validation/{name}" for name in measured),
        )

    @property
    def search_space(self) -> Space:
        return super().search_space | {"gamma": decades_around(self.gamma or VAEGANConfig.gamma)}
