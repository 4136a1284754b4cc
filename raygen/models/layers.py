"""Layers, initialisation and noise that several model families share."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Purposes of random numbers: the first part of a seed, so that different uses never draw the same
# numbers. Changing one would change every run.
TRAINING_NOISE = 1
SAMPLE_NOISE = 2
PRIOR_NOISE = 3
PENALTY_NOISE = 4
VALIDATION_NOISE = 5
INTERPOLATION_NOISE = 6
USER_NOISE = 7
QUALITY_NOISE = 8
DROPOUT_NOISE = 9
STATISTICS_NOISE = 10


def batch_norms(network: nn.Module) -> list[Any]:
    """The batch norm layers of a network that keep running statistics."""
    return [
        module
        for module in network.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
    ]


def scaled(channels: int, width: float) -> int:
    """Apply the width multiplier to a number of channels; at least 1."""
    return max(1, round(channels * width))


def initialise_normal(network: nn.Module, std: float, generator: torch.Generator) -> None:
    """Draw the weights of all convolutions and linear layers from N(0, std); zero their biases.

    Source: Radford et al. 2015 (arXiv 1511.06434), section 4.
    """
    for module in _weighted(network):
        nn.init.normal_(module.weight, 0.0, std, generator=generator)
        nn.init.zeros_(module.bias)


def initialise_uniform(network: nn.Module, generator: torch.Generator) -> None:
    """Draw the weights of all convolutions and linear layers as Keras does; zero their biases.

    Source: Glorot & Bengio 2010, equation 16 (Glorot- or Xavier-uniform).
    """
    for module in _weighted(network):
        nn.init.xavier_uniform_(module.weight, generator=generator)
        nn.init.zeros_(module.bias)


def _weighted(network: nn.Module) -> Iterator[Any]:
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            yield module


class Tanh(nn.Tanh):
    """tanh in float32 or better.

    In bfloat16 it rounds to 1 from 3.5 on, where its gradient is then exactly 0.
    """

    def forward(self, values: Tensor) -> Tensor:
        return super().forward(values if values.dtype.itemsize >= 4 else values.float())


class UpsampleConv2d(nn.Conv2d):
    """Nearest upsampling x 2, perhaps a crop, then a 3 x 3 convolution that keeps the size.

    Computed as the one transposed convolution that equals both: its 4 x 4 kernel is the sum of the
    four one-pixel shifts of the flipped 3 x 3 kernel. That takes 16 instead of 36
    multiplications, and never materialises the enlarged input.
    """

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__(channels, filters, 3, padding=1)

    def forward(self, features: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """(N, channels, H, W) -> (N, filters, height, width).

        Args: size: height and width, 2 H or 2 H - 1 and 2 W or 2 W - 1, to which the enlarged
            input is cropped before the convolution; None: 2 H and 2 W.
        """
        flipped = self.weight.flip(2, 3).transpose(0, 1)
        shifts = [F.pad(flipped, (x, 1 - x, y, 1 - y)) for x in (0, 1) for y in (0, 1)]
        kernel = torch.stack(shifts).sum(0)
        enlarged = 2 * features.shape[2], 2 * features.shape[3]
        height, width = size or enlarged
        if (height, width) == enlarged:
            return F.conv_transpose2d(features, kernel, self.bias, stride=2, padding=1)
        # The last row and column of the result should see zeros where the transposed convolution
        # saw the row and the column that are cropped off. Compute what they contributed,
        row = column = None
        if height < enlarged[0]:
            last = features[:, :, -1:].repeat_interleave(2, dim=3)
            row = F.conv2d(last, self.weight[:, :, 2:], padding=(0, 1))[:, :, :, :width]
        if width < enlarged[1]:
            # The corner, if it is cropped off too, is counted in the row.
            last = features[:, :, :, -1:].repeat_interleave(2, dim=2)[:, :, :height]
            column = F.conv2d(last, self.weight[:, :, :, 2:], padding=(1, 0))
        # and take it away.
        dtype = features.dtype if row is None else row.dtype
        dtype = dtype if column is None else column.dtype
        result: Tensor = _CroppedTransposedConvolution.apply(
            features.to(dtype),
            kernel.to(dtype),
            None if self.bias is None else self.bias.to(dtype),
            row,
            column,
            (height, width),
        )
        return result


class _CroppedTransposedConvolution(torch.autograd.Function):
    """A transposed convolution of stride 2, cropped, minus a row and a column at its end.

    In one function because autograd would copy the whole gradient for each crop and subtraction.
    """

    @staticmethod
    def forward(
        features: Tensor,
        kernel: Tensor,
        bias: Tensor | None,
        row: Tensor | None,
        column: Tensor | None,
        size: tuple[int, int],
    ) -> Tensor:
        """Args: kernel: (C, F, 4, 4); row: (N, F, 1, width); column: (N, F, height, 1)."""
        whole = F.conv_transpose2d(features, kernel, bias, stride=2, padding=1)
        result = whole[:, :, : size[0], : size[1]]
        if row is not None:
            result[:, :, -1:] -= row
        if column is not None:
            result[:, :, :, -1:] -= column
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        features, kernel, bias, row, column, _ = inputs
        ctx.save_for_backward(features, kernel)
        ctx.has = [part is not None for part in (bias, row, column)]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        [gradient] = gradients
        features, kernel = ctx.saved_tensors
        has_bias, has_row, has_column = ctx.has
        height, width = (2 * side for side in features.shape[2:])
        missing = (0, width - gradient.shape[3], 0, height - gradient.shape[2])
        of_features, of_kernel, of_bias = torch.ops.aten.convolution_backward(
            F.pad(gradient, missing),
            features,
            kernel,
            [kernel.shape[1]] if has_bias else None,
            [2, 2],
            [1, 1],
            [1, 1],
            True,
            [0, 0],
            1,
            [ctx.needs_input_grad[0], ctx.needs_input_grad[1], has_bias],
        )
        of_row = -gradient[:, :, -1:] if has_row else None
        of_column = -gradient[:, :, :, -1:] if has_column else None
        return of_features, of_kernel, of_bias, of_row, of_column, None


def latents(
    count: int,
    shape: tuple[int, ...],
    seed: tuple[int, ...],
    rank: int = 0,
    world_size: int = 1,
) -> Tensor:
    """One worker's share of `count` latents from N(0, I), a function of the seed alone.

    All workers draw the whole batch's latents and keep their part, so that those of a step do not
    depend on the number of workers. More latents of one seed begin with the same ones.

    Args:
        shape: shape of one latent.
        seed: numbers that together form the seed, such as (run seed, step).
    Returns: (count / world_size, *shape) float32 on the CPU.
    """
    share = count // world_size
    drawn = torch.randn(_in_blocks(count), *shape, generator=_generator(seed))
    return drawn[rank * share : (rank + 1) * share]


def latent_batches(
    count: int, shape: tuple[int, ...], seed: tuple[int, ...], at_once: int
) -> Iterator[Tensor]:
    """Yield the same latents as `latents`, a few at a time.

    Args: at_once: a multiple of 16, because torch draws 16 numbers together.
    Yields: (at_once or, last, fewer, *shape) float32.
    """
    generator = _generator(seed)
    for first in range(0, count, at_once):
        wanted = min(at_once, count - first)
        yield torch.randn(_in_blocks(wanted), *shape, generator=generator)[:wanted]


def _in_blocks(count: int) -> int:
    # torch draws normal numbers 16 at a time; whole blocks make a longer draw begin like a shorter.
    return -(-count // 16) * 16


def _generator(seed: tuple[int, ...]) -> torch.Generator:
    state = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(state)


def reparameterize(mean: Tensor, log_var: Tensor, noise: Tensor) -> Tensor:
    """Latents drawn from N(mean, exp(log_var)), differentiably: mean + exp(log_var / 2) * noise.

    Args: all (N, latent); noise from N(0, I).
    Source: Kingma & Welling 2014, section 2.4.
    """
    return mean + torch.exp(log_var / 2) * noise


def kl_divergence(mean: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mean, exp(log_var)) || N(0, 1)) per image, in nats.

    Args: mean, log_var: (N, latent).   Returns: (N,), >= 0.
    Source: Kingma & Welling 2014, appendix B.
    """
    return -0.5 * (1 + log_var - mean.square() - log_var.exp()).sum(dim=1)


