"""The registry of metrics: how each is described, and how it is computed.

There are those that training logs (`METRICS`) and those of an evaluation (`EVALUATED`, computed in
measures.py). The log, TensorBoard's descriptions, the progress line, the objectives of sweeps and
of the best checkpoint, and the help of `--metric` all read it. A family's options list the losses
that it logs (`ModelConfig.metric_tags`); metrics of any model's samples are computed by an entry
here.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from raygen.config.families import FD, ModelConfig
from raygen.config.run import PRESETS

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

Direction = Literal["min", "max"]
Compute = Callable[["Tensor", "Tensor", int, int], float]
"""Takes dataset images and as many samples, (N, 3, H, W) in [-1, 1] on the CPU, and which part of
how many to compute; the results of all parts add up to the metric."""
Compare = Callable[["np.ndarray", "np.ndarray"], float]
"""Takes features of dataset images and of as many samples, (N, D) each; N >= 2."""
DOMAIN, RANDOM_VGG = "domain", "random-vgg"
"""Names of the extractors that need no weights of others."""


@dataclass(frozen=True)
class Metric:
    """A metric's names, meaning and computation.

    Attributes:
        tag: its name in TensorBoard and in files.
        description: a sentence that TensorBoard shows beside its curve.
        label: its name in a sentence.
        short: its name in the progress line; empty: not shown there.
        direction: whether a low or a high value is good.
        least, most: ends of what it can be.
        ranks: whether a better value means a better model; else good is the real images' own value.
        compute: computes it from samples.
        compare: computes it from features of samples. Without either, the model's family logs it.
    """

    tag: str
    description: str
    label: str = ""
    short: str = ""
    direction: Direction = "min"
    least: float = -math.inf
    most: float = math.inf
    ranks: bool = True
    compute: Compute | None = None
    compare: Compare | None = None

    @property
    def name(self) -> str:
        return self.label or self.tag


def _swd(real: "Tensor", fake: "Tensor", part: int, parts: int) -> float:
    # Imported here because torch takes seconds, and code that only names metrics needs none.
    from raygen.evaluation.swd import sliced_wasserstein

    return sliced_wasserstein(real, fake, part=part, parts=parts)


def _fd(real: "np.ndarray", fake: "np.ndarray") -> float:
    from raygen.evaluation.distances import Moments, frechet_distance

    return frechet_distance(Moments.of(real), Moments.of(fake))


def _variety(real: "np.ndarray", fake: "np.ndarray") -> float:
    from raygen.evaluation.neighbours import variety

    return variety(real, fake)


VARIETY = "quality/variety"
_COMPARED = (
    Metric(
        FD,
        "squared Fréchet distance between samples and validation images; lower is better. Compare "
        "values of one number of images only.",
        label="FD",
        short="FD",
        compare=_fd,
    ),
    Metric(
        VARIETY,
        "median distance of samples to the nearest other sample, over that of validation images; "
        "far below 1, samples repeat.",
        label="variety",
        direction="max",
        compare=_variety,
    ),
)


def in_features(tag: str, extractor: str) -> str:
    """A metric's tag as runs log it: with the extractor's name, where it compares features."""
    return f"{tag}_{extractor}" if tag in COMPARED else tag


def _of_extractor(metric: Metric, extractor: str) -> Metric:
    """The entry of a metric of features, as it is logged for one extractor."""
    return replace(
        metric,
        tag=f"{metric.tag}_{extractor}",
        description=f"In the features of {extractor}: {metric.description}",
        label=f"{metric.label} ({extractor})",
    )


_ALL = (
    # The progress line shows its metrics in this order.
    Metric(
        "loss/total",
        "What is minimised: reconstruction error and weighted KL divergence.",
        short="loss",
    ),
    Metric(
        "loss/mse",
        "Mean squared error of reconstructions, over pixels in [-1, 1].",
        label="MSE",
        short="MSE",
    ),
    Metric(
        "loss/kl",
        "KL divergence of the latents from the prior, in nats per image.",
        label="KL",
        short="KL",
    ),
    Metric("loss/discriminator", "What the discriminator minimises, per image.", short="D loss"),
    Metric(
        "loss/generator",
        "What the generator minimises, per image. It is low only against the discriminator of that "
        "moment, so it says little of quality.",
        short="G loss",
    ),
    Metric(
        "accuracy/discriminator",
        "Share of real and generated images that the discriminator takes for what they are; at 0.5 "
        "it cannot tell them apart.",
        short="D accuracy",
        direction="max",
    ),
    *(_of_extractor(metric, name) for metric in _COMPARED for name in (DOMAIN, RANDOM_VGG)),
    Metric(
        "quality/swd",
        "Sliced Wasserstein distance between samples and validation images, times 1000; lower is "
        "better. Compare values of one number of validation images only.",
        label="SWD",
        short="SWD",
        compute=_swd,
    ),
    Metric(
        "loss/decoder", "What the decoder minimises: adversarial and weighted reconstruction loss."
    ),
    Metric("loss/discriminator_fake", "The discriminator's loss on generated images."),
    Metric("loss/discriminator_real", "The discriminator's loss on images of the dataset."),
    Metric("loss/discriminator_reconstruction", "The discriminator's loss on reconstructions."),
    Metric("loss/encoder", "What the encoder minimises: KL divergence and reconstruction loss."),
    Metric(
        "loss/feature_distance",
        "Squared distance of images and their reconstructions in the discriminator's features, per "
        "image.",
    ),
    Metric("loss/generator_fake", "The generator's adversarial loss on images made from noise."),
    Metric("loss/generator_reconstruction", "The generator's adversarial loss on reconstructions."),
    Metric(
        "loss/gradient_penalty", "How far the norm of the critic's gradient is from 1, squared."
    ),
    Metric("loss/vae", "What the VAE step minimises: reconstruction error and KL divergence."),
    Metric("throughput/data_wait_fraction", "Share of the time that training waits for images."),
    Metric(
        "throughput/images_per_second",
        "Images that all workers together train on in a second.",
        direction="max",
    ),
)
METRICS: dict[str, Metric] = {metric.tag: metric for metric in _ALL}
"""Metrics that training logs, by tag; validation/ ones derive from loss/ ones in `metric_of`."""
COMPUTED: dict[str, Compute] = {m.tag: m.compute for m in _ALL if m.compute}
"""Metrics that are computed from any model's samples, by tag."""
COMPARED: dict[str, Compare] = {m.tag: m.compare for m in _COMPARED if m.compare}
"""Metrics that are computed from features of any model's samples; see `in_features`."""
FEATURES = "features/"
"""Prefix that stands for an extractor's name in the tags of metrics of its features."""
_EVALUATED = (
    Metric(
        "features/fd",
        "Squared Fréchet distance between the features of generated and of real images. Depends on "
        "the number of images: compare values of one number only.",
        label="FD",
        least=0.0,
    ),
    Metric(
        "features/fd_infinity",
        "The same, extrapolated to infinitely many images; may be a little below 0.",
        label="FD for N → ∞",
    ),
    Metric(
        "features/kid",
        "Kernel distance (squared MMD, cubic kernel) between the features of generated and of real "
        "images; unbiased, so about 0 for images of one distribution.",
        label="KID",
    ),
    Metric(
        "features/precision",
        "Fidelity: share of generated images that lie among the real ones.",
        label="precision",
        direction="max",
        least=0.0,
        most=1.0,
    ),
    Metric(
        "features/recall",
        "Diversity: share of real images that lie among the generated ones.",
        label="recall",
        direction="max",
        least=0.0,
        most=1.0,
    ),
    Metric(
        "features/density",
        "Fidelity: how densely real images surround generated ones, over how densely they surround "
        "one another; outliers count less than in precision.",
        label="density",
        direction="max",
        least=0.0,
    ),
    Metric(
        "features/coverage",
        "Diversity: share of real images with a generated one in their neighbourhood.",
        label="coverage",
        direction="max",
        least=0.0,
        most=1.0,
    ),
    Metric(
        "features/clipped_density",
        "Fidelity, as the share of images that would have to be good: density with each image "
        "counted once at most and without the large neighbourhoods of outliers.",
        label="clipped density",
        direction="max",
        least=0.0,
        most=1.0,
    ),
    Metric(
        "features/clipped_coverage",
        "Diversity, as the share of images that would have to be good: coverage with each "
        "neighbourhood filled, and calibrated.",
        label="clipped coverage",
        direction="max",
        least=0.0,
        most=1.0,
    ),
    Metric(
        "features/two_sample",
        "Share of images that a classifier tells for real or generated; at 0.5 it cannot.",
        label="two-sample accuracy",
        least=0.0,
        most=1.0,
    ),
    Metric(
        "features/authentic",
        "Memorisation: share of generated images that are farther from the nearest training image "
        "than that one is from its own nearest (AuthPct).",
        label="authentic share",
        direction="max",
        least=0.0,
        most=1.0,
    ),
    Metric(
        "features/copying",
        "Memorisation: z-score of generated images being farther from the training images than "
        "held-out ones are (C_T); far below 0, they are copies.",
        label="copying score",
        direction="max",
    ),
    Metric(
        "features/distance_ratio",
        "Memorisation: median distance of generated images to the nearest training image, over "
        "that of held-out images; far below 1, they are copies.",
        label="distance ratio",
        direction="max",
        least=0.0,
        ranks=False,
    ),
    Metric(
        "swd/by_real",
        "Sliced Wasserstein distance, times 1000, both sets normalised by the real one, so that "
        "colour and contrast count; 512 images, as in training.",
        label="SWD",
        least=0.0,
    ),
    Metric(
        "swd/published",
        "Sliced Wasserstein distance as publications have it, times 1000: each set normalised by "
        "itself, 128 patches of each image, mean over the levels below.",
        label="SWD as published",
        least=0.0,
    ),
    Metric(
        "swd/published_level",
        "The same at one level, whose smaller side the name ends with, in pixels.",
        label="SWD as published, one level",
        least=0.0,
    ),
    Metric(
        "diversity/ms_ssim",
        "Multi-scale structural similarity between pairs of generated images; the lower, the more "
        "they differ. Good is the real images' own value, not 0.",
        label="MS-SSIM of pairs",
        least=0.0,
        most=1.0,
        ranks=False,
    ),
    Metric(
        "reconstruction/psnr",
        "Peak signal-to-noise ratio of reconstructions, in dB.",
        label="PSNR",
        direction="max",
    ),
    Metric(
        "reconstruction/ssim",
        "Structural similarity of reconstructions.",
        label="SSIM",
        direction="max",
    ),
    Metric(
        "reconstruction/ms_ssim",
        "Multi-scale structural similarity of reconstructions.",
        label="MS-SSIM",
        direction="max",
    ),
    Metric(
        "latents/active_units",
        "Number of latents whose mean varies over the images.",
        label="active latents",
        direction="max",
        least=0.0,
    ),
    Metric("latents/kl", "KL divergence of the latents from the prior, in nats per image."),
    Metric(
        "latents/prior_distance",
        "Squared Fréchet distance between the latents of real images, taken together, and the "
        "prior that samples are drawn from.",
        label="distance of latents and prior",
        least=0.0,
    ),
    Metric(
        "likelihood/bits_per_dimension",
        "Upper bound on the bits that the model needs for each colour value of a real image.",
        label="bits per dimension",
    ),
)
EVALUATED: dict[str, Metric] = {metric.tag: metric for metric in _EVALUATED}
"""Metrics of an evaluation, by tag, with `features/` for any extractor's name."""
MEASURED = "quality/", "validation/"
"""Prefixes of the tags that are measured on validation images."""


