"""The interface between models and the training loop: networks and update steps."""

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parallel import DistributedDataParallel

from raygen.config.run import RunConfig
from raygen.data.batch import Batch
from raygen.models import pictures
from raygen.models.layers import (
    STATISTICS_NOISE,
    MovingAverage,
    batch_norms,
    copied_to,
    evaluating,
    latents,
    recompute_statistics,
)
from raygen.models.pictures import Picture

CHANNELS = 3
STATISTICS_COUNT, STATISTICS_BATCH = 512, 64
"""Number of latents, in all and in a batch, that batch-norm statistics are recomputed from."""
Metrics = dict[str, Tensor]
"""Scalar tensors by name, on the model's device; each a mean over this worker's images."""


@dataclass(frozen=True)
class Step:
    """The position of a training step in its run, and this worker's share of it.

    Attributes:
        number: index of the step, from 0; together with the run's seed it decides the noise.
        total: steps of the whole run.
        images: dataset images in the step, over all workers.
        images_seen: images that all workers have trained on before this step.
    """

    number: int
    total: int
    images: int
    images_seen: int
    rank: int = 0
    world_size: int = 1


@dataclass(frozen=True)
class Interface:
    """Signature of a network, for users of trained models.

    Attributes:
        inputs: name and shape of each input, without the batch dimension, in calling order.
        outputs: names of the outputs; a network with several returns a tuple.
    """

    inputs: Mapping[str, tuple[int, ...]]
    outputs: tuple[str, ...]


