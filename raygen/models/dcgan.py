"""DCGAN: networks and update step.

Two pairs of networks: for 32 x 32 after the paper, and for 64 x 64 with upsampling in the generator
and dropout in the discriminator; with one stage more, the second pair makes 128 x 128.

Source: Radford et al. 2015, "Unsupervised Representation Learning with Deep Convolutional
Generative Adversarial Networks", arXiv 1511.06434.
"""

from functools import partial

import torch
from torch import Tensor, nn

from raygen.config.families import DCGANConfig
from raygen.config.run import RunConfig
from raygen.config.schedule import Schedule
from raygen.data.batch import Batch
from raygen.models import adversarial
from raygen.models.adversarial import SLOPE, Normalisation
from raygen.models.base import Interface, Metrics, Model, Step
from raygen.models.layers import (
    PRIOR_NOISE,
    TRAINING_NOISE,
    VALIDATION_NOISE,
    Tanh,
    UpsampleConv2d,
    evaluating,
    frozen,
    initialise_normal,
    initialise_uniform,
    scaled,
    with_batch_statistics,
)
from raygen.models.optimizers import adam

WEIGHT_STD = 0.02
DROPOUT_RATE = 0.3
BatchNorm64 = partial(nn.BatchNorm2d, momentum=0.2)
"""Batch norm of the 64 x 64 networks, whose momentum of 0.2 is 0.8 in Keras's convention."""


class Generator32(nn.Module):
    """Latents (N, latent_size) -> images (N, 3, 32, 32) in [-1, 1]."""

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
            Tanh(),
        )

    def forward(self, latents: Tensor) -> Tensor:
        features = self.project(latents).unflatten(1, (-1, 4, 4))
        images: Tensor = self.upsample(features.contiguous(memory_format=torch.channels_last))
        return images


class Discriminator32(nn.Module):
    """Images (N, 3, 32, 32) in [-1, 1] -> logits (N,), positive for real."""

    def __init__(self, width: float = 1.0, norm: Normalisation = nn.BatchNorm2d) -> None:
        super().__init__()
        c64, c128, c256 = (scaled(channels, width) for channels in (64, 128, 256))
        self.layers = nn.Sequential(
            nn.Conv2d(3, c64, 5, stride=2, padding=2),  # 16 x 16
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(c64, c128, 5, stride=2, padding=2),  # 8 x 8
            norm(c128),
            nn.LeakyReLU(SLOPE),
            nn.Conv2d(c128, c256, 5, stride=2, padding=2),  # 4 x 4
            norm(c256),
            nn.LeakyReLU(SLOPE),
            nn.Flatten(),
            nn.Linear(c256 * 4 * 4, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits.squeeze(1)


class Generator64(nn.Module):
    """Latents (N, latent_size) -> images (N, 3, side, side) in [-1, 1]; side: 64 or 128."""

    def __init__(self, latent_size: int = 128, width: float = 1.0, side: int = 64) -> None:
        super().__init__()
        c256, c128, c32 = (scaled(channels, width) for channels in (256, 128, 32))
        self.project = nn.Sequential(nn.Linear(latent_size, c128 * 16 * 16), nn.ReLU())
        layers: list[nn.Module] = []
        channels = c128
        for count in (c256, c128, c128)[: 2 if side == 64 else 3]:  # 32 x 32, 64 x 64, 128 x 128
            layers += [UpsampleConv2d(channels, count), BatchNorm64(count), nn.ReLU()]
            channels = count
        self.upsample = nn.Sequential(
            *layers,
            nn.Conv2d(channels, c32, 3, padding=1),
            BatchNorm64(c32),
            nn.ReLU(),
            nn.Conv2d(c32, 3, 3, padding=1),
            Tanh(),
        )

    def forward(self, latents: Tensor) -> Tensor:
        features = self.project(latents).unflatten(1, (-1, 16, 16))
        images: Tensor = self.upsample(features.contiguous(memory_format=torch.channels_last))
        return images


class Discriminator64(nn.Module):
    """Images (N, 3, side, side) in [-1, 1] -> logits (N,), positive for real; side: 64 or 128."""

    def __init__(
        self, width: float = 1.0, norm: Normalisation = BatchNorm64, side: int = 64
    ) -> None:
        super().__init__()
        c32, *filters = (scaled(channels, width) for channels in (32, 64, 128, 256, 64))
        layers: list[nn.Module] = [
            nn.Conv2d(3, c32, 3, stride=2, padding=1),  # Of 64: 32 x 32
            nn.LeakyReLU(SLOPE),
            nn.Dropout(DROPOUT_RATE),
        ]
        channels = c32
        strides = (2, 2, 1, 1) if side == 64 else (2, 2, 2, 1)
        for count, stride in zip(filters, strides, strict=True):  # 16 x 16, then 8 x 8
            layers += [
                nn.Conv2d(channels, count, 3, stride=stride, padding=1),
                norm(count),
                nn.LeakyReLU(SLOPE),
                nn.Dropout(DROPOUT_RATE),
            ]
            channels = count
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * 8 * 8, 1))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits.squeeze(1)


