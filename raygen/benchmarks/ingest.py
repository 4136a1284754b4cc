"""Measures how fast images are prepared and streamed, compared with plain code of users' own."""

import io
import json
import multiprocessing
import operator
import os
import resource
import shutil
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import ray
import torch
from PIL import Image
from ray.data import DataIterator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader, Dataset

from raygen.benchmarks.figures import Figure, local_ray, run_job_script, say, seconds_for
from raygen.benchmarks.options import IngestBenchOptions
from raygen.cluster import connection as cluster
from raygen.config.run import PRESETS, RAY_DATA, ImageFormat, Reader
from raygen.core.errors import RunError
from raygen.core.memory import keep_memory
from raygen.core.storage import Folder
from raygen.data.images import fit_image
from raygen.data.prepare.parts import Target, make_part, plan_parts
from raygen.data.prepare.prepare import delete_dataset, prepare
from raygen.data.shards.manifest import Manifest
from raygen.data.shards.reader import ShardReader, Stored
from raygen.data.shards.rows import RowGroup
from raygen.data.sources.drawn_faces import draw_face
from raygen.data.sources.image_files import ImageFiles, folder
from raygen.data.splits import TRAIN
from raygen.data.stream.ray_data import RayDataReader, Reading, ReadTasks
from raygen.data.stream.stream import ImageStream, ReadAhead, own_threads

EPOCHS = 5
WORKERS = 2
TRAINING = "dcgan-celeba"
FACES, SPRITES, SMALL = ImageFormat(218, 178), ImageFormat(64, 64), ImageFormat(32, 32, 150)
BATCHES = {FACES.size: 32, SPRITES.size: 128}
"""Batch sizes of the presets that train on images of each size."""
DELAY_SECONDS, DELAYED_IMAGES = 0.1, 40_000
"""A slow storage's time to answer, and about how many images are read from it."""
STORE_RATIO = 10
"""Ratio of the dataset's size to that of the object store while memory is measured."""
SMALLEST_STORE = 80 * 2**20
"""Least size of the object store that Ray accepts, in bytes."""


def ingest(options: IngestBenchOptions, place: Path, jobs: Path) -> list[Figure]:
    """Measure all figures. Args: place: a folder for data and runs; jobs: the scripts' folder."""
    jpegs, pngs = draw_sources(options, place)
    figures = []
    datasets = {image.size: Folder.at(place / image.size) for image in (FACES, SPRITES, SMALL)}
    for data in datasets.values():
        delete_dataset(data)
    with local_ray(WORKERS):
        figures.append(measure_preparing(options, jpegs, datasets[SMALL.size]))
        for source, image in ((jpegs, FACES), (pngs, SPRITES)):
            say(f"preparing {image.size}")
            prepare(source, [Target(datasets[image.size], image)])
        step, waiting = measure_training(options, datasets[SMALL.size], place, jobs)
        for source, image in ((pngs, SPRITES), (jpegs, FACES)):
            data = datasets[image.size]
            figures += measure_stream(options, source, data, image, step)
        figures.append(measure_tasks(datasets[SPRITES.size]))
    figures.append(
        Figure(f"{TRAINING}: share of its time spent waiting for data", waiting, 0.01, False)
    )
    figures += measure_memory(datasets[FACES.size], place)
    return figures


def draw_sources(options: IngestBenchOptions, place: Path) -> tuple[ImageFiles, ImageFiles]:
    """Open the sources of JPEG faces (178 x 218) and PNG faces (64 x 64), or draw them first."""
    sources = []
    for kind, given in (("jpg", options.jpeg_images), ("png", options.png_images)):
        path = Path(given or place / f"{options.images}-{kind}")
        if not given and not path.exists():
            say(f"drawing {options.images:,} images to {path}")
            begun = path.with_suffix(".begun")
            shutil.rmtree(begun, ignore_errors=True)
            begun.mkdir()
            # Write a few different faces under many names, because drawing is slow.
            encoded = []
            for number in range(min(options.images, 500)):
                image = draw_face(0, number)[0]
                if kind == "png":
                    image = Image.fromarray(fit_image(image, ImageFormat(64, 64, 150)))
                file = io.BytesIO()
                image.save(file, "JPEG" if kind == "jpg" else "PNG", quality=92)
                encoded.append(file.getvalue())
            for number in range(options.images):
                (begun / f"{number:06d}.{kind}").write_bytes(encoded[number % len(encoded)])
            begun.rename(path)
        sources.append(folder(str(path)))
    return sources[0], sources[1]


