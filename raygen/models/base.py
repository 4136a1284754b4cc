"""What the training loop knows of a model: its networks, and how to take a step with them."""

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from raygen.config import RunConfig
from raygen.models.layers import MovingAverage, evaluating, latent_codes
from raygen.models.pictures import Picture

Metrics = dict[str, Tensor]
"""Scalar tensors by name, on the model's device; each a mean over this worker's images."""


@dataclass(frozen=True)
class Step:
    """Where in a run a training step stands, and which part of it this worker takes.

    Attributes:
        number: of the step, from 0; with the run's seed it decides the step's noise.
        total: steps of the whole run.
        images: of the dataset, that the step takes, over all workers.
        images_seen: by all workers, before this step.
    """

    number: int
    total: int
    images: int
    images_seen: int
    rank: int = 0
    world_size: int = 1


class Model(ABC):
    """A family of generative models.

    A family builds its networks and optimizers in its constructor, which takes the run's config
    alone and also works on torch's meta device, where tensors have shapes but no memory: a
    checkpoint is compared with such an outline before it is loaded. It takes its own training step;
    the loop moves the networks to the device, wraps them for data-parallel training, feeds them
    images, and saves them, without knowing which they are.

    Attributes:
        config: of the run.
        networks: by name, all that a checkpoint saves; `<name>_ema` is the moving average of a
            network's weights.
        trained: names of the networks that receive gradients.
        optimizers: by name.
        parallel: the trained networks as the update step must call them to train: themselves, or
            wrapped in DistributedDataParallel.
        bf16: compute in bfloat16 where that is safe (autocast); weights stay float32.
        losses: metrics of `update` that are differentiated, and the networks that each trains.
        best_by: the validation metric that tells the best checkpoint, which has it lowest.
    """

    optimizers: dict[str, torch.optim.Optimizer]
    losses: Mapping[str, str]
    best_by: str = "quality/swd"
    bf16: bool = False

    @abstractmethod
    def __init__(
        self, config: RunConfig, networks: dict[str, nn.Module], averaged: Sequence[str]
    ) -> None:
        """Args: networks: those that are trained; averaged: which to keep a moving average of."""
        self.config = config
        self.trained = tuple(networks)
        self.networks = dict(networks)
        self.parallel = dict(networks)
        self.averages = []
        for name in averaged if config.model.ema_images else ():
            average = copy.deepcopy(networks[name])
            self.averages.append(MovingAverage(networks[name], average, config.model.ema_images))
            self.networks[f"{name}_ema"] = average

    @abstractmethod
    def update(self, real: Tensor, step: Step) -> Metrics:
        """Take one training step.

        Args: real: (N, C, H, W) in [-1, 1], this worker's share of the step's images.
        """

    @abstractmethod
    def validate(self, real: Tensor, batch: int) -> Metrics:
        """Losses on images that are not trained on.

        Args:
            real: (N, C, H, W) in [-1, 1].
            batch: number of this batch, which decides the noise.
        """

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (N, latent_size) -> images (N, C, H, W) in [-1, 1], drawn to be looked at.

        By the network `decoder`; families that call it otherwise say so.
        """
        images: Tensor = self.evaluate("decoder", codes)
        return images

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) in [-1, 1] -> mean and log_var of their codes, (N, latent_size).

        By the network `encoder`, which not every family has (`has_encoder`).
        """
        mean, log_var = self.evaluate("encoder", images)
        return mean, log_var

    @abstractmethod
    def pictures(self, count: int, real: Tensor) -> dict[str, Picture]:
        """Pictures of the model's state, by name; the same codes and images always.

        Args:
            count: how many samples.
            real: (N, C, H, W) in [-1, 1], the first validation images; N may be 0.
        """

    @property
    def has_encoder(self) -> bool:
        return "encoder" in self.networks

    @property
    def latent_size(self) -> int:
        return self.config.model.latent_size

    @property
    def device(self) -> torch.device:
        return next(self.networks[self.trained[0]].parameters()).device

    def to(self, device: torch.device) -> None:
        """Move all networks, in the memory layout that convolutions are fastest in."""
        for network in self.networks.values():
            network.to(device).to(memory_format=torch.channels_last)

    def compile(self) -> None:
        """Compile the trained networks from now on."""
        for name in self.trained:
            self.networks[name].compile()

    def autocast(self) -> torch.autocast:
        """A context for forward passes. One for each optimizer step: it caches cast weights."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def distribute(self, sync_bn: bool) -> None:
        """Average gradients over the workers of the process group from now on.

        Buffers, that is running statistics, stay each worker's own during training: copying
        rank 0's into place before every forward would change tensors that the first of the
        discriminator's two forward passes still needs for its gradient. They are averaged where
        they are used or saved (`average_buffers`).

        Args: sync_bn: compute batch statistics over all workers' images; GPUs only.
        """
        for name in self.trained:
            network = self.networks[name]
            if sync_bn:
                # Replaces the batch-norm layers inside; the network and its weights stay the same.
                nn.SyncBatchNorm.convert_sync_batchnorm(network)
            self.parallel[name] = DistributedDataParallel(network, **_KEEP_BUFFERS)

    def drawn(self, name: str) -> nn.Module:
        """A network as pictures are drawn with it: its moving average, where there is one."""
        return self.networks.get(f"{name}_ema", self.networks[name])

    def evaluate(self, name: str, inputs: Tensor) -> Any:
        """What a network, as pictures are drawn with it, makes of inputs; without gradients."""
        network = self.drawn(name)
        with evaluating([network]):
            return network(inputs.to(self.device))

    def noise(self, step: Step, count: int, purpose: int) -> Tensor:
        """This worker's share of a step's `count` standard normal codes.

        Args: purpose: one of the numbers in layers.py, which keeps the uses within a step apart.
        Returns: (count / world_size, latent_size) float32 on the model's device.
        """
        seed = (purpose, self.config.seed, step.number)
        codes = latent_codes(count, self.latent_size, seed, step.rank, step.world_size)
        return codes.to(self.device, non_blocking=True)

    def fixed_noise(self, count: int, purpose: int, number: int = 0) -> Tensor:
        """`count` standard normal codes that are the same throughout a run: (count, latent_size).

        Args: number: tells several draws for the same purpose apart.
        """
        codes = latent_codes(count, self.latent_size, (purpose, self.config.seed, number))
        return codes.to(self.device)

    def minimise(self, optimizer: str, loss: Tensor) -> None:
        """One step of an optimizer down a loss."""
        self.optimizers[optimizer].zero_grad(set_to_none=True)
        loss.backward()
        self.optimizers[optimizer].step()

    def update_averages(self, step: Step) -> None:
        """Move the moving averages towards the networks; the last part of an update."""
        for average in self.averages:
            average.update(step.images, step.images_seen + step.images)


# The option's name changed in torch 2.15, which warns about the old one.
_KEEP_BUFFERS: dict[str, Any] = (
    {"forward_sync_buffers": False}
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    else {"broadcast_buffers": False}
)
