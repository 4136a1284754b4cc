"""The dataset that a run was trained on, for jobs that use the trained model."""

from raygen.config.run import DRAWN, RunConfig
from raygen.core.errors import UserError
from raygen.core.storage import Folder
from raygen.data.shards.manifest import MANIFEST
from raygen.data.sources.drawn import find_drawn
from raygen.training.run import RunFolder

LEVELS = 3
"""Folders between a storage and a run that confirms a sweep's results."""


def dataset_of(run: Folder, config: RunConfig, data: str, said: str, command: str) -> Folder:
    """Find the dataset of a run.

    Args:
        run: its folder; config: its options.
        data: the dataset that the user named; empty: the run's.
        said: begins the message; command: the command with --data, for a message.
    Raises: UserError if only the run's files say that it lies in an object store: whoever made the
        run would then decide where the user's credentials are sent.
    """
    if data:
        return Folder.at(data)
    if "://" in config.data:
        raise UserError(
            f"{said}: the run was trained on {config.data}, which your credentials are not sent to "
            f"only because the run says so; if you trust it, name it: {command}"
        )
    if config.data != DRAWN:
        return Folder.at(config.data)
    begun = RunFolder(run).dataset()
    faces = config.image.of_faces, config.drawn_count, begun
    storage = run.parent
    first = found = find_drawn(storage, *faces)
    for _ in range(LEVELS):
        if found.exists(MANIFEST):
            return found
        storage = storage.parent
        found = find_drawn(storage, *faces)
    return found if found.exists(MANIFEST) else first
