"""A local copy of what TensorBoard reads of a storage, kept up to date.

TensorBoard reads only some object stores, and needs another library's settings for each. The copy
works for every URI that raygen's other jobs take, and fetches only the new end of a grown file.
"""

import errno
import math
import os
import posixpath
import re
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from pyarrow import fs

from raygen.core.parallel import parallel
from raygen.core.paths import LeavesFolder, inside
from raygen.core.remote_file import read_up_to
from raygen.core.storage import Folder

Result = TypeVar("Result")

CODES_CONFIG, CODES = "projector_config.pbtxt", "projector"
"""Names of the projector's configuration file in a run, and of the folder that it refers to."""
WANTED = re.compile(rf"(.*/)?([^/]*tfevents[^/]*|{re.escape(CODES_CONFIG)}|{CODES}/[^/]+)")
HPARAMS = ".hparams"
"""Suffix of the event files that hold a trial's values and outcome."""
SETTLED_SECONDS = 2.0
"""Age in seconds from which a file's time shows any change: stores keep times in whole seconds."""
NO_FILES = (errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EILSEQ)
"""Errors of names that an object store allows but a disk does not, alone or beside others."""


@dataclass(frozen=True)
class Mirror:
    """A local folder that holds what TensorBoard reads of a storage.

    Attributes:
        storage: the folder to copy from.
        place: the local folder to copy to.
        refused: names of files that are skipped because they cannot exist in the local folder.
        missing: names of files that there was no time for.
    """

    storage: Folder
    place: str
    refused: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)

    def update(
        self,
        progress: Callable[[int, int], None] = lambda done, total: None,
        seconds: float = math.inf,
    ) -> int:
        """Copy new content, and delete copies whose originals are gone. The newest runs come first.

        Args:
            progress: called with files done and files in total.
            seconds: after so long no further file is begun.
        Returns: how many files changed.
        Raises: OSError if the storage cannot be read.
        """
        ends_at = time.monotonic() + seconds
        selector = fs.FileSelector(self.storage.path, allow_not_found=True, recursive=True)
        root = self.storage.path.rstrip("/") + "/"
        found = {
            info.path.removeprefix(root): info
            for info in self.storage.filesystem.get_file_info(selector)
            if info.type == fs.FileType.File
        }
        wanted = {name: info for name, info in found.items() if WANTED.fullmatch(name)}
        gone = [path for name, path in self._present().items() if name not in wanted]
        for path in gone:
            os.remove(path)
        # TensorBoard shows a run as long as its folder exists.
        for folder, _, _ in os.walk(self.place, topdown=False):
            if folder != self.place and not os.listdir(folder):
                os.rmdir(folder)
        changed = len(gone)
        ordered = _newest_first(wanted)
        self.missing.clear()
        self.missing.update(wanted)
        # A run's files follow one another, so they are written in order.
        for done, (name, write) in enumerate(parallel(self._fetch, ordered), 1):
            changed += bool(write and self._unless_refused(name, write))
            self.missing.remove(name)
            progress(done, len(ordered))
            if time.monotonic() > ends_at:
                break
        return changed

    def _present(self) -> dict[str, str]:
        """Paths of the copies, by their names in the storage."""
        paths = [os.path.join(top, file) for top, _, files in os.walk(self.place) for file in files]
        return {os.path.relpath(path, self.place): path for path in paths}

    def _fetch(self, file: tuple[str, fs.FileInfo]) -> tuple[str, Callable[[], bool] | None]:
        """Fetch what one copy lacks. Returns: its name, and what updates it, if anything does."""
        name, info = file
        return name, self._unless_refused(name, lambda: self._update_of(name, info))

    def _unless_refused(self, name: str, call: Callable[[], Result]) -> Result | None:
        """Call a function unless the file cannot exist in the local folder. Raises: OSError."""
        try:
            return call()
        except LeavesFolder:
            self.refused.add(name)
        except OSError as error:
            if error.errno not in NO_FILES:
                raise
            self.refused.add(name)
        return None

    def _update_of(self, name: str, info: fs.FileInfo) -> Callable[[], bool] | None:
        target = inside(self.place, name)
        try:
            before = os.stat(target)
        except FileNotFoundError:
            before = None
        if before and before.st_size == info.size and before.st_mtime_ns == info.mtime_ns:
            return None
        # Event files are appended to; all others, a trial's records included, are rewritten.
        grows = "tfevents" in name and not name.endswith(HPARAMS)
        grown = before is not None and grows and before.st_size <= info.size
        start = before.st_size if before and grown else 0
        try:
            with self.storage.join(name).open_file() as file:
                file.seek(start)
                data = read_up_to(file, None)
        except FileNotFoundError:
            # The file was deleted since it was listed.
            return None
        # A file that is rewritten twice in one second might look unchanged.
        settled = grows or time.time() - info.mtime_ns / 1e9 > SETTLED_SECONDS
        return partial(_write, target, data, grown, info.mtime_ns if settled else 0)


def _newest_first(files: dict[str, fs.FileInfo]) -> list[tuple[str, fs.FileInfo]]:
    """Order files by their runs, those that were changed last first, and each run's by name."""
    newest: dict[str, int] = {}
    for name, info in files.items():
        run = posixpath.dirname(name)
        newest[run] = max(newest.get(run, 0), info.mtime_ns or 0)

    def rank(file: tuple[str, fs.FileInfo]) -> tuple[int, str]:
        return -newest[posixpath.dirname(file[0])], file[0]

    return sorted(files.items(), key=rank)


def _write(target: str, data: bytes, grown: bool, stamp: int) -> bool:
    """Update a copy. Args: grown: whether to append; stamp: its new time, in nanoseconds."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if grown:
        with open(target, "ab") as copy:
            copy.write(data)
    else:
        # TensorBoard takes whatever has "tfevents" in its name.
        temporary = os.path.join(os.path.dirname(target), f".{uuid.uuid4().hex}.tmp")
        try:
            with open(temporary, "wb") as copy:
                copy.write(data)
            os.replace(temporary, target)
        except OSError:
            with suppress(FileNotFoundError):
                os.remove(temporary)
            raise
    os.utime(target, ns=(stamp, stamp))
    return True
