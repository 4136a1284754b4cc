"""TensorBoard, made to follow runs in progress and runs that are started over."""

import glob
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from tensorboard import default, program
from tensorboard.backend.event_processing import directory_watcher
from tensorboard.compat import tf
from tensorboard.plugins.projector.projector_plugin import LRUCache, ProjectorPlugin

from raygen.errors import UserError
from raygen.job_options import WatchOptions
from raygen.mirror import CODES, CODES_CONFIG


class FreshProjector(ProjectorPlugin):  # type: ignore[misc]
    """TensorBoard's projector, for runs in progress.

    By itself it looks for a run's codes once, when it first sees the run. But they come with the
    first validation, and change with each.
    """

    _run_paths: dict[str, str] | None

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self._seen: dict[str, int] = {}
        # Several threads answer requests.
        self._lock = threading.Lock()

    def _update_configs(self) -> None:
        # A file that another names may be gone, or not have come yet: the next request looks again.
        with self._lock, suppress(OSError, tf.errors.OpError):
            folders = {self.logdir, *(self._run_paths or {}).values()}
            seen = {name: time for folder in folders for name, time in written(folder).items()}
            if seen != self._seen:
                # With these forgotten, everything is read anew.
                self._run_paths, self.tensor_cache = None, LRUCache(1)
            super()._update_configs()
            self._seen = seen


def written(run: str) -> dict[str, int]:
    """When the projector's files of a run came to be as they are, in nanoseconds."""
    paths = glob.glob(os.path.join(glob.escape(run), CODES, "*"))
    paths.append(os.path.join(run, CODES_CONFIG))
    # Not when they were modified: the copy has that from the storage, in whole seconds.
    return {path: os.stat(path).st_ctime_ns for path in paths if os.path.exists(path)}


class RunWatcher(directory_watcher.DirectoryWatcher):  # type: ignore[misc]
    """TensorBoard's reader of a run's event files, for runs that are started over.

    By itself it waits for a file that was deleted, as long as the run's folder is there, and reads
    no other.
    """

    def Load(self) -> Iterator[Any]:  # noqa: N802
        if self._path and not os.path.exists(self._path):
            # For this TensorBoard drops the run, and reads it from its beginning the next time.
            raise directory_watcher.DirectoryDeletedError(self._path)
        yield from super().Load()


def serve(logdir: str, options: WatchOptions) -> str:
    """Start TensorBoard in this process. Returns: its address. Raises: UserError."""
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    plugins = default.get_plugins()
    plugins[plugins.index(ProjectorPlugin)] = FreshProjector
    # TensorBoard takes plugins, but no other reader.
    directory_watcher.DirectoryWatcher = RunWatcher
    board = program.TensorBoard(plugins)
    board.configure(
        argv=[
            "tensorboard",
            *("--logdir", logdir, "--host", options.host, "--port", str(options.port)),
            *("--reload_interval", str(options.reload_seconds)),
            # Its fast reader is a program of its own, in which none of this holds.
            *("--load_fast", "false", "--samples_per_plugin", "images=100"),
        ]
    )
    try:
        return str(board.launch())
    except program.TensorBoardServerException as error:
        raise UserError(
            f"--port {options.port}: TensorBoard cannot listen there ({error}); use another port, "
            "or 0 for any that is free"
        ) from error
