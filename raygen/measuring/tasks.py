"""What an evaluation's workers do: generate, read and encode images, and compute figures."""

from collections.abc import Mapping

import numpy as np
import torch

from raygen.config.run import ImageFormat
from raygen.core.errors import UserError, one_line
from raygen.core.storage import Folder
from raygen.data.images import BadImage
from raygen.data.pixels import as_images
from raygen.data.shards.manifest import Manifest
from raygen.data.shards.reader import ShardReader
from raygen.data.sources.image_files import folder as folder_of_images
from raygen.evaluation import measures
from raygen.evaluation.features import Extractor
from raygen.evaluation.grids import to_uint8
from raygen.evaluation.measures import Autoencoded, FeatureSets, Figure, Figures, ImageSets
from raygen.inference.model import TrainedModel, load, open_run
from raygen.measuring.common_size import reduced
from raygen.models import build_model

Extractors = Mapping[str, Extractor]
Part = tuple[np.ndarray, dict[str, np.ndarray]]
"""Images, (N, H, W, 3) uint8, and their features by extractor."""


def device() -> str:
    """Where this process computes, as torch names it."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _extracted(images: np.ndarray, extractors: Extractors) -> dict[str, np.ndarray]:
    where = device()
    return {name: e.to(where).features([images], where) for name, e in extractors.items()}


def sample(
    run: Folder,
    step: int,
    untrained: bool,
    part: tuple[int, int, int],
    seed: int,
    extractors: Extractors,
    becomes: ImageFormat | None = None,
) -> Part:
    """Generate a part of a run's samples.

    Args: part: first, stop, and number of all samples; becomes: crop and resize them so.
    """
    if untrained:
        model = build_model(open_run(run)[1])
        model.to(torch.device(device()))
        trained = TrainedModel(model, 0)
    else:
        trained = load(run, step, device())
    first, stop, count = part
    images = to_uint8(trained.from_noise(trained.codes(count, seed)[first:stop]))
    if becomes:
        images = reduced(images, becomes)
    return images, _extracted(images, extractors)


def read(
    folder: Folder,
    manifest: Manifest,
    split: str,
    rows: np.ndarray,
    extractors: Extractors,
    keep: bool,
) -> Part:
    """Read rows of a split. Args: keep: whether to return the images too."""
    images = ShardReader(folder, manifest, split).images(rows)
    return (images if keep else images[:0]), _extracted(images, extractors)


def read_files(images: str, first: int, stop: int, extractors: Extractors) -> Part:
    """Read image files, which have to be of one size. Raises: UserError."""
    source = folder_of_images(images)
    found: list[np.ndarray] = []
    for position in range(first, stop):
        name = source.ids[position]
        try:
            image, _ = source.open(position, source.read(position))
            pixels = np.asarray(image.convert("RGB"))
        except (BadImage, OSError) as error:
            raise UserError(f"--images {name}: cannot be read ({one_line(error)})") from error
        if found and pixels.shape != found[0].shape:
            sizes = [f"{p.shape[0]}x{p.shape[1]}" for p in (found[0], pixels)]
            raise UserError(
                f"--images {images}: {name} is {sizes[1]}, but others are {sizes[0]}; images have "
                "to be of one size"
            )
        found.append(pixels)
    together = np.stack(found)
    return together, _extracted(together, extractors)


def encode(
    run: Folder, step: int, folder: Folder, manifest: Manifest, split: str, rows: np.ndarray
) -> dict[str, np.ndarray]:
    """Reconstruct rows of a split: similarities, latents and errors, by name."""
    trained = load(run, step, device())
    images = as_images(ShardReader(folder, manifest, split).images(rows))
    noise = trained.codes(manifest.rows(split), 1)[torch.from_numpy(rows)]
    found: dict[str, list[np.ndarray]] = {}
    for some, drawn in zip(
        images.split(trained.at_once), noise.split(trained.at_once), strict=True
    ):
        with torch.no_grad():
            mean, log_var = (v.float().cpu() for v in trained.model.encode(some))
        decoded = trained.decode(mean)
        error = (trained.decode(mean + (log_var / 2).exp() * drawn) - some).square()
        values = measures.compare_reconstructions(some, decoded) | {
            "mean": mean.numpy(),
            "log_var": log_var.numpy(),
            "error": error.mean(dim=(1, 2, 3)).numpy(),
        }
        for name, value in values.items():
            found.setdefault(name, []).append(value)
    return {name: np.concatenate(parts) for name, parts in found.items()}


def feature_figures(kind: str, extractor: str, sets: FeatureSets, seed: int) -> Figures:
    figures = measures.OF_FEATURES[kind](sets, seed, device())
    return {f"{extractor}/{name}": figure for name, figure in figures.items()}


def image_figures(kind: str, seed: int, reals: int, *parts: np.ndarray) -> Figures:
    """Args: parts: parts of the real images, then of the others."""
    real, fake = np.concatenate(parts[:reals]), np.concatenate(parts[reals:])
    count = min(len(real), len(fake))
    return measures.OF_IMAGES[kind](ImageSets(real[:count], fake[:count]), seed)


def reconstruction_figures(
    dimensions: int, seed: int, *parts: Mapping[str, np.ndarray]
) -> dict[str, Figure]:
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return measures.reconstruction_figures(Autoencoded(dimensions=dimensions, **joined), seed)