def measure_preparing(options: IngestBenchOptions, source: ImageFiles, data: Folder) -> Figure:
    """Compare preparation on two CPUs with that in one process. Both write the same shards.

    Raises: RunError if the shards differ.
    """
    ratios = []
    alone = Target(data.parent.join("alone"), SMALL)
    parts = plan_parts(source.splits(), [alone.image_bytes], 4)
    prepare(source, [Target(data, SMALL)])
    for repeat in range(options.repeats):
        say(f"measuring preparation, {repeat + 1} of {options.repeats}")
        alone.folder.delete()
        delete_dataset(data)

        def loop() -> None:
            for part in parts:
                make_part(source, source.ids, [alone], part)

        single = seconds_for(loop)
        together = seconds_for(lambda: prepare(source, [Target(data, SMALL)]))
        if shards_of(alone.folder) != shards_of(data):
            raise RunError("one process and two wrote different shards")
        ratios.append(single / together)
    alone.folder.delete()
    note = f"{len(source.ids) / together:,.0f} images/s"
    return Figure(
        "prepare 218x178 JPEG to 32x32, 2 CPUs : one process",
        statistics.median(ratios),
        1.7,
        True,
        note,
    )


def shards_of(place: Folder) -> dict[str, bytes]:
    return {name: place.read_bytes(name) for name in place.names() if name.endswith(".parquet")}


