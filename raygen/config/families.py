"""Options of the model families, kept apart from the networks so that they load without torch."""

from dataclasses import dataclass, replace
from typing import Literal, Self, get_args

from raygen.config.domains import Choice, Range, Space, decades_around
from raygen.config.fields import (
    Changeable,
    require,
    require_at_least,
    require_choice,
    require_positive,
)
from raygen.config.schedule import TWO_PHASE, Schedule

AdversarialLoss = Literal["non-saturating", "hinge", "least-squares", "wasserstein-gp"]
VAEGANObjective = Literal["larsen", "article"]
Optimizer = Literal["rmsprop", "adam"]

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

    @property
    def explicit(self) -> Self:
        """The same options, with each 0 that means "the default" replaced by its number."""
        return self

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
        return "quality/swd"


@dataclass(frozen=True)
class AdversarialConfig(ModelConfig):
    """Options of the families that have a discriminator."""

    schedule: Changeable[str] = "1:1"
    """Discriminator steps : generator steps, as 1:1, 5:1, 1:2; or two-phase: 4:1 in the first half
    of the run and 1:4 in the second."""
    adversarial_loss: AdversarialLoss = "non-saturating"
    """non-saturating (Goodfellow et al. 2014), hinge, least-squares, or wasserstein-gp, whose
    discriminator normalises by layer in place of batch."""
    gradient_penalty: Changeable[float] = 10.0
    """Weight of the gradient penalty of wasserstein-gp."""
    spectral_norm: bool = False
    """Normalise the discriminator's weights by their largest singular value, in place of batch
    norm (Miyato et al. 2018, arXiv 1802.05957)."""
    label_smoothing: Changeable[float] = 0.0
    """One-sided: the discriminator's target for real images is 1 minus this, in [0, 1); for the
    losses that have targets, non-saturating and least-squares."""
    lr_g: Changeable[float] = 1e-4
    """Learning rate of the generator's Adam."""
    lr_d: Changeable[float] = 1e-4
    """Learning rate of the discriminator's Adam."""
    beta1: Changeable[float] = 0.5
    """Adam's first-moment decay, for both networks, in [0, 1)."""
    half_batches: bool = False
    """The discriminator's step takes half a batch of images of each kind, the generator's a whole
    batch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        Schedule.parse(self.schedule)
        require_choice(self, "adversarial_loss", AdversarialLoss)
        require_positive(self, "lr_d", "gradient_penalty")
        require(0 <= self.beta1 < 1, "--beta1", self.beta1, "be in [0, 1)")
        smoothing = self.label_smoothing
        require(0 <= smoothing < 1, "--label-smoothing", smoothing, "be in [0, 1)")

    @property
    def sides(self) -> tuple[int, ...]:
        return (32, 64, 128)

    @property
    def search_space(self) -> Space:
        return {
            "lr_g": decades_around(self.lr_g),
            "lr_d": decades_around(self.lr_d),
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

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "lr_g")

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
    schedule: Changeable[str] = "two-phase"
    """Discriminator steps : generator steps, as 1:1, 5:1, 1:2; or two-phase: 4:1 in the first half
    of the run and 1:4 in the second. The generator's steps are those of encoder and decoder, with
    the objective `article` the VAE step too."""
    objective: VAEGANObjective = "larsen"
    """larsen: the paper's, which measures reconstructions by the discriminator's features;
    article: by pixels, with a VAE step of its own, which tends to collapse the posterior."""
    gamma: Changeable[float] = 0.1
    """larsen: weight of the reconstruction against the adversarial loss in the decoder."""
    lr_g: Changeable[float] = 0.0
    """Learning rate of the decoder's Adam; 0: the objective's own, 1e-3 for larsen and 1e-4 for
    article."""
    lr_d: Changeable[float] = 2e-4
    """Learning rate of the discriminator's Adam."""
    lr_vae: Changeable[float] = 0.0
    """Learning rate of the encoder's Adam (larsen) or of the VAE step's SGD (article); 0: the
    objective's own, 1e-3 and 3e-4."""
    half_batches: bool = True
    """The discriminator's step takes every other image of the batch, of each kind."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_at_least(self, 0, "lr_g", "lr_vae")
        require_at_least(self, 0, "gamma")
        require_choice(self, "objective", VAEGANObjective)

    @property
    def explicit(self) -> Self:
        decoder, vae = self.learning_rates
        return replace(self, lr_g=decoder, lr_vae=vae)

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

    @property
    def learning_rates(self) -> tuple[float, float]:
        """Learning rates of the decoder's optimizer, and of the encoder's or the VAE step's."""
        decoder, vae = (1e-3, 1e-3) if self.objective == "larsen" else (1e-4, 3e-4)
        return self.lr_g or decoder, self.lr_vae or vae
