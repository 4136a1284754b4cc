"""A model of data-parallel training on many GPUs: compute, gradients and network of each step.

It estimates; nothing here is measured. Parameters and FLOPs are those of the code, counted on
torch's meta device, which needs neither memory nor a GPU. `docs/scaling.md` shows the tables.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from raygen.config.run import PRESETS, RunConfig
from raygen.models.flops import on_meta, training_flops

PEAK = 989e12
"""Peak of an H100 in dense bf16 matrix products, in FLOP/s."""
SHARE = 0.15
"""Share of the peak that a step is assumed to reach: its convolutions are small."""
NODE_GPUS = 8
NVLINK = 450e9
"""Bandwidth between the GPUs of a node, each way, in bytes/s."""
NETWORK = 50e9
"""Bandwidth of a node's network, each way, in bytes/s: 400 Gb/s."""
LATENCY = 20e-6
"""Time of an all-reduce of almost nothing within a node, in seconds."""
NETWORK_LATENCY = 15e-6
"""What each doubling of the number of nodes adds to it, in seconds."""
GRADIENT_BYTES = 4
"""Bytes per gradient: weights and gradients are float32 under bf16 autocast too."""
FIRST_BUCKET, BUCKET = 2**20, 25 * 2**20
"""Sizes of the parts in which DistributedDataParallel averages gradients, in bytes."""
OVERLAP = 0.5
"""Share of the compute time behind which the all-reduce may hide: most of the backward passes."""
GOOD = 0.9
"""Efficiency from which on a number of GPUs counts as well used."""
SIZES = (8, 16, 64, 256, 1024)
"""Numbers of GPUs in the tables."""


@dataclass(frozen=True)
class Workload:
    """What a preset's training step computes and sends.

    Attributes:
        batch: images per step of the preset, over all workers.
        parameters: number of parameters of each trained network, by name.
        image_flops: FLOPs per image of the batch, of all networks forward and backward.
    """

    batch: int
    parameters: dict[str, int]
    image_flops: float

    @property
    def gradient_bytes(self) -> int:
        """Bytes of gradients that each worker averages with the others in a step."""
        return GRADIENT_BYTES * sum(self.parameters.values())


@dataclass(frozen=True)
class Estimate:
    """The duration of a step, in seconds.

    Attributes:
        compute: without any communication.
        all_reduce: of all gradients.
        exposed: part of the all-reduce that the GPUs wait for.
    """

    compute: float
    all_reduce: float
    exposed: float

    @property
    def efficiency(self) -> float:
        """Share of the step in which GPUs compute, in (0, 1]."""
        return self.compute / (self.compute + self.exposed)


def workload(config: RunConfig) -> Workload:
    """Count a step's parameters and FLOPs."""
    model = on_meta(config)
    parameters = {
        name: sum(p.numel() for p in model.networks[name].parameters()) for name in model.trained
    }
    return Workload(config.batch_size, parameters, training_flops(config))


def all_reduce_seconds(sizes: Sequence[float], gpus: int) -> float:
    """Duration of ring all-reduces one after the other.

    Each GPU sends and receives 2 (n - 1) / n times the bytes, through the narrowest link.

    Args: sizes: bytes of each; gpus: n.
    Source: Patarasuk & Yuan 2009, Bandwidth optimal all-reduce algorithms.
    """
    nodes = -(-gpus // NODE_GPUS)
    bandwidth = NVLINK if nodes == 1 else NETWORK
    latency = LATENCY + NETWORK_LATENCY * math.log2(nodes)
    return sum(latency + 2 * (gpus - 1) / gpus * size / bandwidth for size in sizes)


def buckets(size: float) -> list[float]:
    """Sizes of the parts in which a network's gradients are averaged, in bytes.

    Args: size: bytes of the network's gradients.
    """
    first = min(size, FIRST_BUCKET)
    whole, rest = divmod(size - first, BUCKET)
    return [first, *([BUCKET] * int(whole)), *([rest] if rest else [])]


def estimate(load: Workload, images: float, gpus: int) -> Estimate:
    """Estimate the duration of a step. Args: images: per GPU."""
    compute = images * load.image_flops / (SHARE * PEAK)
    networks = [buckets(GRADIENT_BYTES * count) for count in load.parameters.values()]
    all_reduce = sum(all_reduce_seconds(parts, gpus) for parts in networks)
    # The last gradients of each network are there only when its backward pass has ended.
    last = sum(all_reduce_seconds(parts[-1:], gpus) for parts in networks)
    return Estimate(compute, all_reduce, max(last, all_reduce - OVERLAP * compute))


def least_images(load: Workload, gpus: int) -> int:
    """Least number of images per GPU with which GPUs are well used."""
    images = 1
    while estimate(load, images, gpus).efficiency < GOOD:
        images += 1
    return images


def most_gpus(load: Workload) -> int:
    """Largest power of two of GPUs that the preset's own batch uses well, split over them."""
    gpus = 1
    while estimate(load, load.batch / (2 * gpus), 2 * gpus).efficiency >= GOOD:
        gpus *= 2
    return gpus


def tables() -> str:
    """The tables of `docs/scaling.md`, in Markdown."""
    loads = {name: workload(config) for name, config in PRESETS.items()}
    parts = [
        [["preset", "parameters, millions", "gradients per step", "GFLOP per image", "batch"]]
        + [
            [
                f"`{name}`",
                ", ".join(f"{network} {n / 1e6:.2f}" for network, n in load.parameters.items()),
                f"{load.gradient_bytes / 1e6:.1f} MB",
                f"{load.image_flops / 1e9:.2f}",
                str(load.batch),
            ]
            for name, load in loads.items()
        ],
        [["preset, its batch on each GPU", "compute"] + [f"{gpus:,} GPUs" for gpus in SIZES]]
        + [[f"`{name}`, {load.batch}", *_row(load)] for name, load in loads.items()],
        [["preset", "GPUs for its batch"] + [f"{gpus:,} GPUs" for gpus in SIZES]]
        + [[f"`{name}`", str(most_gpus(load)), *_least(load)] for name, load in loads.items()],
    ]
    return "\n\n".join(map(_markdown, parts))


def _row(load: Workload) -> list[str]:
    """The compute time of a preset's step, then all-reduce and efficiency on more GPUs."""
    found = [estimate(load, load.batch, gpus) for gpus in SIZES]
    cells = [f"{1e3 * e.all_reduce:.2f} ms, {100 * e.efficiency:.0f} %" for e in found]
    return [f"{1e3 * found[0].compute:.2f} ms", *cells]


def _least(load: Workload) -> list[str]:
    """The least images per GPU, and in all, for each number of GPUs."""
    return [f"{(n := least_images(load, gpus)):,} ({n * gpus:,})" for gpus in SIZES]


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    heading, *others = rows
    lines = [heading, ["---"] * len(heading), *others]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
