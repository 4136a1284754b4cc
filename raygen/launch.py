"""The common start of every job that trains: signals, outages, Ray, ownership, a status.

The order is what matters. Signals are the outermost, so that Ctrl-C just after the end does not
spoil it; folders are given up after Ray has ended, whose workers may write until then.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from raygen.cluster import connection as cluster
from raygen.cluster.lease import Lease, only_owner
from raygen.core.errors import ShardError
from raygen.core.progress import ProgressLine
from raygen.core.retry import OUTAGES
from raygen.core.signals import Signals
from raygen.core.status import Status
from raygen.core.storage import Folder
from raygen.data.shards.manifest import Manifest, rejections
from raygen.training.run import REJECTED

Resource = TypeVar("Resource")


class Launch:
    """A job that has started.

    Attributes: signals: how the user ends it; line: where it tells how far it is.
    """

    def __init__(
        self,
        signals: Signals,
        line: ProgressLine,
        leases: contextlib.ExitStack,
        actors: contextlib.ExitStack,
    ) -> None:
        self.signals = signals
        self.line = line
        self._leases = leases
        self._actors = actors

    def own(self, folder: Folder, data: Folder | None) -> Lease:
        """Become the only owner of a run's or sweep's folder.

        Args: data: what of the dataset all machines have to see as well, if it is there already.
        Raises: UserError if another job works in the folder, or a machine does not see it.
        """
        read = {"--data": data} if data else {}
        cluster.check_shared(read, {"--storage": folder.parent})
        return self._leases.enter_context(only_owner(folder, "--run-name", self.line.show))

    def keep(self, resource: contextlib.AbstractContextManager[Resource]) -> Resource:
        """Enter a context that needs Ray, until the job ends."""
        return self._actors.enter_context(resource)

    def status(self) -> Any:
        """An actor of `Status`, which ends with the job."""
        return self._actors.enter_context(cluster.own_actor(Status))


def list_rejected(folder: Folder, manifest: Manifest, status: Any) -> None:
    """List the originals that could not be read in a run's or sweep's folder.

    Those that an earlier session listed stay. Raises nothing, so as not to hide why a job ended.

    Args: status: an actor of `Status`.
    """
    if not manifest.originals:
        return
    with contextlib.suppress(Exception):
        found = cluster.answer(status.rejected)
        if folder.exists(REJECTED):
            before = rejections(folder.read_checked(REJECTED, ShardError, "delete it"))
            found = [*before, *(entry for entry in found if entry not in before)]
        if found:
            folder.write_json(REJECTED, found)


@contextmanager
def _importing_torch() -> Iterator[None]:
    """Import torch, which takes seconds, in a thread while this one waits for Ray to start.

    Nothing of Ray is imported there: two threads that import the same modules may find them half
    done. At the end of the context the thread has ended, as a process that exits in the middle of
    an import may crash.
    """
    errors: list[Exception] = []

    def run() -> None:
        try:
            _import_torch()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if errors:
        # Importing torch again would only say that it cannot be imported twice.
        raise errors[0]


def _import_torch() -> None:
    import torch.utils.tensorboard  # noqa: F401


@contextmanager
def launched(
    line: ProgressLine,
    saving: str,
    verbose: bool,
    leave: Callable[[], None] | None = None,
    prepare: Callable[[], None] = lambda: None,
) -> Iterator[Launch]:
    """Start a job: connect to Ray, or start one.

    Args:
        saving: what is being saved when the user ends the job, for a message.
        leave: makes room on the terminal for that message; None: leave the line.
        prepare: imports the modules of the job that it has not imported yet.
    Raises: UserError if Ray cannot be reached or started.
    """
    line.show("starting Ray")
    with (
        Signals(leave or line.close, saving) as signals,
        OUTAGES.told_to(line.warn),
        contextlib.ExitStack() as leases,
        contextlib.ExitStack() as connection,
        contextlib.ExitStack() as actors,
    ):
        if cluster.running_address():
            # Nothing has to be started. And where two of a cluster's nodes share a machine, the
            # second replaces the job's working directory as soon as a worker of the job starts
            # there, which an import that is under way does not survive.
            _import_torch()
            import raygen.training.hardware
            import raygen.training.ray_driver
            import raygen.training.record  # noqa: F401

            prepare()
        with _importing_torch():
            connection.enter_context(cluster.connected(verbose))
        yield Launch(signals, line, leases, actors)
