"""The extractor `domain`: a small network that learns a dataset's own attributes.

Its features are about what distinguishes the dataset's images from one another, whatever they show.
It is trained once for each dataset, on the training images alone, and kept beside the dataset.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from raygen.core.checked import parse
from raygen.core.errors import UserError
from raygen.core.storage import Folder
from raygen.evaluation.features import RESIZER, Extractor, resized, weights_hash
from raygen.evaluation.grids import to_uint8
from raygen.evaluation.metrics import DOMAIN

VERSION = 2
"""Of the network and its training; another one makes another extractor."""
FOLDER = "extractors"
"""Folder inside the dataset's that holds trained extractors."""
FILTERS = (32, 64, 128, 64)
FEATURES = FILTERS[-1]
LARGEST_SIDE = 64
MOST_IMAGES = 20_000
"""Upper limit of the training images to learn from."""
STEPS, EPOCHS, BATCH, RATE = 800, 25, 64, 2e-3
"""Upper limits of the steps of the training and of its passes over the images; its batch size and
learning rate."""
LEAST_SHARE = 0.02
"""Attributes that fewer images have, or lack, are not learnt."""
MOST_BYTES = 64 * 2**20
ADVICE = "delete it to have it trained again"

Progress = Callable[[int, int], None]
"""Called with the steps done and in total."""