class DCGAN(Model):
    """Takes a discriminator step, then a generator step, as the schedule says.

    Both use the same noise; with `half_batches`, the discriminator takes half a batch of each kind
    and the generator a whole batch of its own noise.
    """

    def __init__(self, config: RunConfig) -> None:
        options = config.model.explicit
        assert isinstance(options, DCGANConfig)
        self.options, self.schedule = options, Schedule.parse(options.schedule)
        side = config.image.height
        small = side == 32
        norm = adversarial.normalisation(options, nn.BatchNorm2d if small else BatchNorm64)
        generator: nn.Module
        discriminator: nn.Module
        if small:
            generator = Generator32(options.latent_size, config.width)
            discriminator = Discriminator32(config.width, norm)
        else:
            generator = Generator64(options.latent_size, config.width, side)
            discriminator = Discriminator64(config.width, norm, side)
        weights = torch.Generator().manual_seed(config.seed)
        for network in (generator, discriminator):
            if small:
                initialise_normal(network, WEIGHT_STD, weights)
            else:
                initialise_uniform(network, weights)
        if options.spectral_norm:
            adversarial.normalise_spectrum(discriminator, weights)
        networks: dict[str, nn.Module] = {"generator": generator, "discriminator": discriminator}
        super().__init__(config, networks, averaged=("generator",))
        betas = (options.beta1, options.beta2)
        self.optimizers = {
            "generator": adam(generator.parameters(), options.lr_g, betas),
            "discriminator": adam(discriminator.parameters(), options.lr_d, betas),
        }
        self.losses = {"loss/discriminator": "discriminator", "loss/generator": "generator"}
        self.interfaces = {"generator": Interface({"codes": self.latent_shape}, ("images",))}

    def update(self, batch: Batch, step: Step) -> Metrics:
        turn = self.schedule.turn(step.number, step.total)
        # Where both use the same noise, both use the same images: the generator is not changed
        # in between.
        shared = turn.generator and not self.options.half_batches
        metrics: Metrics = {}
        fake = torch.empty(0)
        if turn.discriminator:
            with torch.set_grad_enabled(shared):
                fake = self._generate(self.noise(step, step.images, TRAINING_NOISE))
            metrics |= adversarial.step_discriminator(
                self, self.options, {"real": batch.images}, {"fake": fake.detach()}, step
            )
        if turn.generator:
            if not (turn.discriminator and shared):
                purpose = TRAINING_NOISE if shared else PRIOR_NOISE
                fake = self._generate(self.noise(step, self.config.batch_size, purpose))
            metrics |= self._step_generator(fake, step)
        self.update_averages(step)
        return metrics

    def _generate(self, noise: Tensor) -> Tensor:
        with self.autocast():
            images: Tensor = self.parallel["generator"](noise)
        return images

    def _step_generator(self, fake: Tensor, step: Step) -> Metrics:
        # Call the unwrapped network: DDP would wait for gradients that frozen weights do not get.
        discriminator = self.networks["discriminator"]
        with frozen(discriminator):
            with self.autocast():
                logits = discriminator(fake)
            loss = adversarial.generator_term(self.options, logits)
            self.minimise("generator", loss, step)
        return {"loss/generator": loss.detach()}

    def validate(self, batch: Batch, number: int) -> Metrics:
        generator, discriminator = self.ema("generator"), self.networks["discriminator"]
        with evaluating([generator]), with_batch_statistics(discriminator), self.autocast():
            fake = generator(self.fixed_noise(len(batch), VALIDATION_NOISE, number))
            return adversarial.validation_losses(
                self.options, {"real": discriminator(batch.images)}, {"fake": discriminator(fake)}
            )

    def sample(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        images: Tensor = self.evaluate("generator", noise)
        return images
