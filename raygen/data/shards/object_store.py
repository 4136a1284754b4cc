"""A dataset's rows in Ray's object store, where all processes of a node share one copy."""

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import ray

from raygen.cluster import connection as cluster
from raygen.core.processors import cores
from raygen.core.storage import Folder
from raygen.data.shards.manifest import ROW_GROUP_BYTES, Manifest
from raygen.data.shards.reader import ShardReader
from raygen.data.shards.rows import RowGroup
from raygen.data.splits import READ_IN_TRAINING

STORE_SHARE = 0.6
"""Share of the smallest node's object store that a dataset may fill."""


@dataclass(frozen=True)
class StoredImages:
    """References to each split's row groups in the object store.

    A node fetches a row group on first use, and keeps it for all its processes.
    """

    groups: dict[str, list["ray.ObjectRef[RowGroup]"]]

    def group(self, split: str, number: int) -> RowGroup:
        """A row group, in read-only memory that all processes of the node share."""
        found: RowGroup = ray.get(self.groups[split][number])
        return found


def store_images(
    folder: Folder, manifest: Manifest, progress: Callable[[int, int], None] | None = None
) -> tuple[StoredImages | None, Manifest]:
    """Read a dataset's training and validation images into the object store.

    Args: progress: called with the numbers of images done and in total.
    Returns: the copy, None if the dataset is too large; and the manifest that tells its row
        groups, which are larger than those of originals.
    Raises: ShardError if a file is missing or damaged.
    """
    total = sum(manifest.rows(split) for split in READ_IN_TRAINING)
    if total * manifest.image_bytes > STORE_SHARE * cluster.smallest_store():
        return None, manifest
    stored = _in_larger_groups(manifest) if manifest.originals else manifest
    groups: dict[str, list[ray.ObjectRef[RowGroup]]] = {}
    done = 0
    # Decoding runs in parallel; shards are read faster than they are copied.
    with ThreadPoolExecutor(cores() if manifest.originals else 1, "store") as pool:
        for split in READ_IN_TRAINING:
            files = stored.splits.get(split, ())
            reader = ShardReader(folder, manifest, split)
            counts = [rows for file in files for rows in file.row_groups]
            starts = [0, *itertools.accumulate(counts)]

            def store(
                number: int, reader: ShardReader = reader, starts: list[int] = starts
            ) -> "ray.ObjectRef[RowGroup]":
                if not manifest.originals:
                    return ray.put(reader.group(number))
                rows = reader.read(np.arange(starts[number], starts[number + 1]))
                return ray.put(RowGroup(rows.images.reshape(len(rows.rows), -1), rows.attributes))

            groups[split] = []
            for rows, reference in zip(counts, pool.map(store, range(len(counts))), strict=True):
                groups[split].append(reference)
                done += rows
                if progress:
                    progress(done, total)
    return StoredImages(groups), stored


def _in_larger_groups(manifest: Manifest) -> Manifest:
    """The manifest of originals, those to store cut into row groups of the size of shards'."""
    most = max(1, ROW_GROUP_BYTES // manifest.image_bytes)
    splits = dict(manifest.splits)
    for split in READ_IN_TRAINING:
        splits[split] = tuple(
            replace(
                file,
                row_groups=tuple(min(most, file.rows - k) for k in range(0, file.rows, most)),
            )
            for file in manifest.splits.get(split, ())
        )
    return replace(manifest, splits=splits)