def metric_of(tag: str) -> Metric:
    """Look up a metric by tag; a user's own family may log tags that the registry lacks."""
    group, _, name = tag.partition("/")
    if group == "validation" and (loss := METRICS.get(f"loss/{name}")):
        text = f"On validation images: {loss.description[0].lower()}{loss.description[1:]}"
        label = f"validation {loss.label}" if loss.label else ""
        return Metric(tag, text, label, direction=loss.direction)
    if name.startswith("published_"):
        level = EVALUATED["swd/published_level"]
        return replace(level, tag=tag, label=f"SWD as published, {name.rpartition('_')[2]} px")
    if found := EVALUATED.get(f"{FEATURES}{name}"):
        # Only Inception's is known as the FID.
        label = "FID" if (group, name) == ("inception", "fd") else found.label
        return replace(found, tag=tag, label=f"{label} ({group})")
    return METRICS.get(tag) or EVALUATED.get(tag) or Metric(tag, "")


def logged_tags(options: ModelConfig) -> list[str]:
    """Tags of all metrics that runs with these options log, sorted.

    Those of features are logged for one extractor only.
    """
    computed = {m.tag for m in METRICS.values() if m.compute or m.compare}
    throughput = {tag for tag in METRICS if tag.startswith("throughput/")}
    return sorted({*options.metric_tags, *computed, *throughput})


def metric_help() -> str:
    """Help text that lists the metrics accepted by `--metric`."""
    options = [run.model for run in PRESETS.values()]
    own = {model.best_by: metric_of(model.best_by).name for model in options}
    defaults = " or ".join(f"{tag} ({name})" for tag, name in own.items())
    return (
        "What decides: the name of any metric that the preset's training logs. Default: "
        f"{defaults}, as suits the preset. There are {', '.join(sorted(METRICS))}; losses that are "
        "measured on validation images begin with validation/ in place of loss/."
    )


def progress_text(values: Mapping[str, float]) -> str:
    """Format the known metrics like ` - D loss 0.43 - G loss 2.50`."""
    shown = [(m.short, values[m.tag]) for m in METRICS.values() if m.short and m.tag in values]
    return "".join(f" - {name} {value:.3g}" for name, value in shown)