class AttributeClassifier(nn.Module):
    """uint8 images (N, 3, H, W) -> features (N, 64); `logits` are those of the attributes."""

    def __init__(self, attributes: int, side: int) -> None:
        super().__init__()
        self.side = side
        layers: list[nn.Module] = []
        channels = 3
        for number, count in enumerate(FILTERS):
            layers += [
                nn.Conv2d(channels, count, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(count),
            ]
            # The features are the last layer's, before they are cut off at 0, so that they are
            # about normally distributed, as the Fréchet distance takes them to be.
            if number < len(FILTERS) - 1:
                layers.append(nn.LeakyReLU(0.1))
            channels = count
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(channels, attributes)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.body(resized(images, self.side)).mean(dim=(2, 3))
        return features

    def logits(self, images: Tensor) -> Tensor:
        """(N, attributes), positive where an image has the attribute."""
        found: Tensor = self.head(self(images))
        return found


@dataclass(frozen=True)
class Domain:
    """A trained extractor, and how well it knows the attributes.

    Attributes:
        attributes: those that it learnt.
        accuracy: share of the validation images' attributes that it tells right, in [0, 1].
        chance: the share that always telling the more frequent value would.
    """

    extractor: Extractor
    attributes: tuple[str, ...]
    accuracy: float
    chance: float


def side_of(height: int, width: int) -> int:
    """Side of the square that the network sees of images of a size, in pixels."""
    return min(LARGEST_SIDE, max(16, min(height, width)))


def reduced(images: np.ndarray) -> np.ndarray:
    """Images (N, H, W, 3) uint8 at the size that the network sees, which takes less memory."""
    side = side_of(*images.shape[1:3])
    parts = np.array_split(images, -(-len(images) // BATCH))
    tensors = (torch.from_numpy(part).permute(0, 3, 1, 2) for part in parts)
    return np.concatenate([to_uint8(resized(part, side)) for part in tensors])


def learnable(values: np.ndarray) -> np.ndarray:
    """Numbers of the attributes that enough images have, and enough lack.

    Args: values: (N, attributes) int8: 1 true, -1 false, 0 unknown.
    """
    least = max(1, LEAST_SHARE * len(values))
    return np.flatnonzero(
        ((values == 1).sum(axis=0) >= least) & ((values == -1).sum(axis=0) >= least)
    )


def train(
    images: np.ndarray,
    values: np.ndarray,
    held_out: tuple[np.ndarray, np.ndarray],
    names: Sequence[str],
    progress: Progress = lambda done, total: None,
    device: torch.device | str = "cpu",
    steps: int = 0,
) -> Domain | None:
    """Train the classifier of attributes on images; the same images give the same one.

    Args:
        images: (N, H, W, 3) uint8, perhaps from `reduced`; values: (N, attributes) int8: 1 true,
            -1 false, 0 unknown.
        held_out: the same of validation images, on which the accuracy is measured.
        names: the attributes; steps: 0: as many as suit the number of images.
    Returns: None if there is no attribute that can be learnt.
    """
    chosen = learnable(values)
    if not len(chosen):
        return None
    steps = steps or min(STEPS, -(-EPOCHS * len(images) // BATCH))
    random = np.random.default_rng(VERSION)
    state = torch.random.get_rng_state()
    torch.manual_seed(VERSION)
    network = AttributeClassifier(len(chosen), side_of(*images.shape[1:3])).to(device)
    torch.random.set_rng_state(state)
    optimizer = torch.optim.Adam(network.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    network.train()
    batch = min(BATCH, len(images))
    order = np.empty(0, np.int64)
    for step in range(steps):
        if len(order) < batch:
            order = np.concatenate([order, random.permutation(len(images))])
        rows, order = order[:batch], order[batch:]
        some = torch.from_numpy(images[rows]).to(device).permute(0, 3, 1, 2)
        if random.random() < 0.5:
            some = some.flip(3)
        wanted = torch.from_numpy(values[rows][:, chosen]).to(device).float()
        loss = F.softplus(-wanted * network.logits(some))[wanted != 0].sum() / wanted.numel()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        progress(step + 1, steps)
    network.eval()
    accuracy, chance = _accuracy(network, *held_out, chosen, device)
    network.requires_grad_(False).to("cpu")
    known = tuple(names[number] for number in chosen)
    return Domain(_extractor(network), known, accuracy, chance)


def _accuracy(
    network: AttributeClassifier,
    images: np.ndarray,
    values: np.ndarray,
    chosen: np.ndarray,
    device: torch.device | str,
) -> tuple[float, float]:
    right = known = 0
    values = values[:, chosen]
    with torch.no_grad():
        for first in range(0, len(images), BATCH):
            some = torch.from_numpy(images[first : first + BATCH]).to(device).permute(0, 3, 1, 2)
            wanted = values[first : first + BATCH]
            found = np.sign(network.logits(some).cpu().numpy())
            right += int(((found == wanted) & (wanted != 0)).sum())
            known += int((wanted != 0).sum())
    frequent = np.maximum((values == 1).sum(axis=0), (values == -1).sum(axis=0)).sum()
    return right / max(known, 1), float(frequent) / max(known, 1)


def _extractor(network: AttributeClassifier) -> Extractor:
    resizer = f"{RESIZER}, to {network.side}x{network.side}"
    return Extractor(DOMAIN, network, FEATURES, weights_hash(network), resizer)


def file_name(fingerprint: str, height: int, width: int) -> str:
    """The name of the file of a dataset's extractor, by the dataset's content.

    Args: fingerprint: the dataset's; height, width: of its images.
    """
    content = json.dumps([VERSION, fingerprint, side_of(height, width)])
    return f"{DOMAIN}-{hashlib.sha256(content.encode()).hexdigest()[:16]}.safetensors"


def save(domain: Domain, folder: Folder, name: str) -> None:
    """Write an extractor. Args: folder: the dataset's; name: see `file_name`."""
    network = domain.extractor.network
    assert isinstance(network, AttributeClassifier)
    about = {
        "attributes": list(domain.attributes),
        "accuracy": domain.accuracy,
        "chance": domain.chance,
        "side": network.side,
    }
    tensors = {n: t.detach().cpu().contiguous() for n, t in network.state_dict().items()}
    folder.join(FOLDER).write_bytes(name, save_tensors(tensors, {"raygen": json.dumps(about)}))


def load(folder: Folder, name: str) -> Domain | None:
    """Read an extractor that `save` wrote; None if there is none.

    Raises: UserError if it is damaged, or something else.
    """
    where = folder.join(FOLDER)
    try:
        data = where.read_bytes(name, MOST_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    uri = where.join(name).uri
    try:
        tensors = load_tensors(data)
    except SafetensorError as error:
        raise UserError(f"{uri}: damaged ({error}); {ADVICE}") from error
    length = int.from_bytes(data[:8], "little")
    header = parse(data[8 : 8 + length], f"{uri}: header", UserError, ADVICE)
    text = header.entry("__metadata__").entry("raygen").text()
    about = parse(text.encode(), uri, UserError, ADVICE)
    attributes = about.entry("attributes").texts()
    side = about.entry("side").integer(16, LARGEST_SIDE)
    accuracy, chance = (about.entry(n).number(at_least=0) for n in ("accuracy", "chance"))
    network = AttributeClassifier(len(attributes), side)
    expected = {n: (t.shape, t.dtype) for n, t in network.state_dict().items()}
    if {n: (t.shape, t.dtype) for n, t in tensors.items()} != expected:
        raise UserError(f"{uri}: holds other tensors than the extractor has; {ADVICE}")
    if not all(bool(t.isfinite().all()) for t in tensors.values()):
        raise UserError(f"{uri}: holds weights that are not finite; {ADVICE}")
    network.load_state_dict(tensors)
    network.eval().requires_grad_(False)
    return Domain(_extractor(network), attributes, accuracy, chance)
