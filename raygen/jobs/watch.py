"""Show all runs and sweeps of a storage in TensorBoard: the work of `jobs/watch.py`."""

import tempfile
import threading
import time
from collections.abc import Callable, Collection

from raygen.core.errors import UserError
from raygen.core.progress import ProgressLine
from raygen.core.signals import Signals
from raygen.core.storage import Folder
from raygen.tensorboard.mirror import Mirror
from raygen.tensorboard.options import WatchOptions
from raygen.tensorboard.server import serve

FIRST_SECONDS = 5.0
"""How long runs are fetched before the page is there; the others follow."""


def watch(options: WatchOptions) -> None:
    """Show runs and sweeps until the job is ended. Raises: UserError."""
    storage = Folder.at(options.storage)
    with tempfile.TemporaryDirectory(prefix="raygen-watch-") as place:
        mirror = None if storage.is_local else Mirror(storage, place)
        first_look(storage, mirror)
        with Signals(lambda: None, "") as signals:
            url = serve(storage.path if mirror is None else place, options)
            print(f"TensorBoard: {url} shows {storage.uri}; Ctrl-C ends it", flush=True)
            try:
                keep_current(mirror, options.reload_seconds, signals.stop)
            except KeyboardInterrupt:
                print("ended")


def first_look(storage: Folder, mirror: Mirror | None) -> None:
    """Fetch the newest runs. Raises: UserError if the storage does not exist or does not answer."""
    line = ProgressLine()
    try:
        if not storage.exists():
            raise UserError(
                f"--storage {storage.uri}: does not exist; name the folder or URI that runs were "
                "given as --storage"
            )
        if mirror:
            mirror.update(_shown_by(line), FIRST_SECONDS)
    except OSError as error:
        raise UserError(
            f"--storage {storage.uri}: cannot be read ({error}); check the name, the network and "
            "the credentials"
        ) from error
    finally:
        line.close()
    if mirror:
        tell_refused(mirror.refused)


def _shown_by(line: ProgressLine) -> Callable[[int, int], None]:
    return lambda done, total: line.show(f"fetching: {done:,}/{total:,} files")


def tell_refused(names: Collection[str]) -> None:
    """Warn once about files that are not shown because their names are invalid in a folder."""
    if names:
        more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
        print(
            f"not fetched: {min(names)!r}{more}, as a file of such a name would lie outside the "
            "copy, or in the way of another",
            flush=True,
        )


def keep_current(mirror: Mirror | None, seconds: int, stop: threading.Event) -> None:
    """Keep the copy up to date until the job is ended."""
    told, line = "", ProgressLine()
    while not stop.wait(0 if mirror and mirror.missing and not told else seconds):
        if mirror is None:
            continue
        refused = bool(mirror.refused)
        try:
            if mirror.missing:
                mirror.update(_shown_by(line))
                line.close()
            else:
                mirror.update()
            told = ""
        except OSError as error:
            line.close()
            # The network may recover; until then TensorBoard shows the files fetched so far.
            if str(error) != told:
                print(f"{time.strftime('%H:%M:%S')}: the storage does not answer ({error})")
            told = str(error)
        if not refused:
            tell_refused(mirror.refused)
