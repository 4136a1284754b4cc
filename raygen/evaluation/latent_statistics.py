"""What an encoder's latents say: how many carry something, and whether they match the prior."""

import math
from dataclasses import dataclass

import numpy as np

from raygen.evaluation.distances import Moments, frechet_distance

ACTIVE = 0.01
"""Variance over images from which on a latent's mean counts as active."""


@dataclass(frozen=True)
class LatentStatistics:
    """Statistics of the latents of images.

    Attributes:
        active_units: number of latents whose mean varies over the images by more than 0.01.
        kl: KL divergence from the prior, in nats per image.
        kl_by_latent: (latent,) the same of each latent; its sum is `kl`.
        prior_distance: squared Fréchet distance of the aggregated posterior, the mixture of all
            images' posteriors, from the prior N(0, I).
    """

    active_units: int
    kl: float
    kl_by_latent: np.ndarray
    prior_distance: float


def latent_statistics(mean: np.ndarray, log_var: np.ndarray) -> LatentStatistics:
    """Compute them from the posteriors N(mean, exp(log_var)) of images.

    Args: mean, log_var: (N, latent).
    Raises: ValueError for fewer than two images.
    Sources: Burda et al. 2016, arXiv 1509.00519, section 5 (active units); Hoffman & Johnson 2016
        (aggregated posterior).
    """
    mean, log_var = mean.astype(np.float64), log_var.astype(np.float64)
    by_latent = -0.5 * (1 + log_var - np.square(mean) - np.exp(log_var)).mean(axis=0)
    moments = Moments.of(mean)
    # A mixture's covariance is that of its means plus the mean of its covariances.
    mixture = Moments(moments.mean, moments.covariance + np.diag(np.exp(log_var).mean(axis=0)))
    latents = mean.shape[1]
    return LatentStatistics(
        active_units=int((moments.covariance.diagonal() > ACTIVE).sum()),
        kl=float(by_latent.sum()),
        kl_by_latent=by_latent,
        prior_distance=frechet_distance(mixture, Moments(np.zeros(latents), np.eye(latents))),
    )


def bits_per_dimension(mse: float, kl: float, dimensions: int) -> float:
    """Upper bound on the bits that a VAE needs for one colour value of an 8-bit image.

    The decoder's output is taken for the mean of a normal distribution whose variance is the one
    that fits best, `mse`; -log2 p(x | z) is then log2(2 pi e mse) / 2 for each value in [-1, 1],
    which is 127.5 grey levels wide. Losses with a fixed weight of the KL divergence imply a
    variance too, but not one that fits.

    Args: mse: mean squared error of reconstructions from drawn latents, in [-1, 1]; kl: in nats
        per image; dimensions: values per image, C * H * W.
    Source: Rybkin et al. 2020, arXiv 2006.13202 (the optimal variance).
    """
    # No error is smaller than that of rounding to 8 bits.
    mse = max(mse, (1 / 127.5) ** 2 / 12)
    error = 0.5 * math.log2(2 * math.pi * math.e * mse) + math.log2(127.5)
    return error + kl / math.log(2) / dimensions
