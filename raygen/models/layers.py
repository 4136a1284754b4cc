"""The few pieces that several model families share."""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn


def scaled(channels: int, width: float) -> int:
    """A layer's number of channels under a width multiplier, at least 1."""
    return max(1, round(channels * width))


def initialise_normal(network: nn.Module, std: float, generator: torch.Generator) -> None:
    """Draw the weights of all convolutions and linear layers from N(0, std); zero their biases.

    Source: Radford et al. 2015 (arXiv 1511.06434), section 4.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(module.weight, 0.0, std, generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def latent_codes(
    count: int, size: int, seed: tuple[int, ...], rank: int = 0, world_size: int = 1
) -> Tensor:
    """One worker's share of `count` codes from N(0, I), a function of the seed alone.

    All workers draw the whole batch's codes and keep their part, so that the codes of a step do
    not depend on the number of workers.

    Args: seed: numbers that together decide the codes, such as (run seed, step).
    Returns: (count / world_size, size) float32 on the CPU.
    """
    state = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0])
    generator = torch.Generator().manual_seed(state)
    share = count // world_size
    codes = torch.randn(count, size, generator=generator)
    return codes[rank * share : (rank + 1) * share]


@contextlib.contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Gradients flow through the network, but it collects none itself."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


class MovingAverage:
    """An exponential moving average of a network's weights, its decay stated in images.

    Early on the half-life is shortened to a twentieth of the images seen so far, so that the
    average does not drag the random initial weights along.
    Source: Karras et al. 2022 (arXiv 2206.00364), training loop of the reference code.
    """

    def __init__(self, network: nn.Module, average: nn.Module, half_life: int) -> None:
        """Args: average: a network of the same shape, made equal now; half_life: in images."""
        self._source = network
        self._average = average
        self._half_life = half_life
        average.load_state_dict(network.state_dict())
        average.requires_grad_(False)
        average.eval()

    @torch.no_grad()
    def update(self, batch_images: int, images_seen: int) -> None:
        """Move the average towards the network.

        Args: batch_images: of the last step, all workers together; images_seen: after it.
        """
        half_life = min(self._half_life, images_seen / 20)
        decay = 0.5 ** (batch_images / half_life) if half_life > 0 else 0.0
        torch._foreach_lerp_(
            list(self._average.parameters()), list(self._source.parameters()), 1 - decay
        )
        # Running statistics are averages already.
        for mine, theirs in zip(self._average.buffers(), self._source.buffers(), strict=True):
            mine.copy_(theirs)
