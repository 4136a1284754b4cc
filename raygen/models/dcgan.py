"""DCGAN: networks, losses, update step and pictures.

Source: Radford et al. 2015, "Unsupervised Representation Learning with Deep Convolutional
Generative Adversarial Networks", arXiv 1511.06434; one-sided label smoothing from Salimans et al.
2016, arXiv 1606.03498.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raygen.config import DCGANConfig, RunConfig
from raygen.models.base import Metrics, Model, Step
from raygen.models.layers import (
    MovingAverage,
    frozen,
    initialise_normal,
    latent_codes,
    scaled,
)

SLOPE = 0.2
"""Of the leaky ReLUs."""
WEIGHT_STD = 0.02


class Generator(nn.Module):
    """Latent codes (N, latent_size) -> images (N, 3, 32, 32) in [-1, 1]."""

    def __init__(self, latent_size: int = 100, width: float = 1.0) -> None:
        super().__init__()
        c512, c256, c128 = (scaled(channels, width) for channels in (512, 256, 128))
        self.project = nn.Linear(latent_size, c512 * 4 * 4)
        self.upsample = nn.Sequential(
            nn.BatchNorm2d(c512),
            nn.LeakyReLU(SLOPE),
            nn.ConvTranspose2d(c512, c256, 5, stride=2, padding=2, output_padding=1),  # 8 x 8
            nn.BatchNorm2d(c256),
            nn.LeakyReLU(SLOPE),
            nn.ConvTranspose2d(c256, c128, 5, stride=2, padding=2, output_padding=1),  # 16 x 16
            nn.BatchNorm2d(c128),
            nn.LeakyReLU(SLOPE),
            nn.ConvTranspose2d(c128, 3, 4, stride=2, padding=1),  # 32 x 32
            nn.Tanh(),
        )

    def forward(self, codes: Tensor) -> Tensor:
        features = self.project(codes).unflatten(1, (-1, 4, 4))
        images: Tensor = self.upsample(features.contiguous(memory_format=torch.channels_last))
        return images


class Discriminator(nn.Module):
    """Images (N, 3, 32, 32) in [-1, 1] -> logits (N,), positive for real."""

    def __init__(self, width: float = 1.0) -> None:
        super().__init__()
        c64, c128, c256 = (scaled(channels, width) for channels in (64, 128, 256))
        self.layers = nn.Sequential(
            nn.Conv2d(3, c64, 5, stride=2, padding=2),  # 16 x 16
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(c64, c128, 5, stride=2, padding=2),  # 8 x 8
            nn.BatchNorm2d(c128),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(c128, c256, 5, stride=2, padding=2),  # 4 x 4
            nn.BatchNorm2d(c256),
            nn.LeakyReLU(SLOPE),
            nn.Flatten(),
            nn.Linear(c256 * 4 * 4, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits.squeeze(1)


def binary_loss(logits: Tensor, target: float) -> Tensor:
    """Mean binary cross-entropy of logits (N,) against one probability in [0, 1], in nats."""
    return F.binary_cross_entropy_with_logits(
        logits.float(), torch.full_like(logits, target, dtype=torch.float32)
    )


class DCGAN(Model):
    """One discriminator step and one generator step per update, on the same noise."""

    trained = ("generator", "discriminator")

    def __init__(self, config: RunConfig) -> None:
        options = config.model
        assert isinstance(options, DCGANConfig)
        self.config, self.options = config, options
        self.generator = Generator(options.latent_size, config.width)
        self.discriminator = Discriminator(config.width)
        weights = torch.Generator().manual_seed(config.seed)
        for network in (self.generator, self.discriminator):
            initialise_normal(network, WEIGHT_STD, weights)
        self.networks = {"generator": self.generator, "discriminator": self.discriminator}
        self.average: MovingAverage | None = None
        if options.ema_images:
            ema = Generator(options.latent_size, config.width)
            self.average = MovingAverage(self.generator, ema, options.ema_images)
            self.networks["generator_ema"] = ema
        self.parallel = {"generator": self.generator, "discriminator": self.discriminator}
        betas = (options.beta1, 0.999)
        self.optimizers = {
            "generator": torch.optim.Adam(self.generator.parameters(), options.lr_g, betas),
            "discriminator": torch.optim.Adam(self.discriminator.parameters(), options.lr_d, betas),
        }

    def update(self, real: Tensor, step: Step) -> Metrics:
        codes = latent_codes(
            step.batch_size,
            self.options.latent_size,
            (_TRAINING_NOISE, self.config.seed, step.number),
            step.rank,
            step.world_size,
        ).to(self.device, non_blocking=True)
        # Both steps use the same images: the generator is not changed in between.
        with self.autocast():
            fake = self.parallel["generator"](codes)

        discriminator = self.parallel["discriminator"]
        with self.autocast():
            real_logits, fake_logits = discriminator(real), discriminator(fake.detach())
        loss_real = binary_loss(real_logits, 1 - self.options.label_smoothing)
        loss_fake = binary_loss(fake_logits, 0.0)
        loss_discriminator = (loss_real + loss_fake) / 2
        self._minimise("discriminator", loss_discriminator)

        # The plain network: DDP would wait for gradients that the frozen weights do not get.
        with frozen(self.discriminator):
            with self.autocast():
                judged = self.discriminator(fake)
            loss_generator = binary_loss(judged, 1.0)
            self._minimise("generator", loss_generator)

        if self.average:
            self.average.update(step.batch_size, step.images_seen + step.batch_size)
        right = (real_logits.detach() > 0).float().mean() + (
            fake_logits.detach() < 0
        ).float().mean()
        return {
            "loss/discriminator": loss_discriminator.detach(),
            "loss/discriminator_real": loss_real.detach(),
            "loss/discriminator_fake": loss_fake.detach(),
            "loss/generator": loss_generator.detach(),
            "accuracy/discriminator": right / 2,
        }

    def _minimise(self, name: str, loss: Tensor) -> None:
        optimizer = self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    def pictures(self, count: int) -> dict[str, Tensor]:
        codes = latent_codes(count, self.options.latent_size, (_SAMPLES, self.config.seed))
        network = self.networks["generator_ema" if self.average else "generator"]
        training = network.training
        network.eval()
        with torch.no_grad():
            samples = network(codes.to(self.device))
        network.train(training)
        return {"samples": samples.float().cpu()}


# What codes are drawn for, so that the seeds of different uses never meet.
_TRAINING_NOISE, _SAMPLES = 1, 2
