"""The objective of runs and sweeps: known damage is ranked as it should be."""

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ladder import LADDERS, damaged, faces
from torch import Tensor

from raygen.data.pixels import as_images
from raygen.training.validation import Quality
from raygen.training.workers import Workers

COUNT = 200


class Generator:
    """A model whose samples are given."""

    image_shape = (3, 32, 32)

    def __init__(self, images: np.ndarray) -> None:
        self._images = as_images(images)

    def fixed_noise(self, count: int, stream: int) -> Tensor:
        return torch.arange(count)

    def sample(self, noise: Tensor) -> Tensor:
        return self._images[noise]


def measured(real: np.ndarray, images: np.ndarray, is_last: bool) -> dict[str, float]:
    def read(first: int, stop: int) -> Any:
        return SimpleNamespace(
            images=real[first:stop],
            attributes=np.zeros((len(real[first:stop]), 0), np.int8),
            rows=np.arange(first, min(stop, len(real))),
        )

    held_out: Any = SimpleNamespace(count=len(real), read=read)
    model: Any = Generator(images)
    quality = Quality(held_out, pixels_at_end=True)
    return quality.measure(model, Workers(), lambda done: None, is_last)


@pytest.mark.slow
def test_the_objective_sees_every_kind_of_damage_and_samples_that_repeat() -> None:
    real, other = faces(0, COUNT)[0], faces(COUNT, COUNT)[0]
    found = {
        name: measured(real, images, is_last=name in ("other", "faces 16", "box blur 3x3"))
        for name, images in (damaged(other) | {"other": other}).items()
    }
    distance = {name: metrics["quality/fd_random-vgg"] for name, metrics in found.items()}
    for ladder in LADDERS:
        for weaker, stronger in pairwise(("other", *ladder)):
            assert distance[weaker] < distance[stronger], (weaker, stronger, distance)
    # Sixteen faces are worse than all faces with a slight blur. That is what the distance of the
    # pixels' patches gets wrong.
    assert distance["faces 16"] > distance["box blur 3x3"]
    assert found["faces 16"]["quality/swd"] < found["box blur 3x3"]["quality/swd"]
    variety = {name: metrics["quality/variety_random-vgg"] for name, metrics in found.items()}
    assert 0.9 < variety["other"] < 1.1
    for name, value in variety.items():
        assert (value < 0.01) == name.startswith("faces"), (name, value)
    # Where trials are compared by something else, it is measured at their end alone.
    assert "quality/swd" not in found["faces 64"]
