"""The four presets as a user would write them by hand, which `jobs/bench.py step` compares with.

The same networks, losses, optimizers and moving averages as in `raygen.models`, in float32 and from
PyTorch's ordinary layers with their defaults. `tests/jobs/test_plain.py` proves that they compute
the same numbers.
"""

import copy
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raygen.config.families import DCGANConfig, VAEConfig, VAEGANConfig
from raygen.config.run import RunConfig
from raygen.models.layers import scaled


class Plain(ABC):
    """A preset's training step.

    Attributes:
        networks: those that are trained, by their names in `raygen.models`.
        averages: moving averages of the networks that pictures are drawn from.
        noise_shapes: shapes of the standard normal tensors that `update` takes.
    """

    networks: dict[str, nn.Module]
    averages: dict[str, nn.Module]
    noise_shapes: list[tuple[int, ...]]

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.images_seen = 0

    @abstractmethod
    def update(self, images: Tensor, *noise: Tensor) -> dict[str, Tensor]:
        """Take one training step. Args: images: (N, 3, H, W) in [-1, 1]. Returns: losses."""

    def draw(self) -> list[Tensor]:
        """Draw the noise of a step."""
        return [torch.randn(shape) for shape in self.noise_shapes]

    def start_averages(self, *names: str) -> None:
        self.averages = {name: copy.deepcopy(self.networks[name]) for name in names}

    @torch.no_grad()
    def update_averages(self) -> None:
        batch = self.config.step_images
        self.images_seen += batch
        half_life = min(self.config.model.ema_images, self.images_seen / 20)
        decay = 0.5 ** (batch / half_life)
        for name, average in self.averages.items():
            network = self.networks[name]
            for mine, theirs in zip(average.parameters(), network.parameters(), strict=True):
                mine.lerp_(theirs, 1 - decay)
            for ours, its in zip(average.buffers(), network.buffers(), strict=True):
                ours.copy_(its)


