"""Reads files of object stores, and notices answers that end too early.

pyarrow learns a file's size when it opens it, asks for a range of its bytes, and takes whatever
arrives for all of them. After an answer that is too short, which a proxy may cut, and which a store
sends if the file was replaced by a shorter one meanwhile, the rest of the buffer is left as it was.
"""

import io
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

import pyarrow as pa

from raygen.core.retry import CutShort

PIECE_BYTES = 2**24
MARKS = 0, 255
"""Last bytes of buffers; the last byte of a whole answer replaces one of them at least."""


class RemoteFile(io.RawIOBase):
    """A file of an object store, open for reading; `read_at` may be called by several threads."""

    def __init__(self, opens: Callable[[], pa.NativeFile]) -> None:
        """Args: opens: opens the file. Raises: OSError, as all methods that read."""
        self._opens = opens
        # A handle has a position, so each is used by one thread at a time.
        self._idle = [opens()]
        self._size = int(self._idle[0].size())
        self._at = 0

    def size(self) -> int:
        """The size when the file was opened, in bytes."""
        return self._size

    def read_at(self, count: int, start: int) -> bytes:
        """The bytes from `start` on, `count` or as many as there are. Raises: CutShort."""
        buffer = bytearray(max(0, min(count, self._size - start)))
        filled = 0
        while filled < len(buffer):
            filled += self._fill(memoryview(buffer)[filled:], start + filled)
        return bytes(buffer)

    def _fill(self, view: memoryview, start: int) -> int:
        """Read at least one byte into a buffer. Returns: how many."""
        try:
            file = self._idle.pop()
        except IndexError:
            file = self._opens()
        for mark in MARKS:
            view[-1] = mark
            file.seek(start)
            count = int(file.readinto(view))
            if 0 < count < len(view) or view[-1] != mark:
                self._idle.append(file)
                return count
        raise CutShort(f"the answer ended before byte {start + len(view):,} of {self._size:,}")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        if self._at < 0:
            raise ValueError(f"position {self._at} lies before the file")
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)[: max(0, self._size - self._at)]
        count = self._fill(view, self._at) if view else 0
        self._at += count
        return count

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()
        super().close()


def read_up_to(file: BinaryIO | pa.NativeFile | RemoteFile, at_most: int | None) -> bytes:
    """The next bytes of a file, `at_most` or all.

    They are read in pieces, because a file reserves memory for as many bytes as it is asked for,
    whatever its size.
    """
    parts: list[bytes] = []
    left = sys.maxsize if at_most is None else at_most
    while left > 0 and (part := file.read(min(left, PIECE_BYTES))):
        parts.append(bytes(part))
        left -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