def copied_to(device: torch.device, tensor: Tensor) -> Tensor:
    """Copy a tensor from the CPU to a device, for which a GPU's queue does not have to wait."""
    if device.type == "cuda":
        # Copies from other memory than pinned are made at once.
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


@contextlib.contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Let gradients flow through the network without accumulating in its parameters."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


@contextlib.contextmanager
def evaluating(networks: Iterable[nn.Module]) -> Iterator[None]:
    """Disable gradients and switch networks to evaluation mode until the context ends."""
    before = [(network, network.training) for network in networks]
    for network, _ in before:
        network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for network, training in before:
            network.train(training)


@contextlib.contextmanager
def with_batch_statistics(network: nn.Module) -> Iterator[None]:
    """Evaluate a network, but normalise each batch by its own statistics, until the context ends.

    A discriminator learns from batches of one kind, each normalised by its own statistics. By the
    running statistics, which mix the kinds, it would be judged as another network than the one that
    trains the generator. Dropout is off, there are no gradients, and the running statistics stay as
    they are. Workers' statistics are not synchronised, so they may have different numbers of
    batches.
    """
    statistics = [(norm, norm.running_mean, norm.running_var) for norm in batch_norms(network)]
    with evaluating([network]):
        try:
            for norm, _, _ in statistics:
                # In evaluation mode too, batch norm without statistics takes those of the batch.
                norm.running_mean = norm.running_var = None
            yield
        finally:
            for norm, mean, variance in statistics:
                norm.running_mean, norm.running_var = mean, variance


