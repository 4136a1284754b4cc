"""The dataset of a run: a prepared one, or the built-in faces, drawn when they are needed."""

from raygen.config import DRAWN, PRESETS, RunConfig
from raygen.data.parts import Target
from raygen.data.prepare import prepare
from raygen.data.shards import Manifest
from raygen.data.sources import DrawnFaces, drawn_folder
from raygen.progress import ProgressLine, describe
from raygen.storage import Folder


def open_dataset(config: RunConfig, storage: str) -> tuple[Folder, Manifest | None]:
    """Where a run's dataset lies, or will lie, and what it holds; nothing for drawn faces.

    Args: storage: folder or URI of all runs.
    Raises: UserError if it is no dataset, or not of images that the preset is made for.
    """
    if config.data == DRAWN:
        image = PRESETS[config.preset].image.of_faces
        return drawn_folder(Folder.at(storage), image, config.drawn_count), None
    data = Folder.at(config.data)
    manifest = Manifest.load(data)
    config.check_images(manifest.height, manifest.width)
    return data, manifest


def draw_dataset(config: RunConfig, data: Folder, line: ProgressLine) -> Manifest:
    """Draw the faces of a run, as far as they are not there yet. Needs Ray."""
    image = PRESETS[config.preset].image.of_faces
    [manifest] = prepare(
        DrawnFaces(config.drawn_count),
        [Target(data, image)],
        progress=lambda done, total, rate: line.show(
            f"drawing faces: {describe(done, total, rate)}"
        ),
    )
    return manifest
