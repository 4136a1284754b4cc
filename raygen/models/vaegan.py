"""VAE-GAN: networks, losses and update step, under two objectives.

`larsen` is the paper's: reconstructions are measured by the discriminator's features, and the
adversarial loss does not reach the encoder. `article` measures them by pixels, in a VAE step of
its own after each step of the generator.

Source: Larsen et al. 2015, "Autoencoding beyond pixels using a learned similarity metric",
arXiv 1512.09300.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raygen.config.families import VAEGANConfig
from raygen.config.run import RunConfig
from raygen.config.schedule import Schedule
from raygen.data.batch import Batch
from raygen.models import adversarial
from raygen.models.adversarial import SLOPE, Normalisation, generator_term
from raygen.models.base import Interface, Metrics, Model, Step
from raygen.models.layers import (
    PRIOR_NOISE,
    TRAINING_NOISE,
    VALIDATION_NOISE,
    Tanh,
    evaluating,
    frozen,
    initialise_uniform,
    kl_divergence,
    reparameterize,
    scaled,
    with_batch_statistics,
)
from raygen.models.optimizers import adam, sgd


def stages(side: int) -> int:
    """Number of halvings from a side of 32, 64 or 128 pixels to one of 4."""
    return {32: 3, 64: 4, 128: 5}[side]


def encoder_filters(side: int) -> list[int]:
    """Channels of each encoder stage; for 64 pixels: 16, 32, 64, 128. Decoders reverse them."""
    return [16 * 2**stage for stage in range(stages(side))]


class Encoder(nn.Module):
    """Images (N, 3, side, side) in [-1, 1] -> mean, log_var in (-1, 1), each (N, latent_size)."""

    def __init__(self, latent_size: int = 256, width: float = 1.0, side: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for count in (scaled(filters, width) for filters in encoder_filters(side)):
            layers += [
                nn.Conv2d(channels, count, 5, stride=2, padding=2),  # At last 4 pixels a side
                nn.BatchNorm2d(count),
                nn.LeakyReLU(SLOPE),
            ]
            channels = count
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.mean = nn.Linear(channels * 4 * 4, latent_size)
        self.log_var = nn.Sequential(nn.Linear(channels * 4 * 4, latent_size), Tanh())

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(images)
        return self.mean(features).float(), self.log_var(features).float()


class Decoder(nn.Module):
    """Latents (N, latent_size) -> images (N, 3, side, side) in [-1, 1]; the generator."""

    def __init__(self, latent_size: int = 256, width: float = 1.0, side: int = 64) -> None:
        super().__init__()
        filters = encoder_filters(side)
        channels = scaled(2 * filters[-1], width)
        self.project = nn.Linear(latent_size, channels * 2 * 2)
        layers: list[nn.Module] = [nn.BatchNorm2d(channels), nn.ReLU()]
        for count in (scaled(count, width) for count in reversed(filters)):
            layers += [_doubling(channels, count), nn.BatchNorm2d(count), nn.ReLU()]
            channels = count
        self.upsample = nn.Sequential(*layers, _doubling(channels, 3), Tanh())

    def forward(self, latents: Tensor) -> Tensor:
        features = self.project(latents).unflatten(1, (-1, 2, 2))
        images: Tensor = self.upsample(features.contiguous(memory_format=torch.channels_last))
        return images.float()


def _doubling(channels: int, filters: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(channels, filters, 5, stride=2, padding=2, output_padding=1)


class Discriminator(nn.Module):
    """Images (N, 3, side, side) in [-1, 1] -> logits (N,), positive for real."""

    def __init__(
        self, width: float = 1.0, norm: Normalisation = nn.BatchNorm2d, side: int = 64
    ) -> None:
        super().__init__()
        counts = (32, 64, 128, 128, 128)[: stages(side)]
        channels, *filters = (scaled(count, width) for count in counts)
        layers: list[nn.Module] = [
            nn.Conv2d(3, channels, 5, stride=2, padding=2),
            nn.LeakyReLU(SLOPE),
        ]
        for count in filters:
            layers += [
                nn.Conv2d(channels, count, 5, stride=2, padding=2),
                norm(count),
                nn.LeakyReLU(SLOPE),
            ]
            channels = count
        # The blocks are split because reconstructions are compared by the features of the first
        # ones. The name `judge` is part of the tensor names in checkpoints, so it has to stay.
        last = len(layers) - 3
        self.features = nn.Sequential(*layers[:last])
        self.judge = nn.Sequential(*layers[last:], nn.Flatten(), nn.Linear(channels * 4 * 4, 1))

    def forward(self, images: Tensor, features_only: bool = False) -> Tensor:
        """Args: features_only: return the features (N, F) that measure reconstructions."""
        features: Tensor = self.features(images)
        if features_only:
            return features.flatten(1)
        logits: Tensor = self.judge(features).squeeze(1)
        return logits


def feature_distance(reconstructed: Tensor, real: Tensor) -> Tensor:
    """-log p(features of the real image | code) per image, up to a constant, in nats.

    The features are Gaussian around those of the reconstruction, with unit variance.

    Args: both (N, F).   Returns: (N,), >= 0.
    Source: Larsen et al. 2015, equations 7 and 8.
    """
    return 0.5 * (reconstructed.float() - real.float()).square().sum(dim=1)


def reconstruction_distance(discriminator: nn.Module, decoded: Tensor, real: Tensor) -> Tensor:
    """The feature distance of reconstructions (N, C, H, W) to their images, per image: (N,).

    Both go through the discriminator as one batch. In batches of their own, batch norm would scale
    the features of each to the same size, and a reconstruction of half the contrast would look
    perfect. The authors' code (github.com/andersbll/autoencoding_beyond_pixels, model/aegan.py)
    does the same; as there, samples of the prior are not in the batch, and the features of the real
    images are a constant.
    """
    features = discriminator(torch.cat([decoded, real]), features_only=True)
    of_decoded, of_real = features.split(len(real))
    return feature_distance(of_decoded, of_real.detach())


class VAEGAN(Model):
    """Trains a discriminator against an encoder and a decoder."""

    can_encode = True

    def __init__(self, config: RunConfig) -> None:
        options = config.model.explicit
        assert isinstance(options, VAEGANConfig)
        self.options, self.schedule = options, Schedule.parse(options.schedule)
        side = config.image.height
        encoder = Encoder(options.latent_size, config.width, side)
        decoder = Decoder(options.latent_size, config.width, side)
        norm = adversarial.normalisation(options, nn.BatchNorm2d)
        discriminator = Discriminator(config.width, norm, side)
        weights = torch.Generator().manual_seed(config.seed)
        for network in (encoder, decoder, discriminator):
            initialise_uniform(network, weights)
        if options.spectral_norm:
            adversarial.normalise_spectrum(discriminator, weights)
        networks = {"encoder": encoder, "decoder": decoder, "discriminator": discriminator}
        super().__init__(config, networks, averaged=("encoder", "decoder"))
        betas = (options.beta1, options.beta2)
        self.optimizers = {
            "discriminator": adam(discriminator.parameters(), options.lr_d, betas),
            "decoder": adam(decoder.parameters(), options.lr_g, betas),
        }
        if options.objective == "larsen":
            self.optimizers["encoder"] = adam(encoder.parameters(), options.lr_vae, betas)
            self.losses = {"loss/encoder": "encoder", "loss/decoder": "decoder"}
        else:
            both = [*encoder.parameters(), *decoder.parameters()]
            self.optimizers["vae"] = sgd(both, options.lr_vae)
            self.losses = {"loss/vae": "encoder and decoder", "loss/generator": "decoder"}
        self.losses = {"loss/discriminator": "discriminator", **self.losses}
        self.interfaces = {
            "encoder": Interface({"images": self.image_shape}, ("mean", "log_var")),
            "decoder": Interface({"codes": self.latent_shape}, ("images",)),
        }

    def compile(self) -> None:
        # Encoder and decoder get their gradients in two passes through one graph, which therefore
        # must keep its buffers.
        torch._functorch.config.donated_buffer = False
        super().compile()

    def update(self, batch: Batch, step: Step) -> Metrics:
        if self.options.objective == "larsen":
            metrics = self._update_larsen(batch.images, step)
        else:
            metrics = self._update_article(batch.images, step)
        self.update_averages(step)
        return metrics

    def _update_larsen(self, real: Tensor, step: Step) -> Metrics:
        """Algorithm 1 of the paper; the discriminator steps first, as in the other families."""
        turn = self.schedule.turn(step.number, step.total)
        noise = self.noise(step, step.images, TRAINING_NOISE)
        prior = self.noise(step, step.images, PRIOR_NOISE)
        with torch.set_grad_enabled(turn.generator), self.autocast():
            mean, log_var = self.parallel["encoder"](real)
            latents = reparameterize(mean, log_var, noise)
            # Detached into a leaf: decoder and encoder get different gradients from here on.
            entered = latents.detach().requires_grad_(turn.generator)
            decoded = self.parallel["decoder"](entered)
            generated = self.parallel["decoder"](prior)
        metrics: Metrics = {}
        if turn.discriminator:
            metrics |= self._step_discriminator(
                {"real": real},
                {"fake": generated.detach(), "reconstruction": decoded.detach()},
                step,
            )
        if turn.generator:
            kl = kl_divergence(mean, log_var).mean()
            metrics |= self._step_autoencoder(real, latents, entered, decoded, generated, kl, step)
        return metrics

    def _step_autoencoder(
        self,
        real: Tensor,
        latents: Tensor,
        entered: Tensor,
        decoded: Tensor,
        generated: Tensor,
        kl: Tensor,
        step: Step,
    ) -> Metrics:
        """Encoder: KL + distance. Decoder: gamma * distance + adversarial losses.

        Args: entered: the decoder's input, detached from the encoder.
        """
        discriminator = self.networks["discriminator"]
        with frozen(discriminator):
            with self.autocast():
                distance = reconstruction_distance(discriminator, decoded, real).mean()
                # Logits are those of the batches that the discriminator has learnt to classify.
                decoded_logits = discriminator(decoded)
                generated_logits = discriminator(generated)
            fooled_by_decoded = generator_term(self.options, decoded_logits)
            fooled_by_generated = generator_term(self.options, generated_logits)
            fooled = fooled_by_decoded + fooled_by_generated
            # Differentiate each loss with respect to the decoder's images,
            [of_distance] = torch.autograd.grad(distance, decoded)
            of_fooled = torch.autograd.grad(fooled, [decoded, generated])
        # so that the adversarial gradients never reach the encoder
        [of_latents] = torch.autograd.grad(decoded, entered, of_distance, retain_graph=True)
        self.optimizers["encoder"].zero_grad(set_to_none=True)
        torch.autograd.backward([latents, kl], [of_latents, torch.ones_like(kl)])
        self.take_step("encoder", step)
        # and the decoder gets a weighted sum of both.
        self.optimizers["decoder"].zero_grad(set_to_none=True)
        of_decoded = self.options.gamma * of_distance + of_fooled[0]
        torch.autograd.backward([decoded, generated], [of_decoded, of_fooled[1]])
        self.take_step("decoder", step)
        return {
            "loss/encoder": (kl + distance).detach(),
            "loss/kl": kl.detach(),
            "loss/feature_distance": distance.detach(),
            "loss/decoder": (self.options.gamma * distance + fooled).detach(),
            "loss/generator_reconstruction": fooled_by_decoded.detach(),
            "loss/generator_fake": fooled_by_generated.detach(),
        }

    def _update_article(self, real: Tensor, step: Step) -> Metrics:
        turn = self.schedule.turn(step.number, step.total)
        prior = self.noise(step, step.images, PRIOR_NOISE)
        metrics: Metrics = {}
        with torch.set_grad_enabled(turn.generator), self.autocast():
            mean, log_var = self.parallel["encoder"](real)
            decoded = self.parallel["decoder"](mean.detach())
            generated = self.parallel["decoder"](prior)
        if turn.discriminator:
            shown = {"real": real}
            if 2 * step.number < step.total:
                shown["reconstruction"] = decoded.detach()
            metrics |= self._step_discriminator(shown, {"fake": generated.detach()}, step)
        if turn.generator:
            metrics |= self._step_generator(decoded, generated, step)
            metrics |= self._step_vae(real, mean, log_var, step)
        return metrics

    def _step_generator(self, decoded: Tensor, generated: Tensor, step: Step) -> Metrics:
        discriminator = self.networks["discriminator"]
        with frozen(discriminator):
            with self.autocast():
                logits = discriminator(decoded), discriminator(generated)
            fooled = [generator_term(self.options, each) for each in logits]
            loss = (fooled[0] + fooled[1]) / 2
            self.minimise("decoder", loss, step)
        return {
            "loss/generator": loss.detach(),
            "loss/generator_reconstruction": fooled[0].detach(),
            "loss/generator_fake": fooled[1].detach(),
        }

    def _step_vae(self, real: Tensor, mean: Tensor, log_var: Tensor, step: Step) -> Metrics:
        noise = self.noise(step, step.images, TRAINING_NOISE)
        with self.autocast():
            decoded = self.parallel["decoder"](reparameterize(mean, log_var, noise))
        mse = F.mse_loss(decoded, real)
        kl = kl_divergence(mean, log_var).mean()
        loss = 2 * mse + kl
        self.minimise("vae", loss, step)
        return {
            "loss/vae": loss.detach(),
            "loss/mse": mse.detach(),
            "loss/kl": kl.detach(),
        }

    def _step_discriminator(
        self, real: dict[str, Tensor], fake: dict[str, Tensor], step: Step
    ) -> Metrics:
        if self.options.half_batches:
            # Every other image, so that the choice does not depend on the number of workers (as
            # long as each has an even share).
            real = {kind: images[::2] for kind, images in real.items()}
            fake = {kind: images[::2] for kind, images in fake.items()}
        return adversarial.step_discriminator(self, self.options, real, fake, step)

    def validate(self, batch: Batch, number: int) -> Metrics:
        real = batch.images
        encoder, decoder = self.ema("encoder"), self.ema("decoder")
        discriminator = self.networks["discriminator"]
        prior = self.fixed_noise(len(batch), VALIDATION_NOISE, number)
        averages, judge = evaluating([encoder, decoder]), with_batch_statistics(discriminator)
        with averages, judge, self.autocast():
            mean, log_var = encoder(real)
            decoded, generated = decoder(mean), decoder(prior)
            metrics = adversarial.validation_losses(
                self.options,
                {"real": discriminator(real)},
                {"fake": discriminator(generated), "reconstruction": discriminator(decoded)},
            )
        metrics["validation/mse"] = F.mse_loss(decoded, real)
        metrics["validation/kl"] = kl_divergence(mean, log_var).mean()
        return metrics

    def sample(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        images: Tensor = self.evaluate("decoder", noise)
        return images

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_var = self.evaluate("encoder", images)
        return mean, log_var