@torch.no_grad()
def recompute_statistics(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set the running statistics of batch norm to the means of those of some batches.

    Nothing else of the network changes, dropout is off, and torch draws no random numbers.

    Args: batches: inputs of the network, of more than one image each.
    """
    with evaluating([network]):
        norms = batch_norms(network)
        before = [(norm, norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.train()
            # No momentum stands for the mean over all batches since the reset.
            norm.momentum = None
        try:
            for batch in batches:
                network(batch)
        finally:
            for norm, momentum, count in before:
                norm.momentum = momentum
                norm.num_batches_tracked.copy_(count)


class MovingAverage:
    """An exponential moving average of a network's weights, with its half-life in images.

    Early on the half-life is limited to a twentieth of the images seen so far, so that the random
    initial weights are forgotten quickly.
    Source: Karras et al. 2022 (arXiv 2206.00364), training loop of the reference code.
    """

    def __init__(self, network: nn.Module, average: nn.Module, half_life: int) -> None:
        """Args: average: a network of the same shape, set equal now; half_life: in images."""
        self._source = network
        self._average = average
        self._half_life = half_life
        average.load_state_dict(network.state_dict())
        average.requires_grad_(False)
        average.eval()

    @torch.no_grad()
    def update(self, batch_images: int, images_seen: int) -> None:
        """Move the average towards the network.

        Args:
            batch_images: images in the last step, over all workers.
            images_seen: images seen after that step.
        """
        half_life = min(self._half_life, images_seen / 20)
        decay = 0.5 ** (batch_images / half_life) if half_life > 0 else 0.0
        torch._foreach_lerp_(
            list(self._average.parameters()), list(self._source.parameters()), 1 - decay
        )
        # Buffers are copied, because running statistics are averages already. They are of other
        # weights than these, which `Model.refresh_averages` makes up for.
        for mine, theirs in zip(self._average.buffers(), self._source.buffers(), strict=True):
            mine.copy_(theirs)
