"""What the training loop knows of a model: its networks, and how to take a step with them."""

import inspect
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from raygen.config import RunConfig

Metrics = dict[str, Tensor]
"""Scalar tensors by name, on the model's device; each a mean over this worker's images."""


@dataclass(frozen=True)
class Step:
    """Where in a run a training step stands, and which part of it this worker takes.

    Attributes:
        number: of the step, from 0; with the run's seed it decides the step's noise.
        batch_size: images of the step, over all workers.
        images_seen: by all workers, before this step.
    """

    number: int
    batch_size: int
    images_seen: int
    rank: int = 0
    world_size: int = 1


class Model(ABC):
    """A family of generative models.

    A family builds its networks and optimizers in its constructor and takes its own training
    step; the loop moves them to the device, wraps them for data-parallel training, feeds them
    images, and saves them, without knowing which they are.

    Attributes:
        networks: by name, all that a checkpoint saves.
        trained: names of the networks that receive gradients.
        optimizers: by name.
        parallel: the trained networks as the update step must call them to train: themselves, or
            wrapped in DistributedDataParallel.
        bf16: compute in bfloat16 where that is safe (autocast); weights stay float32.
    """

    networks: dict[str, nn.Module]
    trained: tuple[str, ...]
    optimizers: dict[str, torch.optim.Optimizer]
    parallel: dict[str, nn.Module]
    bf16: bool = False

    @property
    def device(self) -> torch.device:
        return next(self.networks[self.trained[0]].parameters()).device

    def to(self, device: torch.device) -> None:
        """Move all networks, in the memory layout that convolutions are fastest in."""
        for network in self.networks.values():
            network.to(device).to(memory_format=torch.channels_last)

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

    @abstractmethod
    def __init__(self, config: RunConfig) -> None:
        """Build networks and optimizers, from `config.seed` and the options."""

    @abstractmethod
    def update(self, real: Tensor, step: Step) -> Metrics:
        """Take one training step.

        Args: real: (N, C, H, W) in [-1, 1], this worker's share of the batch.
        """

    @abstractmethod
    def pictures(self, count: int) -> dict[str, Tensor]:
        """Pictures of the model's state: name -> (N, C, H, W) in [-1, 1], the same codes always."""


# The option's name changed in torch 2.15, which warns about the old one.
_KEEP_BUFFERS: dict[str, Any] = (
    {"forward_sync_buffers": False}
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    else {"broadcast_buffers": False}
)
