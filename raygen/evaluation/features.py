"""Feature extractors: networks whose features images are compared in.

`random-vgg` needs nothing and is the same for everybody; `domain` (see domain.py) is trained on a
dataset's own attributes; the others are pretrained networks whose weights a user has to bring.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raygen.data.pixels import scale_images
from raygen.evaluation.metrics import RANDOM_VGG
from raygen.models.layers import evaluating

BATCH = 64
RESIZER = "bilinear, antialiased"

VGG_STAGES = ((16,), (32,), (64, 64), (128, 128), (128, 128))
"""Channels of the 3 x 3 convolutions between VGG-11's poolings, at a quarter of its width."""
VGG_SIDES = (64, 32)
"""Sides that images are resized to, in pixels: of the finer ones textures decide, of the coarser
ones what is shown, so that neither a blur nor a lack of variety outweighs all else."""
VGG_FEATURES = 64
"""Number of features at each of them."""
VGG_SCALES = (1.0, 1.7)
"""Factors of the projections, with which the features of faces vary equally at both sides."""
VGG_SEED = 20_020_979
"""Decides the weights. Another number would make another metric."""


@dataclass(frozen=True)
class Extractor:
    """A network that turns images into features.

    Attributes:
        name: what the metrics' names begin with.
        network: uint8 images (N, 3, H, W) of any size -> float32 (N, dimensions).
        dimensions: number of features.
        sha256: hash of the weights, in hexadecimal.
        resizer: how images are brought to the network's size.
    """

    name: str
    network: nn.Module
    dimensions: int
    sha256: str
    resizer: str

    def to(self, device: torch.device | str) -> "Extractor":
        self.network.to(device)
        return self

    def features(self, batches: Iterable[np.ndarray], device: torch.device | str) -> np.ndarray:
        """The features of images, (N, dimensions) float32.

        Args: batches: uint8 images, (n, H, W, 3) each; device: where the network is.
        """
        found = [np.empty((0, self.dimensions), np.float32)]
        with evaluating([self.network]):
            for images in batches:
                for first in range(0, len(images), BATCH):
                    some = torch.from_numpy(np.ascontiguousarray(images[first : first + BATCH]))
                    features = self.network(some.to(device).permute(0, 3, 1, 2))
                    found.append(features.float().cpu().numpy())
        return np.concatenate(found)


def resized(images: Tensor, side: int) -> Tensor:
    """uint8 images (N, 3, H, W) -> float32 in [-1, 1], of `side` pixels a side; antialiased."""
    scaled = scale_images(images.permute(0, 2, 3, 1), images.device)
    if images.shape[2:] == (side, side):
        return scaled
    size = (side, side)
    return F.interpolate(scaled, size, mode="bilinear", antialias=True, align_corners=False)


def uniform_numbers(count: int, seed: int) -> np.ndarray:
    """Numbers in [0, 1), (count,) float64, the same with every version of every library.

    Source: SplitMix64 (Steele et al. 2014), whose state is a counter here.
    """
    with np.errstate(over="ignore"):
        state = np.arange(1, count + 1, dtype=np.uint64) + np.uint64(seed) * np.uint64(2**32)
        mixed = state * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


class RandomVGG(nn.Module):
    """A VGG-11 of a quarter of the width that is not trained, and random projections.

    uint8 images (N, 3, H, W), resized to 64 x 64 and to 32 x 32 -> features (N, 2 * 64). Random
    convolutions see texture, colour and shape, if less of what matters to a person than trained
    ones do; they depend on no dataset and no download.
    Sources: Simonyan & Zisserman 2015, arXiv 1409.1556; untrained, as features for comparing
    images: Naeem et al. 2020, arXiv 2002.09797.
    """

    def __init__(self) -> None:
        super().__init__()
        channels = 3
        self.stages = nn.ModuleList()
        for filters in VGG_STAGES:
            stage: list[nn.Module] = []
            for count in filters:
                stage += [nn.Conv2d(channels, count, 3, padding=1, bias=False), nn.ReLU()]
                channels = count
            self.stages.append(nn.Sequential(*stage, nn.MaxPool2d(2)))
        sizes = [channels * (side >> len(VGG_STAGES)) ** 2 for side in VGG_SIDES]
        self.projections = nn.ModuleList(nn.Linear(n, VGG_FEATURES, bias=False) for n in sizes)
        convolutions = [layer for layer in self.stages.modules() if isinstance(layer, nn.Conv2d)]
        # He et al. 2015: ReLUs halve the mean square, which variances of 2 / fan-in undo.
        variances = [2.0] * len(convolutions) + [scale**2 for scale in VGG_SCALES]
        layers: list[nn.Module] = [*convolutions, *self.projections]
        for number, (layer, variance) in enumerate(zip(layers, variances, strict=True)):
            weight = layer.weight
            assert isinstance(weight, Tensor)
            bound = np.sqrt(3 * variance / weight[0].numel())
            drawn = (2 * uniform_numbers(weight.numel(), VGG_SEED + number) - 1) * bound
            values = torch.from_numpy(drawn.astype(np.float32)).reshape(weight.shape)
            layer.weight = nn.Parameter(values, requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        found = []
        for side, project in zip(VGG_SIDES, self.projections, strict=True):
            features = resized(images, side)
            for stage in self.stages:
                features = stage(features)
            found.append(project(features.flatten(1)))
        return torch.cat(found, dim=1)


def random_vgg() -> Extractor:
    """The extractor `random-vgg`."""
    network = RandomVGG().eval()
    hashed = weights_hash(network)
    dimensions = len(VGG_SIDES) * VGG_FEATURES
    return Extractor(RANDOM_VGG, network, dimensions, hashed, f"{RESIZER}, to 64x64 and 32x32")


def weights_hash(network: nn.Module) -> str:
    """SHA-256 of a network's weights and buffers, with their names, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()
