"""A dataset's own extractor: read from beside the dataset, or trained there once."""

import time
from collections.abc import Callable

import numpy as np
import ray
from ray.exceptions import RayTaskError

from raygen.cluster import connection as cluster
from raygen.core.errors import RunError, one_line
from raygen.core.progress import ProgressLine, duration
from raygen.core.storage import Folder
from raygen.data.shards.manifest import Manifest
from raygen.data.shards.reader import ShardReader
from raygen.data.splits import TRAIN, VALIDATION
from raygen.evaluation import domain
from raygen.evaluation.domain import Domain
from raygen.measuring.dispatch import Pool, cause_of, task
from raygen.measuring.tasks import device

SHOW_SECONDS = 1.0
ROWS_AT_ONCE = 250
"""Images that are in memory at their full size."""


def domain_extractor(
    folder: Folder,
    manifest: Manifest,
    line: ProgressLine,
    gpus: float,
    note: Callable[[str], None],
    pool: Pool | None = None,
) -> Domain | None:
    """The dataset's own extractor, which is trained in a Ray task if it is not there yet.

    What is trained is kept beside the dataset, where that can be written to.

    Args:
        folder, manifest: of the dataset.
        line: shows that the extractor is being trained.
        gpus: GPUs, or the share of one, that its training takes.
        note: called with a line if the extractor cannot be kept.
        pool: where it is trained; None: in a task that takes all CPUs of a node, if none is taken.
    Returns: None if the dataset has no attributes, or none that can be learnt.
    Raises: UserError if the extractor that is there is damaged, or the dataset is; RunError.
    """
    if not manifest.attributes or manifest.originals:
        return None
    name = domain.file_name(manifest.fingerprint, manifest.height, manifest.width)
    if found := domain.load(folder, name):
        return found
    began_at = time.monotonic()
    if pool:
        training = pool.submit(_train, folder, manifest)
    else:
        training = task(_train, gpus, _cores()).remote(folder, manifest)
    while not ray.wait([training], timeout=SHOW_SECONDS)[0]:
        spent = duration(time.monotonic() - began_at)
        line.show(f"training the extractor of the dataset's attributes, {spent} so far")
    try:
        trained: Domain | None = ray.get(training)
    except RayTaskError as error:
        raise cause_of(error) from error
    if trained:
        try:
            domain.save(trained, folder, name)
        except (OSError, RunError) as error:
            note(f"the extractor is not kept in {folder.uri}: {one_line(error)}")
    return trained


def _cores() -> int:
    """CPUs for the training: all of the largest node's while nobody has reserved any, else one.

    A task that asks for more than some node has left would wait for others to end.
    """
    nodes = cluster.nodes()
    if cluster.free("CPU") < cluster.total(nodes, "CPU"):
        return 1
    return max(1, int(max((node.get("CPU", 0) for node in nodes), default=1)))


def _train(folder: Folder, manifest: Manifest) -> Domain | None:
    def read(split: str, most: int) -> tuple[np.ndarray, np.ndarray]:
        reader = ShardReader(folder, manifest, split)
        total = manifest.rows(split)
        rows = np.sort(np.random.default_rng(0).permutation(total)[:most])
        found = [reader.read(part) for part in np.array_split(rows, -(-len(rows) // ROWS_AT_ONCE))]
        images = np.concatenate([domain.reduced(part.images) for part in found])
        return images, np.concatenate([part.attributes for part in found])

    images, values = read(TRAIN, domain.MOST_IMAGES)
    held_out = read(VALIDATION, domain.MOST_IMAGES)
    return domain.train(images, values, held_out, manifest.attributes, device=device())
