"""What a sweep's trials are compared by, once its dataset is known.

By default it is the Fréchet distance between samples and validation images, in the features of the
dataset's own extractor where it has attributes, else in those of random-vgg. Of how many samples
follows from the length of the trials, and is the same for all of them.
"""

import math
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from raygen.config.run import QUALITY_SAMPLES, RunConfig
from raygen.core.errors import UserError
from raygen.core.progress import ProgressLine
from raygen.core.storage import Folder
from raygen.data.shards.manifest import Manifest
from raygen.evaluation.features import Extractor, random_vgg
from raygen.evaluation.metrics import COMPARED, DOMAIN, RANDOM_VGG, in_features
from raygen.evaluation.objective import Objective
from raygen.measuring.own_extractor import domain_extractor
from raygen.models.flops import SAMPLES, sampling_flops, training_flops
from raygen.tuning.records import REPORTS

SHARE = 0.04
"""Share of a trial's operations that drawing and comparing samples may take; what is not counted
takes time, too."""
FEWEST, MOST = 256, 8_192
"""Limits of the number of samples; with fewer, trials could not be told apart."""


@dataclass(frozen=True)
class Criterion:
    """What trials are compared by.

    Attributes:
        extractor: whose features of samples and images are compared.
        samples: number of samples that each trial draws for each report.
    """

    objective: Objective
    extractor: Extractor
    samples: int


def choose_criterion(
    objective: Objective,
    config: RunConfig,
    total_images: int,
    data: Folder,
    manifest: Manifest,
    line: ProgressLine,
    gpus: float,
) -> Criterion:
    """Decide what trials are compared by; trains the dataset's own extractor if there is none yet.

    Args:
        objective: its metric may be one of features that does not say whose yet.
        config, total_images: of a trial; gpus: GPUs that training an extractor takes.
    Raises: UserError if the metric is one of features that this dataset has no extractor for.
    """
    extractor = random_vgg()
    metric = objective.metric
    if metric in COMPARED or metric in [in_features(tag, DOMAIN) for tag in COMPARED]:
        if own := domain_extractor(data, manifest, line, gpus, line.tell):
            extractor = own.extractor
        elif metric not in COMPARED:
            raise UserError(
                f"--metric {metric}: {data.uri} has no attributes that an extractor could learn; "
                f"use {metric.replace(DOMAIN, RANDOM_VGG)}"
            )
    samples = config.quality_samples or samples_for(config, total_images, extractor)
    return Criterion(objective.using(extractor.name), extractor, samples)


def samples_for(config: RunConfig, total_images: int, extractor: Extractor) -> int:
    """How many samples trials of a length can afford to draw for each report; a power of two."""
    try:
        training, sampling = training_flops(config), sampling_flops(config)
    except (RuntimeError, NotImplementedError):
        # A model of a user's own that cannot be counted.
        return QUALITY_SAMPLES
    each = REPORTS * (sampling + extracting_flops(extractor, config.image.height))
    affordable = SHARE * total_images * training / each
    return min(MOST, max(FEWEST, 1 << int(math.log2(max(1, affordable)))))


def extracting_flops(extractor: Extractor, side: int) -> float:
    """FLOPs of extracting an image's features. Args: side: of the images, in pixels."""
    images = torch.zeros(SAMPLES, 3, side, side, dtype=torch.uint8)
    with FlopCounterMode(display=False) as counter:
        extractor.network(images)
    return float(counter.get_total_flops() / SAMPLES)