def cross_entropy(logits: Tensor, target: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


class PlainDCGAN(Plain):
    """`dcgan-celeba` and `dcgan-anime`, under the schedule 1:1."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        options = config.model.explicit
        assert isinstance(options, DCGANConfig)
        self.real_label = 1 - options.label_smoothing
        networks = _dcgan_32 if config.image.height == 32 else _dcgan_64
        self.generator, self.discriminator = networks(options.latent_size, config.width)
        self.networks = {"generator": self.generator, "discriminator": self.discriminator}
        self.start_averages("generator")
        betas = (options.beta1, options.beta2)
        self.generator_optimizer = torch.optim.Adam(
            self.generator.parameters(), options.lr_g, betas
        )
        self.discriminator_optimizer = torch.optim.Adam(
            self.discriminator.parameters(), options.lr_d, betas
        )
        self.noise_shapes = [(config.step_images, options.latent_size)]
        if options.half_batches:
            # The generator's step is a whole batch, of noise of its own.
            self.noise_shapes.append((config.batch_size, options.latent_size))

    def update(self, images: Tensor, *noise: Tensor) -> dict[str, Tensor]:
        with torch.set_grad_enabled(len(noise) == 1):
            fake = self.generator(noise[0])
        self.discriminator_optimizer.zero_grad()
        real_loss = cross_entropy(self.discriminator(images).squeeze(1), self.real_label)
        fake_loss = cross_entropy(self.discriminator(fake.detach()).squeeze(1), 0.0)
        discriminator_loss = (real_loss + fake_loss) / 2
        discriminator_loss.backward()
        self.discriminator_optimizer.step()

        if len(noise) == 2:
            fake = self.generator(noise[1])
        self.generator_optimizer.zero_grad()
        self.discriminator.requires_grad_(False)
        generator_loss = cross_entropy(self.discriminator(fake).squeeze(1), 1.0)
        generator_loss.backward()
        self.discriminator.requires_grad_(True)
        self.generator_optimizer.step()
        self.update_averages()
        return {
            "loss/discriminator": discriminator_loss.detach(),
            "loss/discriminator_real": real_loss.detach(),
            "loss/discriminator_fake": fake_loss.detach(),
            "loss/generator": generator_loss.detach(),
        }


def _dcgan_32(latent_size: int, width: float) -> tuple[nn.Module, nn.Module]:
    c64, c128, c256, c512 = (scaled(channels, width) for channels in (64, 128, 256, 512))
    generator = nn.Sequential(
        nn.Linear(latent_size, c512 * 4 * 4),
        nn.Unflatten(1, (c512, 4, 4)),
        nn.BatchNorm2d(c512),
        nn.LeakyReLU(0.2),
        nn.ConvTranspose2d(c512, c256, 5, stride=2, padding=2, output_padding=1),
        nn.BatchNorm2d(c256),
        nn.LeakyReLU(0.2),
        nn.ConvTranspose2d(c256, c128, 5, stride=2, padding=2, output_padding=1),
        nn.BatchNorm2d(c128),
        nn.LeakyReLU(0.2),
        nn.ConvTranspose2d(c128, 3, 4, stride=2, padding=1),
        nn.Tanh(),
    )
    discriminator = nn.Sequential(
        nn.Conv2d(3, c64, 5, stride=2, padding=2),
        nn.LeakyReLU(0.2),
        nn.Conv2d(c64, c128, 5, stride=2, padding=2),
        nn.BatchNorm2d(c128),
        nn.LeakyReLU(0.2),
        nn.Conv2d(c128, c256, 5, stride=2, padding=2),
        nn.BatchNorm2d(c256),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(c256 * 4 * 4, 1),
    )
    return generator, discriminator


def _dcgan_64(latent_size: int, width: float) -> tuple[nn.Module, nn.Module]:
    c32, c64, c128, c256 = (scaled(channels, width) for channels in (32, 64, 128, 256))
    generator = nn.Sequential(
        nn.Linear(latent_size, c128 * 16 * 16),
        nn.ReLU(),
        nn.Unflatten(1, (c128, 16, 16)),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(c128, c256, 3, padding=1),
        nn.BatchNorm2d(c256, momentum=0.2),
        nn.ReLU(),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(c256, c128, 3, padding=1),
        nn.BatchNorm2d(c128, momentum=0.2),
        nn.ReLU(),
        nn.Conv2d(c128, c32, 3, padding=1),
        nn.BatchNorm2d(c32, momentum=0.2),
        nn.ReLU(),
        nn.Conv2d(c32, 3, 3, padding=1),
        nn.Tanh(),
    )
    layers: list[nn.Module] = [
        nn.Conv2d(3, c32, 3, stride=2, padding=1),
        nn.LeakyReLU(0.2),
        nn.Dropout(0.3),
    ]
    channels = c32
    for filters, stride in ((c64, 2), (c128, 2), (c256, 1), (c64, 1)):
        layers += [
            nn.Conv2d(channels, filters, 3, stride=stride, padding=1),
            nn.BatchNorm2d(filters, momentum=0.2),
            nn.LeakyReLU(0.2),
            nn.Dropout(0.3),
        ]
        channels = filters
    return generator, nn.Sequential(*layers, nn.Flatten(), nn.Linear(c64 * 8 * 8, 1))


class PlainVAE(Plain):
    """`vae-celeba`."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        options = config.model
        assert isinstance(options, VAEConfig)
        image, size = config.image, options.latent_size
        self.kl_weight = options.kl_weight
        self.encoder = _VAEEncoder(image.height, image.width, size, config.width)
        self.decoder = _VAEDecoder(image.height, image.width, size, config.width)
        self.networks = {"encoder": self.encoder, "decoder": self.decoder}
        self.start_averages("encoder", "decoder")
        parameters = [*self.encoder.parameters(), *self.decoder.parameters()]
        self.optimizer = torch.optim.RMSprop(parameters, options.lr, alpha=0.9)
        self.noise_shapes = [(config.batch_size, size)]

    def update(self, images: Tensor, *noise: Tensor) -> dict[str, Tensor]:
        self.optimizer.zero_grad()
        mean, log_var = self.encoder(images)
        decoded = self.decoder(mean + torch.exp(log_var / 2) * noise[0])
        mse = F.mse_loss(decoded, images)
        kl = -0.5 * (1 + log_var - mean**2 - log_var.exp()).sum(dim=1).mean()
        loss = mse + self.kl_weight * kl
        loss.backward()
        self.optimizer.step()
        self.update_averages()
        return {"loss/total": loss.detach(), "loss/mse": mse.detach(), "loss/kl": kl.detach()}


class _VAEEncoder(nn.Module):
    def __init__(self, height: int, width: int, latent_size: int, scale: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for filters in (scaled(count, scale) for count in (32, 64, 128, 256)):
            layers += [
                nn.Conv2d(channels, filters, 3, padding=1),
                nn.ReLU(),
                nn.BatchNorm2d(filters),
                nn.MaxPool2d(2, ceil_mode=True),
            ]
            channels = filters
            height, width = (height + 1) // 2, (width + 1) // 2
        self.features = nn.Sequential(*layers, nn.Flatten())
        size = channels * height * width
        self.mean = nn.Sequential(nn.Linear(size, latent_size), nn.BatchNorm1d(latent_size))
        self.log_var = nn.Sequential(nn.Linear(size, latent_size), nn.BatchNorm1d(latent_size))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(images)
        return self.mean(features), self.log_var(features)


class _VAEDecoder(nn.Module):
    def __init__(self, height: int, width: int, latent_size: int, scale: float) -> None:
        super().__init__()
        self.sizes = [(height, width)]
        for _ in range(4):
            height, width = (height + 1) // 2, (width + 1) // 2
            self.sizes.insert(0, (height, width))
        self.channels = channels = scaled(256, scale)
        self.project = nn.Linear(latent_size, channels * height * width)
        self.blocks = nn.ModuleList()
        for filters in (scaled(count, scale) for count in (256, 128, 64, 32)):
            convolution = nn.Conv2d(channels, filters, 3, padding=1)
            self.blocks.append(nn.Sequential(convolution, nn.ReLU(), nn.BatchNorm2d(filters)))
            channels = filters
        self.image = nn.Sequential(nn.Conv2d(channels, 3, 3, padding=1), nn.Tanh())

    def forward(self, latents: Tensor) -> Tensor:
        features = self.project(latents).view(-1, self.channels, *self.sizes[0])
        for block, (height, width) in zip(self.blocks, self.sizes[1:], strict=True):
            features = F.interpolate(features, scale_factor=2)
            features = block(features[:, :, :height, :width])
        images: Tensor = self.image(features)
        return images


class PlainVAEGAN(Plain):
    """`vaegan-anime` with the objective `larsen`, under the schedule 1:1."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        options = config.model.explicit
        assert isinstance(options, VAEGANConfig)
        self.gamma = options.gamma
        self.encoder = _VAEGANEncoder(options.latent_size, config.width)
        self.decoder = _vaegan_decoder(options.latent_size, config.width)
        self.discriminator = _VAEGANDiscriminator(config.width)
        self.networks = {
            "encoder": self.encoder,
            "decoder": self.decoder,
            "discriminator": self.discriminator,
        }
        self.start_averages("encoder", "decoder")
        betas = (options.beta1, options.beta2)
        self.encoder_optimizer = torch.optim.Adam(self.encoder.parameters(), options.lr_vae, betas)
        self.decoder_optimizer = torch.optim.Adam(self.decoder.parameters(), options.lr_g, betas)
        self.discriminator_optimizer = torch.optim.Adam(
            self.discriminator.parameters(), options.lr_d, betas
        )
        self.noise_shapes = [(config.batch_size, options.latent_size)] * 2

    def update(self, images: Tensor, *noise: Tensor) -> dict[str, Tensor]:
        mean, log_var = self.encoder(images)
        latents = mean + torch.exp(log_var / 2) * noise[0]
        # The encoder gets another gradient than the decoder.
        entered = latents.detach().requires_grad_()
        decoded, generated = self.decoder(entered), self.decoder(noise[1])

        self.discriminator_optimizer.zero_grad()
        logits = [
            self.discriminator(shown[::2])
            for shown in (images, generated.detach(), decoded.detach())
        ]
        terms = [cross_entropy(each, label) for each, label in zip(logits, (1, 0, 0), strict=True)]
        discriminator_loss = (terms[0] + terms[1] + terms[2]) / 3
        discriminator_loss.backward()
        self.discriminator_optimizer.step()

        self.discriminator.requires_grad_(False)
        features = self.discriminator.features(torch.cat([decoded, images])).flatten(1)
        decoded_features, real_features = features.chunk(2)
        distance = 0.5 * ((decoded_features - real_features.detach()) ** 2).sum(dim=1).mean()
        decoded_logits = self.discriminator(decoded)
        generated_logits = self.discriminator(generated)
        fooled_by_decoded = cross_entropy(decoded_logits, 1)
        fooled_by_generated = cross_entropy(generated_logits, 1)
        fooled = fooled_by_decoded + fooled_by_generated
        kl = -0.5 * (1 + log_var - mean**2 - log_var.exp()).sum(dim=1).mean()
        # Differentiate both losses only once down to the images that the decoder made.
        [of_distance] = torch.autograd.grad(distance, decoded)
        of_fooled = torch.autograd.grad(fooled, [decoded, generated])
        self.discriminator.requires_grad_(True)
        [of_latents] = torch.autograd.grad(decoded, entered, of_distance, retain_graph=True)
        self.encoder_optimizer.zero_grad()
        torch.autograd.backward([latents, kl], [of_latents, torch.ones_like(kl)])
        self.encoder_optimizer.step()
        self.decoder_optimizer.zero_grad()
        of_decoded = self.gamma * of_distance + of_fooled[0]
        torch.autograd.backward([decoded, generated], [of_decoded, of_fooled[1]])
        self.decoder_optimizer.step()
        self.update_averages()
        return {
            "loss/discriminator": discriminator_loss.detach(),
            "loss/discriminator_real": terms[0].detach(),
            "loss/discriminator_fake": terms[1].detach(),
            "loss/discriminator_reconstruction": terms[2].detach(),
            "loss/encoder": (kl + distance).detach(),
            "loss/decoder": (self.gamma * distance + fooled).detach(),
            "loss/kl": kl.detach(),
        }


class _VAEGANEncoder(nn.Module):
    def __init__(self, latent_size: int, width: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for filters in (scaled(count, width) for count in (16, 32, 64, 128)):
            layers += [
                nn.Conv2d(channels, filters, 5, stride=2, padding=2),
                nn.BatchNorm2d(filters),
                nn.LeakyReLU(0.2),
            ]
            channels = filters
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.mean = nn.Linear(channels * 4 * 4, latent_size)
        self.log_var = nn.Sequential(nn.Linear(channels * 4 * 4, latent_size), nn.Tanh())

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(images)
        return self.mean(features), self.log_var(features)


def _vaegan_decoder(latent_size: int, width: float) -> nn.Module:
    channels = scaled(256, width)
    layers: list[nn.Module] = [
        nn.Linear(latent_size, channels * 2 * 2),
        nn.Unflatten(1, (channels, 2, 2)),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    ]
    for filters in (scaled(count, width) for count in (128, 64, 32, 16)):
        layers += [
            nn.ConvTranspose2d(channels, filters, 5, stride=2, padding=2, output_padding=1),
            nn.BatchNorm2d(filters),
            nn.ReLU(),
        ]
        channels = filters
    last = nn.ConvTranspose2d(channels, 3, 5, stride=2, padding=2, output_padding=1)
    return nn.Sequential(*layers, last, nn.Tanh())


class _VAEGANDiscriminator(nn.Module):
    """Returns logits (N,). Reconstructions are compared by `features`, (N, C, H, W)."""

    def __init__(self, width: float) -> None:
        super().__init__()
        c32, c64, c128 = (scaled(count, width) for count in (32, 64, 128))
        self.features = nn.Sequential(
            nn.Conv2d(3, c32, 5, stride=2, padding=2),
            nn.LeakyReLU(0.2),
            nn.Conv2d(c32, c64, 5, stride=2, padding=2),
            nn.BatchNorm2d(c64),
            nn.LeakyReLU(0.2),
            nn.Conv2d(c64, c128, 5, stride=2, padding=2),
            nn.BatchNorm2d(c128),
            nn.LeakyReLU(0.2),
        )
        self.logits = nn.Sequential(
            nn.Conv2d(c128, c128, 5, stride=2, padding=2),
            nn.BatchNorm2d(c128),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(c128 * 4 * 4, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.logits(self.features(images)).squeeze(1)
        return logits


PLAIN: dict[str, type[Plain]] = {
    "vae-celeba": PlainVAE,
    "dcgan-celeba": PlainDCGAN,
    "dcgan-anime": PlainDCGAN,
    "vaegan-anime": PlainVAEGAN,
}
"""The port of each preset."""
