"""Convolutional VAE: networks, loss, update step and pictures.

Source: Kingma & Welling 2014, "Auto-Encoding Variational Bayes", arXiv 1312.6114.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raygen.config.families import VAEConfig
from raygen.config.run import RunConfig
from raygen.data.batch import Batch
from raygen.models.base import Interface, Metrics, Model, Step
from raygen.models.layers import (
    TRAINING_NOISE,
    VALIDATION_NOISE,
    Tanh,
    UpsampleConv2d,
    evaluating,
    initialise_uniform,
    kl_divergence,
    reparameterize,
    scaled,
)
from raygen.models.optimizers import RMSprop, adam

FILTERS = (32, 64, 128, 256)


def halved(size: int, times: int) -> int:
    """A side's length after a number of halvings, each of which rounds up."""
    for _ in range(times):
        size = -(-size // 2)
    return size


class Encoder(nn.Module):
    """Images (N, 3, height, width) in [-1, 1] -> mean and log_var, each (N, latent_size)."""

    def __init__(
        self, height: int = 218, width: int = 178, latent_size: int = 512, scale: float = 1.0
    ) -> None:
        """Args: scale: multiplier of the number of channels."""
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for count in (scaled(filters, scale) for filters in FILTERS):
            layers += [
                nn.Conv2d(channels, count, 3, padding=1),
                nn.ReLU(),
                nn.BatchNorm2d(count),
                nn.MaxPool2d(2, ceil_mode=True),  # 109 x 89, 55 x 45, 28 x 23, 14 x 12
            ]
            channels = count
        self.features = nn.Sequential(*layers, nn.Flatten())
        size = channels * halved(height, len(FILTERS)) * halved(width, len(FILTERS))
        self.mean = nn.Sequential(nn.Linear(size, latent_size), nn.BatchNorm1d(latent_size))
        self.log_var = nn.Sequential(nn.Linear(size, latent_size), nn.BatchNorm1d(latent_size))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(images)
        return self.mean(features).float(), self.log_var(features).float()


class Decoder(nn.Module):
    """Latents (N, latent_size) -> images (N, 3, height, width) in [-1, 1]."""

    def __init__(
        self, height: int = 218, width: int = 178, latent_size: int = 512, scale: float = 1.0
    ) -> None:
        super().__init__()
        # For 218 x 178: (14, 12), (28, 23), (55, 45), (109, 89), (218, 178).
        times = range(len(FILTERS), -1, -1)
        self.sizes = [(halved(height, n), halved(width, n)) for n in times]
        channels = scaled(FILTERS[-1], scale)
        self.start = (channels, *self.sizes[0])
        self.project = nn.Linear(latent_size, channels * self.sizes[0][0] * self.sizes[0][1])
        self.blocks = nn.ModuleList()
        for count in (scaled(filters, scale) for filters in reversed(FILTERS)):
            # A transposed convolution of stride 1 is a convolution with the kernel flipped.
            convolution = UpsampleConv2d(channels, count)
            self.blocks.append(nn.Sequential(convolution, nn.ReLU(), nn.BatchNorm2d(count)))
            channels = count
        self.image = nn.Sequential(nn.Conv2d(channels, 3, 3, padding=1), Tanh())

    def forward(self, latents: Tensor) -> Tensor:
        features = self.project(latents).unflatten(1, self.start)
        features = features.contiguous(memory_format=torch.channels_last)
        for block, size in zip(self.blocks, self.sizes[1:], strict=True):
            convolution, relu, norm = block.children()
            # Halving an odd size rounded it up, so the doubled size is one too large.
            features = norm(relu(convolution(features, size)))
        images: Tensor = self.image(features)
        return images.float()


class VAE(Model):
    """Trains encoder and decoder with one optimizer on mean squared error + weighted KL."""

    can_encode = True

    def __init__(self, config: RunConfig) -> None:
        options = config.model
        assert isinstance(options, VAEConfig)
        self.options = options
        image = config.image
        weights = torch.Generator().manual_seed(config.seed)
        shape = (image.height, image.width, options.latent_size, config.width)
        encoder, decoder = Encoder(*shape), Decoder(*shape)
        for network in (encoder, decoder):
            initialise_uniform(network, weights)
        networks = {"encoder": encoder, "decoder": decoder}
        super().__init__(config, networks, averaged=("encoder", "decoder"))
        parameters = [*encoder.parameters(), *decoder.parameters()]
        self.optimizers = {
            "vae": RMSprop(parameters, options.lr, alpha=0.9)
            if options.optimizer == "rmsprop"
            else adam(parameters, options.lr)
        }
        self.losses = {"loss/total": "encoder and decoder"}
        self.interfaces = {
            "encoder": Interface({"images": self.image_shape}, ("mean", "log_var")),
            "decoder": Interface({"codes": self.latent_shape}, ("images",)),
        }

    def update(self, batch: Batch, step: Step) -> Metrics:
        noise = self.noise(step, step.images, TRAINING_NOISE)
        losses = self._losses(
            self.parallel["encoder"], self.parallel["decoder"], batch.images, noise
        )
        self.minimise("vae", losses["total"], step)
        self.update_averages(step)
        return {f"loss/{name}": loss.detach() for name, loss in losses.items()}

    def _losses(
        self, encoder: nn.Module, decoder: nn.Module, images: Tensor, noise: Tensor
    ) -> Metrics:
        with self.autocast():
            mean, log_var = encoder(images)
            decoded = decoder(reparameterize(mean, log_var, noise))
        mse = F.mse_loss(decoded, images)
        kl = kl_divergence(mean, log_var).mean()
        return {"total": mse + self.options.kl_weight * kl, "mse": mse, "kl": kl}

    def validate(self, batch: Batch, number: int) -> Metrics:
        encoder, decoder = self.ema("encoder"), self.ema("decoder")
        noise = self.fixed_noise(len(batch), VALIDATION_NOISE, number)
        with evaluating([encoder, decoder]):
            losses = self._losses(encoder, decoder, batch.images, noise)
        return {f"validation/{name}": loss for name, loss in losses.items()}

    def sample(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        images: Tensor = self.evaluate("decoder", noise)
        return images

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_var = self.evaluate("encoder", images)
        return mean, log_var
