"""The dataset of a run: a prepared one, or the built-in faces, which are drawn on first use."""

from dataclasses import replace

from raygen.cluster.lease import only_owner
from raygen.config.run import DRAWN, RunConfig
from raygen.core import marker
from raygen.core.errors import ShardError, Unreadable
from raygen.core.progress import ProgressLine, describe
from raygen.core.storage import Folder
from raygen.data.inspect import verify
from raygen.data.originals import holds_originals, open_originals
from raygen.data.prepare.parts import Target
from raygen.data.prepare.prepare import delete_dataset, write_datasets
from raygen.data.shards.manifest import MANIFEST, Manifest
from raygen.data.sources.drawn import DrawnFaces, find_drawn, has_test, other_folder
from raygen.data.splits import READ_IN_TRAINING


def open_dataset(
    config: RunConfig, storage: str, begun: str = ""
) -> tuple[Folder, Manifest | None]:
    """Find a run's dataset and its manifest; for drawn faces the manifest is None.

    An archive or a folder of images is a dataset too, of images that are decoded on the way.

    Args:
        storage: folder or URI of all runs.
        begun: fingerprint of the dataset that a run or sweep to resume was begun with. If it was
            begun by a version that made no test split of drawn faces and originals, they have none
            now either.
    Raises: UserError if it is not a dataset, or its images have another size than the run's.
    """
    if config.data == DRAWN:
        faces = config.image.of_faces, config.drawn_count
        return find_drawn(Folder.at(storage), *faces, begun), None
    data = Folder.at(config.data)
    if holds_originals(data):
        return data, open_originals(config.data, config.image, begun)
    manifest = Manifest.load(data)
    config.check_images(manifest.height, manifest.width)
    return data, manifest


def place_of(data: Folder, manifest: Manifest) -> Folder:
    """What of a dataset all machines have to see: its manifest, or where the originals are."""
    return data if manifest.originals else data.join(MANIFEST)


def draw_as_begun(
    config: RunConfig, data: Folder, line: ProgressLine, begun: str
) -> tuple[Folder, Manifest]:
    """Draw the faces of a run as `draw_dataset` does, and those that it was begun with.

    Args: data: the folder that `open_dataset` found; begun: see there.
    Returns: the folder of the faces, and their manifest.
    """
    manifest = draw_dataset(config, data, line)
    if begun and manifest.fingerprint != begun:
        # If the run's faces were deleted, only drawing them shows whether they had a test split.
        other = other_folder(data)
        drawn = draw_dataset(config, other, line)
        if drawn.fingerprint == begun:
            return other, drawn
    return data, manifest


def draw_dataset(config: RunConfig, data: Folder, line: ProgressLine) -> Manifest:
    """Draw the faces of a run unless they exist already. Needs Ray.

    Existing faces are checked, and if they are damaged they are deleted and drawn again. Faces of
    versions that made no test split are kept for the runs that were begun with them.
    """
    target = Target(data, config.image.of_faces)
    if marker.read(data) and not _damage(data, line):
        return Manifest.load(data)
    tested = has_test(data)
    if tested and not data.exists(MANIFEST) and other_folder(data).exists(MANIFEST):
        line.tell(
            "faces are drawn again, now with a test split; those without one are kept for the runs "
            f"that began with them: {other_folder(data).uri}"
        )
    # Another job may be drawing them; wait for it.
    with only_owner(data, "--data drawn", line.show, queue=True) as lease:
        if damage := data.exists(MANIFEST) and _damage(data, line):
            line.close()
            print(f"drawing the faces again: {damage}")
            delete_dataset(data)
        [manifest] = write_datasets(
            DrawnFaces(config.drawn_count, test_share=None if tested else 0.0),
            [replace(target, fence=lease.fence)],
            progress=lambda done, total, rate: line.show(
                f"drawing faces: {describe(done, total, rate)}"
            ),
        )
    return manifest


def _damage(data: Folder, line: ProgressLine) -> str:
    """Describe a dataset's damage, or "". Raises: Unreadable if a file cannot be read now."""
    try:
        check_files(data, Manifest.load(data), line)
    except Unreadable:
        raise
    except ShardError as error:
        return str(error)
    return ""


def check_files(data: Folder, manifest: Manifest, line: ProgressLine) -> None:
    """Read and check all that is trained on. Jobs do so before they delete a run that needs it.

    Evaluation alone reads the test split. Originals were listed just now, and have no checksums to
    compare them with.

    Raises: ShardError if a file is missing or damaged.
    """
    if manifest.originals:
        return

    def show(done: int, total: int) -> None:
        line.show(f"checking the dataset: {describe(done // 10**6, total // 10**6, 0, 'MB')}")

    if problems := verify(data, manifest, show, READ_IN_TRAINING):
        more = f" (and {len(problems) - 1:,} more files)" if problems[1:] else ""
        raise ShardError(
            f"{problems[0]}{more}; copy the dataset again, or prepare it again: jobs/prepare.py "
            "with its options and --restart"
        )
