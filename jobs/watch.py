"""Show all runs and sweeps of a storage in TensorBoard, wherever the storage is.

python jobs/watch.py
python jobs/watch.py --storage s3://bucket/runs
"""

import glob
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from tensorboard import default, program
from tensorboard.plugins.projector.projector_plugin import LRUCache, ProjectorPlugin

from raygen.cli import parse_options, run_job
from raygen.errors import UserError
from raygen.job_options import WatchOptions
from raygen.mirror import CODES, CODES_CONFIG, Mirror
from raygen.progress import ProgressLine
from raygen.signals import Signals
from raygen.storage import Folder


def main(argv: Sequence[str]) -> None:
    options = parse_options(WatchOptions, argv, "Show runs and sweeps in TensorBoard.")
    storage = Folder.at(options.storage)
    with tempfile.TemporaryDirectory(prefix="raygen-watch-") as place:
        mirror = None if storage.is_local else Mirror(storage, place)
        first_look(storage, mirror)
        with Signals(lambda: None, "") as signals:
            url = serve(storage.path if mirror is None else place, options)
            print(f"TensorBoard: {url} shows {storage.uri}; Ctrl-C ends it", flush=True)
            try:
                watch(mirror, options.reload_seconds, signals.stop)
            except KeyboardInterrupt:
                print("ended")


def first_look(storage: Folder, mirror: Mirror | None) -> None:
    """Fetch what there is. Raises: UserError if there is no such storage, or it does not answer."""
    line = ProgressLine()
    try:
        if not storage.exists():
            raise UserError(
                f"--storage {storage.uri}: does not exist; name the folder or URI that runs were "
                "given as --storage"
            )
        if mirror:
            mirror.update(lambda done, total: line.show(f"fetching: {done:,}/{total:,} files"))
    except OSError as error:
        raise UserError(
            f"--storage {storage.uri}: cannot be read ({error}); check the name, the network and "
            "the credentials"
        ) from error
    finally:
        line.close()


class FreshProjector(ProjectorPlugin):  # type: ignore[misc]
    """TensorBoard's projector, for runs in progress.

    By itself it looks for a run's codes once, when it first sees the run. But they come with the
    first validation, and change with each.
    """

    _run_paths: dict[str, str] | None
    tensor_cache: LRUCache
    _seen: Mapping[str, int] = MappingProxyType({})

    def _update_configs(self) -> None:
        super()._update_configs()
        folders = {self.logdir, *(self._run_paths or {}).values()}
        seen = {name: time for folder in folders for name, time in written(folder).items()}
        if seen != self._seen:
            self._seen, self._run_paths = seen, None
            self.tensor_cache = LRUCache(1)
            super()._update_configs()


def written(run: str) -> dict[str, int]:
    """When the projector's files of a run were written, in nanoseconds."""
    paths = glob.glob(os.path.join(glob.escape(run), CODES, "*"))
    paths.append(os.path.join(run, CODES_CONFIG))
    return {path: os.stat(path).st_mtime_ns for path in paths if os.path.exists(path)}


def serve(logdir: str, options: WatchOptions) -> str:
    """Start TensorBoard in this process. Returns: its address. Raises: UserError."""
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    plugins = default.get_plugins()
    plugins[plugins.index(ProjectorPlugin)] = FreshProjector
    board = program.TensorBoard(plugins)
    board.configure(
        argv=[
            "tensorboard",
            *("--logdir", logdir, "--host", options.host, "--port", str(options.port)),
            *("--reload_interval", str(options.reload_seconds)),
            # The same reader on every machine: the fast one is a package that some lack.
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


def watch(mirror: Mirror | None, seconds: int, stop: threading.Event) -> None:
    """Keep the copy up to date until the job is ended."""
    told = ""
    while not stop.wait(seconds):
        if mirror is None:
            continue
        try:
            mirror.update()
            told = ""
        except OSError as error:
            # The network may come back; what was fetched stays to be seen.
            if str(error) != told:
                print(f"{time.strftime('%H:%M:%S')}: the storage does not answer ({error})")
            told = str(error)


if __name__ == "__main__":
    sys.exit(run_job(main))
