"""What several test files need: small datasets, small models, pairs of processes, sockets."""

import contextlib
import importlib.util
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes
from torch.nn.parallel import DistributedDataParallel

from raygen.cli import run_job
from raygen.config.run import PRESETS, RunConfig
from raygen.core.status import Position
from raygen.core.storage import Folder
from raygen.data.batch import Batch
from raygen.data.pixels import scale_images
from raygen.data.shards import manifest as shards
from raygen.data.shards.manifest import Manifest, write_shard
from raygen.data.sources.source import Source
from raygen.data.splits import TEST, TRAIN, VALIDATION
from raygen.models import build_model
from raygen.models.base import Model, Step
from raygen.training import checkpoint
from raygen.training.checkpoint_index import Score
from raygen.training.run import CONFIG, RunFolder

# Tests' networks are so small that more threads only wait for each other: for minutes, where the
# machine is busy.
torch.set_num_threads(1)

CPU = torch.device("cpu")
Family = TypeVar("Family", bound=Model)
LISTENING = "0A"
"""In /proc/net/tcp."""


def load_image(source: Source, position: int) -> tuple[Image.Image, list[int]]:
    """An image of a source, and its attributes."""
    return source.open(position, source.read(position))


def write_dataset(
    path: Path,
    train: Sequence[int],
    validation: Sequence[int] = (),
    size: int = 4,
    rows_per_group: int = 5,
    height: int = 0,
    attributes: int = 0,
    test: Sequence[int] = (),
) -> tuple[Manifest, dict[str, np.ndarray]]:
    """A dataset of random images.

    Args:
        train, validation, test: rows of each of the splits' files; there is no test split without.
        size: pixels of a side; height: where it is another.
        attributes: how many each image has, at random.
    Returns: its manifest, and each split's images in row order, (N, height, size, 3) uint8.
    """
    height = height or size
    folder = Folder.at(path)
    random = np.random.default_rng(0)
    splits, pixels = {}, {}
    image_bytes = height * size * 3
    with mock.patch.object(shards, "ROW_GROUP_BYTES", rows_per_group * image_bytes):
        for split, counts in ((TRAIN, train), (VALIDATION, validation), (TEST, test)):
            if split == TEST and not counts:
                continue
            images = random.integers(0, 256, (sum(counts), height, size, 3), np.uint8)
            files, first = [], 0
            for number, count in enumerate(counts):
                rows = images[first : first + count]
                name = f"{split}-{number:05d}.parquet"
                ids = [f"{split}{row}" for row in range(first, first + count)]
                values = random.integers(-1, 2, (count, attributes))
                files.append(write_shard(folder, name, rows, ids, values))
                first += count
            splits[split], pixels[split] = tuple(files), images
    names = tuple(f"attribute {number}" for number in range(attributes))
    manifest = Manifest(height, size, names, splits, {"kind": "random"}, 0, ())
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
    return PRESETS["dcgan-celeba"].updated(values, "test")


def random_images(count: int, size: int = 32, seed: int = 0) -> torch.Tensor:
    """(count, size, size, 3) uint8."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)


def run_processes(count: int, function: Callable[..., None], *arguments: Any) -> None:
    """Call `function(rank, *arguments)` in `count` new processes that form a gloo group."""
    # They are forked from a process that has imported what takes seconds, and has done nothing yet.
    multiprocessing.set_forkserver_preload(["torch._dynamo", "raygen.training.session"])
    start_processes(
        _in_group,
        (count, free_port(), function, arguments),
        nprocs=count,
        start_method="forkserver",
    )


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


def free_port() -> int:
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


def fails(capsys: pytest.CaptureFixture[str], name: str, *arguments: str | Path) -> str:
    """Run a job that must end with exit code 2 and one line; return the line."""
    capsys.readouterr()
    assert run_script(name, *arguments) == 2
    captured = capsys.readouterr()
    assert len(captured.err.splitlines()) == 1, captured.err
    line = captured.err.strip()
    assert line.startswith("error: ")
    assert "Traceback" not in captured.out
    return line


def small_config(preset: str, **options: Any) -> RunConfig:
    """A run of any preset, a sixteenth as wide and without moving averages."""
    values = {"width": 0.0625, "batch_size": 8, "precision": "fp32", "ema_images": 0} | options
    return PRESETS[preset].updated(values, "test")


def build_any(config: RunConfig) -> Model:
    """The model of a run, on the CPU."""
    model = build_model(config)
    model.to(CPU)
    return model


def build(family: type[Family], config: RunConfig) -> Family:
    """The model of a run of a known family, on the CPU."""
    model = build_any(config)
    assert isinstance(model, family)
    return model


def scaled_images(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Random images, (count, 3, height, width) in [-1, 1]."""
    square = random_images(count, max(height, width), seed)
    return scale_images(square[:, :height, :width].contiguous(), CPU)


def step_of(number: int, images: int = 8, total: int = 1_000) -> Step:
    """A step of a run on one worker, which takes so many images."""
    return Step(number, total, images, number * images)


