"""TensorBoard, adapted to follow runs in progress and runs that are started over."""

import copy
import glob
import logging
import os
import threading
from contextlib import suppress
from functools import lru_cache
from typing import Any

from google.protobuf import text_format
from tensorboard import default, plugin_util, program
from tensorboard.context import RequestContext
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
from tensorboard.plugins.projector.projector_plugin import LRUCache, ProjectorPlugin

from raygen.core.errors import UserError
from raygen.core.paths import LeavesFolder, inside
from raygen.tensorboard.mirror import CODES, CODES_CONFIG
from raygen.tensorboard.options import WatchOptions
from raygen.tensorboard.provider import Ingester


class FreshProjector(ProjectorPlugin):  # type: ignore[misc]
    """TensorBoard's projector, made to work with runs in progress and safe with untrusted runs.

    The original looks for a run's latents only once, when it first sees the run, but they appear
    with the first validation and change with each. It also serves whatever files a run's
    configuration names, and shows no run at all if one of them cannot be read.
    """

    _configs: dict[str, ProjectorConfig]
    config_fpaths: dict[str, str]

    def __init__(self, context: Any) -> None:
        super().__init__(context)
        self._seen: tuple[dict[str, str], dict[str, int]] = {}, {}
        # Several threads answer requests.
        self._lock = threading.Lock()

    def _update_configs(self) -> None:
        with self._lock:
            runs = self.data_provider.list_runs(RequestContext(), experiment_id="")
            folders = {run.run_name: os.path.join(self.logdir, run.run_name) for run in runs}
            folders.setdefault(".", self.logdir)
            seen = {path: at for folder in folders.values() for path, at in written(folder).items()}
            if (folders, seen) == self._seen:
                return
            self.tensor_cache = LRUCache(1)
            configs: dict[str, ProjectorConfig] = {}
            places: dict[str, str] = {}
            for run, folder in folders.items():
                # A damaged run must not hide the others. Missing files are found once they appear.
                with suppress(Exception):
                    alone = copy.copy(self)
                    place = inside(folder, CODES_CONFIG)
                    alone._configs, alone.config_fpaths = {run: read_config(place)}, {run: place}
                    # This reads the tables of latents for their sizes.
                    alone._augment_configs_with_checkpoint_info()
                    configs |= alone._configs
                    places |= alone.config_fpaths
            self._configs, self.config_fpaths = configs, places
            self._seen = folders, seen


def read_config(path: str) -> ProjectorConfig:
    """Read a run's projector configuration, dropping entries that lie outside the run's folder.

    Raises: OSError; ValueError; ParseError.
    """
    config = ProjectorConfig()
    with open(path, encoding="utf-8") as file:
        text_format.Parse(file.read(), config)
    config.model_checkpoint_path = ""
    for embedding in list(config.embeddings):
        named = (
            embedding.tensor_path,
            embedding.metadata_path,
            embedding.bookmarks_path,
            embedding.sprite.image_path,
        )
        if not embedding.tensor_path or not all(_lies_in(os.path.dirname(path), n) for n in named):
            config.embeddings.remove(embedding)
    return config


def _lies_in(folder: str, name: str) -> bool:
    """Whether a file name, if there is one, stays inside the run's folder."""
    try:
        # The projector would expand ~ to a home folder.
        return not name or (not name.startswith("~") and bool(inside(folder, name)))
    except LeavesFolder:
        return False


def written(run: str) -> dict[str, int]:
    """Change times of a run's projector files, in nanoseconds."""
    paths = glob.glob(os.path.join(glob.escape(run), CODES, "*"))
    paths.append(os.path.join(run, CODES_CONFIG))
    # Modification times are copied from the storage, in whole seconds only.
    return {path: os.stat(path).st_ctime_ns for path in paths if os.path.exists(path)}


DESCRIPTION = lru_cache(1024)(plugin_util.markdown_to_safe_html)


class Board(program.TensorBoard):  # type: ignore[misc]
    """TensorBoard with raygen's reader of event files."""

    def _make_data_ingester(self) -> Ingester:
        ingester = Ingester(self.flags.logdir, self.flags.reload_interval)
        ingester.start()
        return ingester


def serve(logdir: str, options: WatchOptions) -> str:
    """Start TensorBoard in this process. Returns: its address. Raises: UserError."""
    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    plugins = default.get_plugins()
    plugins[plugins.index(ProjectorPlugin)] = FreshProjector
    # Runs describe the same metrics, and each look at the page formats the descriptions of all.
    plugin_util.markdown_to_safe_html = DESCRIPTION
    board = Board(plugins)
    board.configure(
        argv=[
            "tensorboard",
            *("--logdir", logdir, "--host", options.host, "--port", str(options.port)),
            *("--reload_interval", str(options.reload_seconds)),
            *("--samples_per_plugin", "images=100"),
        ]
    )
    try:
        return str(board.launch())
    except program.TensorBoardServerException as error:
        raise UserError(
            f"--port {options.port}: TensorBoard cannot listen there ({error}); use another port, "
            "or 0 for any that is free"
        ) from error
