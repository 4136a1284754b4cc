"""What several test files need: small datasets, small models, and pairs of training processes."""

import importlib.util
import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from raygen.cli import run_job
from raygen.config import PRESETS, RunConfig
from raygen.data import shards
from raygen.data.shards import Manifest, write_shard
from raygen.data.sources import TRAIN, VALIDATION
from raygen.storage import Folder


def write_dataset(
    path: Path,
    train: Sequence[int],
    validation: Sequence[int] = (),
    size: int = 4,
    rows_per_group: int = 5,
) -> tuple[Manifest, dict[str, np.ndarray]]:
    """A dataset of random images.

    Args: train, validation: rows of each of the splits' files; size: pixels of a side.
    Returns: its manifest, and each split's images in row order, (N, size, size, 3) uint8.
    """
    folder = Folder.at(path)
    random = np.random.default_rng(0)
    splits, pixels = {}, {}
    image_bytes = size * size * 3
    with mock.patch.object(shards, "ROW_GROUP_BYTES", rows_per_group * image_bytes):
        for split, counts in ((TRAIN, train), (VALIDATION, validation)):
            images = random.integers(0, 256, (sum(counts), size, size, 3), np.uint8)
            files, first = [], 0
            for number, count in enumerate(counts):
                rows = images[first : first + count]
                table = pa.table(
                    {
                        "image": pa.array([r.tobytes() for r in rows], pa.binary(image_bytes)),
                        "id": [f"{split}{row}" for row in range(first, first + count)],
                    }
                )
                name = f"{split}-{number:05d}.parquet"
                files.append(write_shard(folder, name, table, image_bytes))
                first += count
            splits[split], pixels[split] = tuple(files), images
    manifest = Manifest(size, size, (), splits, {"kind": "random"}, 0, ())
    folder.write_json(shards.MANIFEST, manifest.to_json())
    return manifest, pixels


def damage(file: Path) -> None:
    """Change one byte of a shard's first image, leaving the file's size as it is."""
    data = bytearray(file.read_bytes())
    data[200] ^= 0xFF
    file.write_bytes(data)


def tiny_config(**options: Any) -> RunConfig:
    """A DCGAN run of an eighth of the width, small enough for a test."""
    values = {"width": 0.125, "batch_size": 8, "steps": 4, "precision": "fp32"} | options
    return PRESETS["dcgan-celeba"].run.updated(values, "test")


def random_images(count: int, size: int = 32, seed: int = 0) -> torch.Tensor:
    """(count, size, size, 3) uint8."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)


def run_processes(count: int, function: Callable[..., None], *arguments: Any) -> None:
    """Call `function(rank, *arguments)` in `count` new processes that form a gloo group."""
    port = _free_port()
    spawn(_in_group, (count, port, function, arguments), nprocs=count)


def _in_group(
    rank: int, count: int, port: int, function: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=count)
    try:
        function(rank, *arguments)
    finally:
        dist.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def load_job(name: str) -> ModuleType:
    """The script `jobs/<name>.py` as a module."""
    path = Path(__file__).parents[1] / "jobs" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"job_{name}", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_script(name: str, *arguments: str | Path) -> int:
    """Run a job in this process as its script would, and return its exit code."""
    with mock.patch.object(sys, "argv", [f"jobs/{name}.py", *map(str, arguments)]):
        return run_job(load_job(name).main)
