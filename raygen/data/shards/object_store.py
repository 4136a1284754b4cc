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
    """Each row group of each split, as references to the object store.

    A node that lacks a row group fetches it when it is first used there, and keeps it for all.
    """

    groups: dict[str, list["ray.ObjectRef[RowGroup]"]]

    def group(self, split: str, number: int) -> RowGroup:
        """A row group, in memory that all processes of the node share: read only."""
        found: RowGroup = ray.get(self.groups[split][number])
        return found


def store_images(
    folder: Folder, manifest: Manifest, progress: Callable[[int, int], None] | None = None
) -> StoredImages | None:
    """Read a dataset into the object store, unless it is too large for it.

    Args: progress: called with images done and images in total.
    Raises: ShardError if a file is missing or damaged.
    """
    total = sum(manifest.rows(split) for split in manifest.splits)
    stores = [node.get("object_store_memory", 0) for node in cluster.nodes()]
    if total * manifest.image_bytes > STORE_SHARE * min(stores):
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