class FileImages(Dataset[torch.Tensor]):
    """A dataset as a user would write it: image files, decoded one by one."""

    def __init__(self, paths: list[str]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(np.array(Image.open(self._paths[index]).convert("RGB")))


def load_files(paths: list[str], batch: int, epochs: int) -> float:
    """Measure a torch DataLoader over image files, in images/s, after one epoch of warm-up."""
    loader = DataLoader(
        FileImages(paths), batch, shuffle=True, num_workers=WORKERS, persistent_workers=True
    )
    count = sum(len(images) for images in loader)
    began = time.monotonic()
    count = sum(len(images) for _ in range(epochs) for images in loader)
    return count / (time.monotonic() - began)


@dataclass(frozen=True)
class Consumed:
    """What one worker received.

    Attributes:
        began: time of the request for the first batch, in seconds.
        arrivals: time at which each batch arrived, in seconds.
        uses: (rows,) how often each image arrived.
        cpu_seconds: CPU time of the process between the first and the last batch.
        peak_bytes: growth of the process's peak memory.
    """

    began: float
    arrivals: list[float]
    uses: np.ndarray
    cpu_seconds: float
    peak_bytes: int


def consume(stream: ImageStream, steps: int, rank: int, shard: DataIterator | None) -> Consumed:
    """Take one worker's batches as fast as possible.

    Args: shard: what Ray Data reads for this worker; None: it reads in threads of its own.
    """
    # As training workers do.
    keep_memory()
    uses = np.zeros(stream.plan.rows, np.int64)
    read: ReadAhead = own_threads
    if shard:
        tasks = ReadTasks(cluster.smallest_store())
        read = RayDataReader(tasks, lambda: shard)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    arrivals, began, cpu = [], time.monotonic(), 0.0
    for images in stream.batches(0, steps, rank, WORKERS, read):
        arrivals.append(time.monotonic())
        cpu = cpu or time.process_time()
        np.add.at(uses, images.rows, 1)
    spent = time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return Consumed(began, arrivals, uses, spent, peak * 1024)


def consume_together(
    data: Folder,
    batch: int,
    epochs: int,
    reader: Reader,
    tasks: int = 0,
    stored: Stored | None = None,
) -> list[Consumed]:
    """Run `consume` on two workers, each in a new process, for whole epochs.

    Args: tasks: how many of Ray Data's tasks read at once; 0: the default.
    Raises: RunError if an image arrived too often or too rarely.
    """
    manifest = Manifest.load(data)
    stream = ImageStream(data, manifest, TRAIN, batch, 0, stored)
    steps = -(-epochs * manifest.rows(TRAIN) // batch)
    shards: list[DataIterator | None] = [None] * WORKERS
    if reader == RAY_DATA:
        read = ReadTasks(cluster.smallest_store(), at_once=tasks)
        shards = [*Reading(stream, range(WORKERS), WORKERS, 0, steps, read).shards()]
    task = ray.remote(num_cpus=0.5, max_calls=1)(consume)
    ranks = [task.remote(stream, steps, rank, shard) for rank, shard in enumerate(shards)]
    results: list[Consumed] = ray.get(ranks)
    uses = sum(result.uses for result in results)
    most = -(-steps * batch // manifest.rows(TRAIN))
    if uses.min() < epochs or uses.max() > most:  # type: ignore[union-attr]
        raise RunError(f"{data.uri}: an image was seen too often or too rarely")
    return results


def measure_stream(
    options: IngestBenchOptions,
    source: ImageFiles,
    data: Folder,
    image: ImageFormat,
    step: float,
) -> list[Figure]:
    """Compare the stream with a DataLoader, and its longest pause with a training step.

    Args: step: duration of a training step, in seconds.
    """
    manifest, batch = Manifest.load(data), BATCHES[image.size]
    paths = [os.path.join(source.files.place.path, path) for path in source.files.paths]
    train = [
        paths[k] for k in source.order[source.splits()[TRAIN].start : source.splits()[TRAIN].stop]
    ]
    files: list[float] = []
    results: dict[Reader, list[list[Consumed]]] = {RAY_DATA: [], "direct": []}
    for repeat in range(options.repeats):
        say(f"measuring the stream of {manifest.size}, {repeat + 1} of {options.repeats}")
        # Use a new process, because the DataLoader forks, which is unsafe where Ray runs.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            files.append(pool.submit(load_files, train, batch, EPOCHS).result())
        for reader, consumed in results.items():
            consumed.append(consume_together(data, batch, EPOCHS, reader))
    figures = []
    for reader, bar in ((RAY_DATA, 2 if image == SPRITES else 1.5), ("direct", 4)):
        # As for the files, after a warm-up: from the first batch on.
        rates = [images_per_second(consumed) for consumed in results[reader]]
        figures.append(
            Figure(
                f"stream of {manifest.size}, {reader} : DataLoader over files",
                statistics.median(map(operator.truediv, rates, files)),
                bar,
                True,
                f"{statistics.median(rates):,.0f} images/s",
            )
        )
    costs = [[cpu_per_image(c) for c in consumed] for consumed in results.values()]
    firsts = [[first_batch(c) for c in consumed] for consumed in results.values()]
    pauses = [
        float(np.diff(one.arrivals).max()) for consumed in results[RAY_DATA] for one in consumed
    ]
    return [
        *figures,
        Figure(
            f"CPU of a worker per image of {manifest.size}, {RAY_DATA} : direct",
            statistics.median(map(operator.truediv, *costs)),
            1.5,
            False,
            " : ".join(f"{statistics.median(cost) * 1e6:.1f} us" for cost in costs),
        ),
        Figure(
            f"first batch of {manifest.size}, {RAY_DATA} : direct + 3 s",
            statistics.median(one / (other + 3) for one, other in zip(*firsts, strict=True)),
            1,
            False,
            " : ".join(f"{statistics.median(first):.1f} s" for first in firsts),
        ),
        Figure(
            f"longest pause in {EPOCHS} epochs of {manifest.size} : step of {TRAINING}",
            max(pauses) / step,
            1,
            False,
            f"{max(pauses) * 1000:.0f} ms : {step * 1000:.0f} ms",
        ),
    ]


@dataclass(frozen=True)
class Delayed:
    """A dataset on a storage that takes long to answer, as object stores do; it is `Stored`."""

    data: Folder
    manifest: Manifest

    def group(self, split: str, number: int) -> RowGroup:
        time.sleep(DELAY_SECONDS)
        return ShardReader(self.data, self.manifest, split).group(number)


def measure_tasks(data: Folder) -> Figure:
    """Compare four tasks with one, on a storage where waiting is what takes long."""
    say("measuring tasks that read from a slow storage")
    manifest, batch = Manifest.load(data), BATCHES[SPRITES.size]
    epochs = max(1, round(DELAYED_IMAGES / manifest.rows(TRAIN)))
    delayed = Delayed(data, manifest)
    rates = [
        images_per_second(consume_together(data, batch, epochs, RAY_DATA, tasks, delayed))
        for tasks in (4, 1)
    ]
    return Figure(
        f"stream of {manifest.size} from a slow storage, 4 tasks : 1",
        rates[0] / rates[1],
        3,
        True,
        " : ".join(f"{rate:,.0f} images/s" for rate in rates),
    )


def cpu_per_image(results: list[Consumed]) -> float:
    """CPU time of the workers for each image that they took, in seconds."""
    return sum(one.cpu_seconds for one in results) / sum(int(one.uses.sum()) for one in results)


def first_batch(results: list[Consumed]) -> float:
    """Time until every worker had its first batch, in seconds."""
    return max(one.arrivals[0] - one.began for one in results)


def images_per_second(results: list[Consumed]) -> float:
    """Throughput of all workers together, from the first batch on."""
    began = min(result.arrivals[0] for result in results)
    ended = max(result.arrivals[-1] for result in results)
    return float(sum(result.uses.sum() for result in results) / (ended - began))


def measure_training(
    options: IngestBenchOptions, data: Folder, place: Path, jobs: Path
) -> tuple[float, float]:
    """Train a run. Returns: its median step duration in seconds, and its data_wait_fraction."""
    say(f"measuring {options.steps:,} steps of {TRAINING}")
    batch = PRESETS[TRAINING].batch_size
    arguments = ["--data", data.uri, "--storage", str(place), "--run-name", "run", "--restart"]
    arguments += ["--steps", str(options.steps), "--log-images", str(batch)]
    run_job_script(jobs / "train.py", TRAINING, *arguments)
    summary = json.loads((place / "run/summary.json").read_text())
    events = EventAccumulator(str(place / "run"))
    events.Reload()
    rates = [event.value for event in events.Scalars("throughput/images_per_second")]
    return batch / statistics.median(rates), summary["data_wait_fraction"]


def measure_memory(data: Folder, place: Path) -> list[Figure]:
    """Measure memory over an epoch by each reader of a dataset larger than the object store."""
    manifest = Manifest.load(data)
    size = manifest.rows(TRAIN) * manifest.image_bytes
    store = max(SMALLEST_STORE, size // STORE_RATIO)
    spilled = place / "spilled"
    shutil.rmtree(spilled, ignore_errors=True)
    spilled.mkdir()
    figures = []
    readers: tuple[Reader, ...] = (RAY_DATA, "direct")
    with local_ray(WORKERS, object_store_memory=store, object_spilling_directory=str(spilled)):
        for reader in readers:
            times = f"dataset of {size / store:.1f} x store, {reader}"
            say(f"measuring memory: {times}")
            with _largest_size(spilled) as largest:
                results = consume_together(data, BATCHES[FACES.size], 1, reader)
            grown = max(result.peak_bytes for result in results)
            figures += [
                Figure(
                    f"memory of a worker : {times}",
                    grown / size,
                    0.25,
                    False,
                    f"{grown / 1e6:,.0f} MB : {size / 1e6:,.0f} MB",
                ),
                Figure(
                    f"most bytes spilled to disk : {times}",
                    largest[0] / size,
                    0.1,
                    False,
                    f"{largest[0] / 1e6:,.0f} MB",
                ),
            ]
    shutil.rmtree(spilled, ignore_errors=True)
    return figures


@contextmanager
def _largest_size(folder: Path) -> Iterator[list[int]]:
    """Watch a folder. Yields: a list of one: the most bytes that its files had together so far."""
    largest, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.05):
            largest[0] = max(largest[0], sum(_size(file) for file in folder.rglob("*")))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield largest
    finally:
        stop.set()
        watcher.join()


def _size(file: Path) -> int:
    try:
        return file.stat().st_size if file.is_file() else 0
    except FileNotFoundError:
        return 0
