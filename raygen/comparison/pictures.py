"""Pictures of contenders for a page: from the same codes and of the same images, not chosen."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from raygen.comparison.contenders import Contender
from raygen.comparison.rendering import Encoded, as_png, as_webp
from raygen.core.errors import UserError
from raygen.core.storage import Folder
from raygen.data.pixels import as_images
from raygen.data.shards.reader import ShardReader
from raygen.evaluation.grids import grid, to_uint8
from raygen.inference.model import TrainedModel, load
from raygen.measuring.subjects import RealImages
from raygen.models.pictures import INTERPOLATION_STEPS, code_maps, slerp

SAMPLES, SAMPLE_COLUMNS = 24, 8
RECONSTRUCTED, PAIRS_PER_ROW = 8, 4
INTERPOLATIONS = 3
LATENT_MAPS = 3
STRENGTHS = (-2.0, -1.0, 0.0, 1.0, 2.0)
VARIED = 3
"""Images whose attributes are changed."""
MOST_ATTRIBUTES = 3
STAGES = 5
"""Pictures that show how samples evolved."""
GUESSED = 32
"""Images of a sheet on which real and generated ones are to be told apart."""
EXACT_PIXELS = 2**16
"""Pictures of so many pixels stay exact; larger ones would take megabytes."""
LADDER = ((480, 88, EXACT_PIXELS), (480, 80, 0), (400, 70, 0), (300, 60, 0), (200, 50, 0))
"""Widths to which pictures are reduced, qualities, and sizes up to which they stay exact; the first
are the best, the last ones for pages of very many pictures."""


@dataclass(frozen=True)
class Shown:
    """A picture on the page.

    Attributes:
        title: what it shows; contender: of which contender; empty: of none.
        pixels: (H, W, 3) uint8.
    """

    title: str
    contender: str
    pixels: np.ndarray


@dataclass(frozen=True)
class Guess:
    """An image of the sheet that alternates real and generated ones, (H, W, 3) uint8."""

    pixels: np.ndarray
    answer: str


def load_first(contender: Contender) -> TrainedModel:
    """The first measured run of a contender, which the page draws.

    Raises: UserError if its checkpoint cannot be used.
    """
    entry = contender.measured[0]
    assert entry.evaluation
    return load(entry.run.uri, int(entry.evaluation.about["step"]))


def draw(
    contender: Contender, trained: TrainedModel, real: RealImages, measured: Folder, seed: int
) -> list[Shown]:
    """Draw a contender, with the same codes and images for each.

    Args:
        trained: see `load_first`.
        real: the held-out images, of the model's size.
        measured: folder of the pictures that its measurement drew.
        seed: of codes.
    Raises: UserError if what it makes is not finite.
    """
    name = contender.name
    found = [Shown("samples", name, grid(trained.sample(SAMPLES, seed), SAMPLE_COLUMNS))]
    found.append(Shown("interpolations", name, grid(_interpolated(trained, seed), 8)))
    if trained.model.can_encode:
        rows = np.arange(min(RECONSTRUCTED, real.manifest.rows(real.split)))
        images = as_images(ShardReader(real.folder, real.manifest, real.split).images(rows))
        found += _of_encoder(trained, images, name)
        found += _attributes(trained, images[:VARIED], real, name)
    run = Folder.at(contender.measured[0].run.uri)
    sheets = {
        "nearest training images": _read(measured, "nearest.png"),
        "evolution": _evolution(run),
    }
    found += [Shown(title, name, pixels) for title, pixels in sheets.items() if pixels is not None]
    return found


def _interpolated(trained: TrainedModel, seed: int) -> Tensor:
    ends = trained.codes(2 * INTERPOLATIONS, seed + 1)
    shares = torch.linspace(0, 1, INTERPOLATION_STEPS)
    rows = [slerp(first, last, shares) for first, last in ends.unflatten(0, (-1, 2))]
    return trained.from_noise(torch.cat(rows))


def _of_encoder(trained: TrainedModel, images: Tensor, name: str) -> list[Shown]:
    with torch.no_grad():
        mean, log_var = (v.float().cpu() for v in trained.model.encode(images))
    decoded = trained.decode(mean)
    pairs = torch.stack([images, decoded], dim=1).flatten(0, 1)
    few = slice(LATENT_MAPS)
    maps = code_maps(images[few], mean[few], log_var[few], decoded[few])
    return [
        Shown("images and reconstructions", name, grid(pairs, 2 * PAIRS_PER_ROW)),
        Shown("latent maps", name, grid(maps.images, maps.columns)),
    ]


def _attributes(trained: TrainedModel, images: Tensor, real: RealImages, name: str) -> list[Shown]:
    """Strips of images whose attributes are changed."""
    found = []
    for attribute in real.manifest.attributes[:MOST_ATTRIBUTES]:
        try:
            vector = trained.attribute_vector(real.folder, attribute, most=500)
        except UserError:
            # All images have it, or none.
            continue
        varied = trained.vary(images, vector, torch.tensor(STRENGTHS))
        found.append(Shown(f"attribute {attribute}", name, grid(varied, len(STRENGTHS))))
    return found


def _evolution(run: Folder) -> np.ndarray | None:
    """A few of the pictures of samples that training drew, the first and the last among them."""
    folder = run.join("samples")
    try:
        names = sorted(n for n in folder.names() if re.fullmatch(r"samples-\d+\.png", n))
    except UserError:
        return None
    places = np.unique(np.linspace(0, len(names) - 1, min(STAGES, len(names))).astype(int))
    pictures = [_read(folder, names[place]) for place in places] if names else []
    known = [picture for picture in pictures if picture is not None]
    if not known:
        return None
    # The upper rows of each, one below the other.
    height = min(picture.shape[0] for picture in known) // 2
    width = min(picture.shape[1] for picture in known)
    return np.concatenate([picture[:height, :width] for picture in known])


def _read(folder: Folder, name: str) -> np.ndarray | None:
    try:
        with Image.open(io.BytesIO(folder.read_bytes(name))) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, UserError, Image.DecompressionBombError):
        return None


def guesses(trained: TrainedModel, real: RealImages, seed: int) -> list[Guess]:
    """Real and generated images in random order, for a reader's own eye."""
    total = real.manifest.rows(real.split)
    count = min(GUESSED // 2, total)
    random = np.random.default_rng(seed)
    rows = np.sort(random.permutation(total)[:count])
    found = as_images(ShardReader(real.folder, real.manifest, real.split).images(rows))
    both = [(image, "real") for image in found]
    both += [(image, "generated") for image in trained.sample(count, seed + 2)]
    order = random.permutation(len(both))
    return [Guess(to_uint8(both[place][0][None])[0], both[place][1]) for place in order.tolist()]


def encode(pictures: Sequence[np.ndarray], most: int) -> list[Encoded]:
    """Encode pictures for a page, as well as they fit into so many bytes together.

    Args: pictures: (H, W, 3) uint8 each.
    """
    found: list[Encoded] = []
    for width, quality, exact in LADDER:
        found = [_encoded(pixels, width, quality, exact) for pixels in pictures]
        if sum(len(picture.uri) for picture in found) <= most:
            break
    return found


def _encoded(pixels: np.ndarray, width: int, quality: int, exact: int) -> Encoded:
    """Args: width: upper limit, in pixels; exact: number of pixels up to which nothing is lost."""
    image = Image.fromarray(pixels)
    if image.width > width:
        height = max(1, round(image.height * width / image.width))
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    small = image.width * image.height <= exact
    return as_png(image) if small else as_webp(image, quality)