class Model(ABC):
    """A family of generative models.

    A family builds its networks and optimizers in its constructor, which takes the run's config
    alone and also works on torch's meta device, where tensors have shapes but no memory: a
    checkpoint is compared with such an outline before it is loaded. It takes its own training step;
    the loop moves the networks to the device, wraps them for data-parallel training, feeds them
    images, and saves them, without knowing which they are.

    Attributes:
        config: the run's options.
        networks: all networks that a checkpoint saves, by name; `<name>_ema` is the moving average
            of a network's weights.
        trained: names of the networks that receive gradients.
        optimizers: the optimizers by name.
        parallel: the trained networks as the update step must call them: themselves, or wrapped
            in DistributedDataParallel.
        bf16: compute in bfloat16 where that is safe (autocast); weights stay float32.
        losses: metrics of `update` that are differentiated, and the networks that each trains.
        interfaces: signatures of the networks that are exported and used after training; any
            others only serve the training.
        can_encode: whether the model has an encoder, and so `encode` and `decode`.
        uses_dropout: whether torch draws random numbers by itself in `update`.
        max_grad_norm: norm to which the gradients of an optimizer step are clipped; 0: no clipping.
    """

    optimizers: dict[str, torch.optim.Optimizer]
    losses: Mapping[str, str]
    interfaces: Mapping[str, Interface]
    can_encode: bool = False
    max_grad_norm: float = 0.0
    bf16: bool = False

    @abstractmethod
    def __init__(
        self, config: RunConfig, networks: dict[str, nn.Module], averaged: Sequence[str]
    ) -> None:
        """Args: networks: the trained ones; averaged: names of those that get a moving average."""
        self.config = config
        layers = [layer for network in networks.values() for layer in network.modules()]
        self.uses_dropout = any(isinstance(layer, _DropoutNd) for layer in layers)
        self.trained = tuple(networks)
        self.networks = dict(networks)
        self.parallel = dict(networks)
        self.averages = []
        for name in averaged if config.model.ema_images else ():
            average = copy.deepcopy(networks[name])
            self.averages.append(MovingAverage(networks[name], average, config.model.ema_images))
            self.networks[f"{name}_ema"] = average

    @abstractmethod
    def update(self, batch: Batch, step: Step) -> Metrics:
        """Take one training step.

        Args: batch: this worker's share of the step's images.
        """

    @abstractmethod
    def validate(self, batch: Batch, number: int) -> Metrics:
        """Losses on held-out images.

        Args: number: index of this batch, which decides the noise.
        """

    @abstractmethod
    def sample(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Generate images (N, C, H, W) in [-1, 1].

        Args:
            noise: (N, *latent_shape) from N(0, I).
            labels: (N, A) desired attributes, as in `Batch`; unconditional families ignore them.
        """

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) in [-1, 1] -> mean and log_var of their latents, (N, *latent_shape).

        Only families with `can_encode` implement this.
        """
        raise NotImplementedError(f"{type(self).__name__} has no latents of images")

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (N, *latent_shape), as from `encode` -> images (N, C, H, W) in [-1, 1]."""
        return self.sample(latents)

    def pictures(self, count: int, real: Tensor) -> dict[str, Picture]:
        """Pictures that show the model's state, by name, from the same noise and images each time.

        Args:
            count: number of samples.
            real: (N, C, H, W) in [-1, 1], the first validation images; N may be 0.
        """
        return pictures.usual(self, count, real)

    def learning_rate_factor(self, step: Step) -> float:
        """The factor of all learning rates in a step, by which a family may schedule them."""
        return 1.0

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of the noise that one image is generated from."""
        return (self.config.model.latent_size,)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images."""
        image = self.config.image
        return CHANNELS, image.height, image.width

    @property
    def device(self) -> torch.device:
        return next(self.networks[self.trained[0]].parameters()).device

    def to(self, device: torch.device) -> None:
        """Move all networks to a device, in the memory layout that is fastest for convolutions."""
        for network in self.networks.values():
            network.to(device).to(memory_format=torch.channels_last)

    def compile(self) -> None:
        """Compile the trained networks with torch.compile."""
        for name in self.trained:
            self.networks[name].compile()

    def autocast(self) -> torch.autocast:
        """Context for forward passes; open one per optimizer step, as it caches cast weights."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def distribute(self, sync_bn: bool) -> None:
        """Wrap the trained networks so that workers average their gradients.

        Buffers, that is running statistics, are not synchronised during training: broadcasting
        rank 0's before every forward pass would change tensors that the first of the
        discriminator's two forward passes still needs for its gradient. They are averaged before
        they are used or saved (`average_buffers`).

        Args: sync_bn: compute batch statistics over all workers' images; GPUs only.
        """
        for name in self.trained:
            network = self.networks[name]
            if sync_bn:
                # Only the batch-norm layers inside are replaced; the weights stay the same.
                nn.SyncBatchNorm.convert_sync_batchnorm(network)
            self.parallel[name] = DistributedDataParallel(network, **_KEEP_BUFFERS)

    def ema(self, name: str) -> nn.Module:
        """The moving average of a network if there is one, else the network itself."""
        return self.networks.get(f"{name}_ema", self.networks[name])

    def evaluate(self, name: str, *inputs: Tensor) -> Any:
        """Run a network, or its moving average, in evaluation mode and without gradients."""
        network = self.ema(name)
        with evaluating([network]):
            return network(*(part.to(self.device) for part in inputs))

    def noise(
        self, step: Step, count: int, purpose: int, shape: tuple[int, ...] | None = None
    ) -> Tensor:
        """Draw this worker's share of a step's `count` standard normal tensors.

        Args:
            purpose: one of the numbers in layers.py, which keeps the uses within a step apart.
            shape: shape of one tensor; None: `latent_shape`.
        Returns: (count / world_size, *shape) float32 on the model's device.
        """
        shape = self.latent_shape if shape is None else shape
        seed = (purpose, self.config.seed, step.number)
        noise = latents(count, shape, seed, step.rank, step.world_size)
        return copied_to(self.device, noise)

    def fixed_noise(
        self, count: int, purpose: int, number: int = 0, shape: tuple[int, ...] | None = None
    ) -> Tensor:
        """Draw noise that is the same throughout a run, on all workers: (count, *shape).

        Args: number: distinguishes several draws for the same purpose; see `noise` for the others.
        """
        shape = self.latent_shape if shape is None else shape
        return copied_to(self.device, latents(count, shape, (purpose, self.config.seed, number)))

    def minimise(self, optimizer: str, loss: Tensor, step: Step) -> None:
        """Take one optimizer step that reduces a loss."""
        self.optimizers[optimizer].zero_grad(set_to_none=True)
        loss.backward()
        self.take_step(optimizer, step)

    def take_step(self, optimizer: str, step: Step) -> None:
        """Take one optimizer step with the gradients that the parameters have.

        Gradients are clipped to the family's `max_grad_norm`, and the learning rate follows the
        family's schedule. The optimizer itself keeps the unscheduled rate, which is what
        checkpoints save and what may be changed.
        """
        groups = self.optimizers[optimizer].param_groups
        if self.max_grad_norm:
            parameters = [p for group in groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, self.max_grad_norm)
        rates = [group["lr"] for group in groups]
        factor = self.learning_rate_factor(step)
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate * factor
        self.optimizers[optimizer].step()
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate

    def update_averages(self, step: Step) -> None:
        """Update the moving averages; call this last in an update."""
        for average in self.averages:
            average.update(step.images, step.images_seen + step.images)

    def refresh_averages(self, rank: int = 0, world_size: int = 1) -> None:
        """Recompute the batch-norm statistics of moving averages that take latents.

        During training they are those of the trained network, whose weights differ. Each worker
        computes them from a share of the same latents of the prior; their mean over the workers
        (`average_buffers`), which does not depend on the number of workers, replaces them.

        Networks that take images keep the copied statistics, as there are no images to compute
        them from, and so do decoders that also reconstruct. They decode codes of images, which are
        no samples of the prior before the training has made them so: on drawn faces, statistics of
        the prior raised the squared error of a VAE's reconstructions from 0.07 to 0.35, and a
        VAE-GAN's from 0.18 to 0.20, with an SWD of 520 in place of 454.
        """
        if self.can_encode:
            return
        batches = self.fixed_noise(STATISTICS_COUNT, STATISTICS_NOISE).split(STATISTICS_BATCH)
        share = batches[rank::world_size]
        for name, interface in self.interfaces.items():
            average = self.networks.get(f"{name}_ema")
            if average is None or tuple(interface.inputs) != ("codes",):
                continue
            if norms := batch_norms(average):
                recompute_statistics(average, share)
                for norm in norms:
                    # Workers' shares may differ in size by a batch.
                    norm.running_mean *= len(share) * world_size / len(batches)
                    norm.running_var *= len(share) * world_size / len(batches)


# torch 2.15 renamed this option and warns about the old name.
_KEEP_BUFFERS: dict[str, Any] = (
    {"forward_sync_buffers": False}
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    else {"broadcast_buffers": False}
)
