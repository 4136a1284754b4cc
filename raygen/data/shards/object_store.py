"""A dataset's rows in Ray's object store, where all processes of a node share one copy."""

from collections.abc import Callable
from dataclasses import dataclass

import ray

from raygen.cluster import connection as cluster
from raygen.core.storage import Folder
from raygen.data.shards.manifest import Manifest
from raygen.data.shards.reader import RowGroup, ShardReader

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
) -> StoredImages | None:
    """Read a dataset into the object store; None if it is too large.

    Args: progress: called with the numbers of images done and in total.
    Raises: ShardError if a file is missing or damaged.
    """
    total = sum(manifest.rows(split) for split in manifest.splits)
    if total * manifest.image_bytes > STORE_SHARE * cluster.smallest_store():
        return None
    groups: dict[str, list[ray.ObjectRef[RowGroup]]] = {}
    done = 0
    for split, files in manifest.splits.items():
        reader = ShardReader(folder, manifest, split)
        groups[split] = []
        for number, rows in enumerate(rows for file in files for rows in file.row_groups):
            groups[split].append(ray.put(reader.group(number)))
            done += rows
            if progress:
                progress(done, total)
    return StoredImages(groups)
