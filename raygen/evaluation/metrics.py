"""The registry of metrics: how each is described, and how it is computed.

The log, TensorBoard's descriptions, the progress line, the objectives of sweeps and of the best
checkpoint, and the help of `--metric` all read it. A family's options list the losses that it logs
(`ModelConfig.metric_tags`); metrics of any model's samples are computed by an entry here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from raygen.config.families import ModelConfig
from raygen.config.run import PRESETS

if TYPE_CHECKING:
    from torch import Tensor

Direction = Literal["min", "max"]
Compute = Callable[["Tensor", "Tensor", int, int], float]
"""Takes dataset images and as many samples, (N, 3, H, W) in [-1, 1] on the CPU, and which part of
how many to compute; the results of all parts add up to the metric."""


@dataclass(frozen=True)
class Metric:
    """A metric's names, meaning and computation.

    Attributes:
        tag: its name in TensorBoard and in files.
        description: a sentence that TensorBoard shows beside its curve.
        label: its name in a sentence.
        short: its name in the progress line; empty: not shown there.
        direction: whether a low or a high value is good.
        compute: computes it from samples; None: the model's family logs it.
    """

    tag: str
    description: str
    label: str = ""
    short: str = ""
    direction: Direction = "min"
    compute: Compute | None = None

    @property
    def name(self) -> str:
        return self.label or self.tag


def _swd(real: "Tensor", fake: "Tensor", part: int, parts: int) -> float:
    # Imported here because torch takes seconds, and code that only names metrics needs none.
    from raygen.evaluation.swd import sliced_wasserstein

    return sliced_wasserstein(real, fake, part=part, parts=parts)


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
"""All metrics by tag. `metric_of` derives those under validation/ from those under loss/."""
COMPUTED: dict[str, Compute] = {m.tag: m.compute for m in _ALL if m.compute}
"""Metrics that are computed from any model's samples, by tag."""
MEASURED = "quality/", "validation/"
"""Prefixes of the tags that are measured on validation images."""


def metric_of(tag: str) -> Metric:
    """Look up a metric by tag; a user's own family may log tags that the registry lacks."""
    group, _, name = tag.partition("/")
    if group == "validation" and (loss := METRICS.get(f"loss/{name}")):
        text = f"On validation images: {loss.description[0].lower()}{loss.description[1:]}"
        label = f"validation {loss.label}" if loss.label else ""
        return Metric(tag, text, label, direction=loss.direction)
    return METRICS.get(tag, Metric(tag, ""))


def logged_tags(options: ModelConfig) -> list[str]:
    """Tags of all metrics that a run with these options logs, sorted."""
    throughput = {tag for tag in METRICS if tag.startswith("throughput/")}
    return sorted({*options.metric_tags, *COMPUTED, *throughput})


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