def sizes(network: nn.Module) -> tuple[int, int]:
    """Trainable parameters, and batch-norm statistics."""
    statistics = [b.numel() for b in network.buffers() if b.is_floating_point()]
    return sum(p.numel() for p in network.parameters()), sum(statistics)


def output_shapes(network: nn.Module, kind: type[nn.Module], inputs: Tensor) -> list[list[int]]:
    """What each layer of a kind makes of inputs, in order: its shape without the batch."""
    shapes: list[list[int]] = []
    for layer in network.modules():
        if isinstance(layer, kind):
            layer.register_forward_hook(lambda _, __, out: shapes.append(list(out.shape[1:])))
    with torch.no_grad():
        network(inputs)
    return shapes


class Moves:
    """Tells which networks of a model have other weights than when it was last asked."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._before = self._weights()

    def _weights(self) -> dict[str, list[Tensor]]:
        networks = self._model.networks
        return {n: [p.detach().clone() for p in networks[n].parameters()] for n in networks}

    def take(self) -> set[str]:
        before, self._before = self._before, self._weights()
        return {
            name
            for name, weights in self._before.items()
            if any(not torch.equal(a, b) for a, b in zip(before[name], weights, strict=True))
        }


class Seen:
    """What a network is called with and what it answers, call by call."""

    def __init__(self, network: nn.Module) -> None:
        self.inputs: list[Tensor] = []
        self.outputs: list[Any] = []
        network.register_forward_hook(self._note)

    def _note(self, _: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        self.inputs.append(inputs[0].detach().clone())
        self.outputs.append(output.detach().clone() if isinstance(output, Tensor) else output)


def cross_entropy(logits: Tensor, target: float) -> float:
    """Of probabilities that logits (N,) stand for, against one target, in double precision."""
    real, fake = logits.double().sigmoid(), (-logits.double()).sigmoid()
    return float(-(target * real.log() + (1 - target) * fake.log()).mean())


def fixed_statistics(model: Model, variance: tuple[float, float]) -> None:
    """Take batch statistics out: batch norm uses its running ones and leaves them alone.

    Args: variance: the range that the running variances are drawn from; the features' own, so
        that they stay of their size.
    """
    random = torch.Generator().manual_seed(0)
    for network in model.networks.values():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.eval()
                # Not the initial (0, 1), with which batch norm would do almost nothing.
                assert module.running_mean is not None
                assert module.running_var is not None
                spread = 0.5 * variance[0] ** 0.5
                module.running_mean.uniform_(-spread, spread, generator=random)
                module.running_var.uniform_(*variance, generator=random)


@contextlib.contextmanager
def in_double_precision(model: Model) -> Iterator[None]:
    """Have a model compute in float64, whose rounding no tolerance of a test's comes near.

    In float32, how far sums in another order are apart depends on the processor, and so does where
    a ReLU or a maximum lies; images and codes are turned into float64 where they enter.
    """
    for network in model.networks.values():
        network.double()
    for name in ("noise", "fixed_noise"):
        drawn = getattr(model, name)

        def exact(*given: Any, drawn: Any = drawn, **named: Any) -> Tensor:
            numbers: Tensor = drawn(*given, **named)
            return numbers.double()

        setattr(model, name, exact)
    # What makes results single, for bfloat16's sake.
    with mock.patch.object(Tensor, "float", Tensor.double):
        yield


def train_share(
    rank: int,
    folder: str,
    world_size: int,
    config: RunConfig,
    steps: int,
    variance: tuple[float, float],
) -> None:
    """Train a model on this worker's share of random images, and save what came of it."""
    model = build_any(config)
    fixed_statistics(model, variance)
    image, count = config.image, config.step_images
    share = slice(rank * count // world_size, (rank + 1) * count // world_size)
    results: dict[str, Tensor] = {}
    with in_double_precision(model):
        if world_size > 1:
            model.distribute(sync_bn=False)
            wrapped = model.parallel.values()
            assert all(isinstance(network, DistributedDataParallel) for network in wrapped)
        for k in range(steps):
            real = scaled_images(count, image.height, image.width, seed=k)[share].double()
            metrics = model.update(
                batch_of(real), Step(k, steps, count, k * count, rank, world_size)
            )
            results |= {f"step{k}/{name}": value.double() for name, value in metrics.items()}
    for name, network in model.networks.items():
        results |= {f"{name}/{key}": value for key, value in network.state_dict().items()}
    save_file({k: v.contiguous() for k, v in results.items()}, f"{folder}/{world_size}-{rank}")


def check_two_workers_equal_one(
    folder: Path, config: RunConfig, steps: int, variance: tuple[float, float]
) -> set[str]:
    """Two workers with half the batch each learn and report what one does with all of it.

    Returns: the names of the metrics that were compared.
    """
    train_share(0, str(folder), 1, config, steps, variance)
    run_processes(2, train_share, str(folder), 2, config, steps, variance)
    alone = load_file(folder / "1-0")
    first, second = load_file(folder / "2-0"), load_file(folder / "2-1")
    assert alone.keys() == first.keys() == second.keys()
    initial = build_model(config).networks
    compared = set()
    for name, value in alone.items():
        network, _, key = name.partition("/")
        if network not in initial:
            together = (first[name] + second[name]) / 2
            torch.testing.assert_close(together, value, rtol=1e-9, atol=1e-9, msg=name)
            compared.add(key)
        elif value.is_floating_point():
            assert torch.equal(first[name], second[name]), name
            moved = (value - initial[network].state_dict()[key]).norm()
            difference = (first[name] - value).norm()
            assert difference <= 1e-6 * moved + 1e-9, (name, difference, moved)
    return compared


def save_run(path: Path, preset: str, steps: int = 2, **options: Any) -> Model:
    """A run's folder with a checkpoint of a model that has taken a few steps."""
    config = small_config(preset, ema_images=1000, **options)
    model = build_any(config)
    image = PRESETS[preset].image
    for k in range(steps):
        real = scaled_images(config.step_images, image.height, image.width, seed=k)
        model.update(batch_of(real), step_of(k, config.step_images))
    run = RunFolder(Folder.at(path))
    run.folder.write_json(CONFIG, config.to_json())
    about = {"config": config.to_json()}
    score = Score(float(steps), "", 0)
    save_checkpoint(run.checkpoints, model, Position(steps), about, 3, score)
    return model


def save_checkpoint(
    folder: Folder,
    model: Model,
    position: Position,
    about: dict[str, Any],
    keep: int = 3,
    score: Score | None = None,
    metrics: dict[str, float] | None = None,
) -> Folder:
    """Write a checkpoint of a model as it is now; see `checkpoint.write`."""
    snapshot = checkpoint.Snapshot.of(model)
    return checkpoint.write(folder, snapshot, position, about, keep, score, metrics)


def write_checkpoint(
    run: Folder, step: int, metrics: dict[str, float] | None = None, score: float | None = None
) -> None:
    """A checkpoint without networks, after steps of 8 images, which says what others say."""
    state = {
        "format_version": 1,
        "position": {"global_step": step, "images_seen": 8 * step, "seconds": 1.0, "restores": 0},
        "about": {},
        "score": score,
        "score_metric": "quality/swd",
        "score_images": 16,
        "metrics": metrics or {},
        "optimizers": {},
        "files": {},
    }
    run.join("checkpoints", f"step-{step:08d}").write_json("state.json", state)


def descendants(process: int) -> list[int]:
    """A process and all that it has started."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int(
                (folder / "stat").read_text().rpartition(")")[2].split()[1]
            )
        except OSError:
            continue
    found = [process]
    for parent in found:
        found += [child for child, of in parents.items() if of == parent]
    return found


def listeners(processes: list[int]) -> dict[tuple[str, int], str]:
    """Where processes listen: (IP address, port), and the name of the process."""
    sockets = {}
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENING:
                address, port = fields[1].split(":")
                # Words of four bytes, each in the machine's order.
                words = [bytes.fromhex(address[k : k + 8])[::-1] for k in range(0, len(address), 8)]
                ip = socket.inet_ntop(family, b"".join(words))
                sockets[f"socket:[{fields[9]}]"] = (ip, int(port, 16))
    found = {}
    for process in processes:
        try:
            name = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            for file in Path(f"/proc/{process}/fd").iterdir():
                place = sockets.get(os.readlink(file))
                if place:
                    found[place] = name.strip()
        except OSError:
            continue
    return found


def is_loopback(ip: str) -> bool:
    return ip == "::1" or ip.removeprefix("::ffff:").startswith("127.")


def batch_of(images: Tensor, attributes: Tensor | None = None) -> Batch:
    """A batch of images (N, 3, H, W), which nothing, or these attributes, are known of."""
    count = len(images)
    known = torch.zeros(count, 0, dtype=torch.int8) if attributes is None else attributes
    return Batch(images, known, torch.arange(count))


ROOT = Path(__file__).parents[1]
JOB_SECONDS = 600
"""Only for the case that a job hangs."""


class Job:
    """A job as a process of its own, as a terminal would start it."""

    def __init__(self, address: str, log: Path, name: str, *arguments: str | Path) -> None:
        self.log = log
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "jobs" / f"{name}.py"), *map(str, arguments)],
            stdout=log.open("w"),
            stderr=subprocess.STDOUT,
            env=os.environ | {"RAY_ADDRESS": address, "PYTHONPATH": str(ROOT)},
            # A process group of its own, so that a signal can reach all of it, like Ctrl-C.
            start_new_session=True,
        )

    @property
    def output(self) -> str:
        return self.log.read_text()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + JOB_SECONDS
        while not condition():
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, self.output
            time.sleep(0.1)

    def end(self) -> int:
        """Returns: the exit code."""
        code = self.process.wait(JOB_SECONDS)
        assert "Traceback" not in self.output
        return code


@contextlib.contextmanager
def job(address: str, log: Path, name: str, *arguments: str | Path) -> Iterator[Job]:
    started = Job(address, log, name, *arguments)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            os.killpg(started.process.pid, signal.SIGKILL)
            started.process.wait()
