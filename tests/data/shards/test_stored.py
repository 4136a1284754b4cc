"""A dataset in the object store: the same images as in its files, and one copy for all."""

from pathlib import Path
from unittest import mock

import numpy as np
from helpers import write_dataset

from raygen.core.storage import Folder
from raygen.data.shards.manifest import Manifest
from raygen.data.shards.object_store import StoredImages, store_images
from raygen.data.shards.reader import HeldOut, ShardReader
from raygen.data.splits import TRAIN, VALIDATION
from raygen.data.stream.stream import ImageStream


def test_all_processes_read_the_same_memory(ray_session: str, tmp_path: Path) -> None:
    import ray

    manifest, pixels = write_dataset(tmp_path, (7, 9), (6,), size=64, attributes=2, test=(3,))
    folder = Folder.at(tmp_path)
    seen: list[tuple[int, int]] = []
    stored, _ = store_images(folder, manifest, lambda *progress: seen.append(progress))
    assert stored
    # Trials are not to see the test images.
    assert seen[-1] == (22, 22)
    assert set(stored.groups) == {TRAIN, VALIDATION}
    with mock.patch.object(ShardReader, "_read", side_effect=AssertionError("read a file")):
        held_out = HeldOut.of(folder, manifest, VALIDATION, 5, stored)
        assert np.array_equal(held_out.read(0, 5).images, pixels[VALIDATION][:5])
        stream = ImageStream(folder, manifest, TRAIN, 4, 3, stored=stored)
        stored_batches = list(stream.batches(0, 6))
    here = np.concatenate([batch.images for batch in stored_batches])
    from_files = list(ImageStream(folder, manifest, TRAIN, 4, 3).batches(0, 6))
    assert np.array_equal(here, np.concatenate([batch.images for batch in from_files]))
    for mine, other in zip(stored_batches, from_files, strict=True):
        assert mine.attributes.shape == (4, 2)
        assert np.array_equal(mine.attributes, other.attributes)

    def take(place: str, stored: StoredImages) -> tuple[np.ndarray, list[int], bool, bool]:
        """In another process: the stream's images, and of which size and kind row groups are."""
        folder = Folder.at(place)
        stream = ImageStream(folder, Manifest.load(folder), TRAIN, 4, 3, stored=stored)
        images = np.concatenate([batch.images for batch in stream.batches(0, 6)])
        groups = [stored.group(TRAIN, number) for number in range(len(stored.groups[TRAIN]))]
        writeable = any(group.images.flags.writeable for group in groups)
        owned = any(group.images.flags.owndata for group in groups)
        return images, [len(group.images) for group in groups], writeable, owned

    results = ray.get([ray.remote(take).remote(str(tmp_path), stored) for _ in range(2)])
    for images, sizes, writeable, owned in results:
        assert np.array_equal(images, here)
        assert sizes == [5, 2, 5, 4]
        # Views of the store's own memory: no process has a copy.
        assert not writeable
        assert not owned


def test_a_dataset_that_is_too_large_stays_in_its_files(ray_session: str, tmp_path: Path) -> None:
    manifest, _ = write_dataset(tmp_path, (7,), (3,), size=64)
    node = {"Alive": True, "Resources": {"object_store_memory": 1.6 * 10 * 64 * 64 * 3}}
    with mock.patch("ray.nodes", return_value=[node]):
        assert store_images(Folder.at(tmp_path), manifest) == (None, manifest)
    node["Resources"] = {"object_store_memory": 1.7 * 10 * 64 * 64 * 3}
    with mock.patch("ray.nodes", return_value=[node]):
        assert store_images(Folder.at(tmp_path), manifest)[0] is not None
