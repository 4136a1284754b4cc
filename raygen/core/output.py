"""Standard output and error that never fail, even if their reader goes away before a job ends."""

import contextlib
import io
import os
import select
import signal
import sys
import threading
from collections.abc import Callable
from typing import TextIO


def keep_printing() -> None:
    """Make printing safe from now on, whatever becomes of the process's streams.

    Output that cannot be written, to a full disk or a closed terminal, is dropped and the job goes
    on. When the reader of a pipe is gone, as with `| head`, the job ends as after Ctrl-C. Streams
    that other code has replaced are left alone.
    """
    if sys.stdout is sys.__stdout__:
        sys.stdout = _lenient(sys.stdout, 1, _interrupt)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _lenient(sys.stderr, 2, lambda: None)


def open_missing() -> None:
    """Open standard streams that were closed at the start (`>&-`), to reserve their descriptors.

    C++ libraries, such as Ray's, write to descriptors 1 and 2 whatever file is open there.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # `open` takes the lowest free descriptor, which is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def _lenient(stream: TextIO | None, descriptor: int, on_gone: Callable[[], None]) -> TextIO:
    if stream:
        with contextlib.suppress(OSError):
            stream.flush()
    encoding, errors = (stream.encoding, stream.errors) if stream else ("utf-8", "replace")
    # Unbuffered, because a signal handler must not reenter a buffered writer.
    raw: io.RawIOBase = _Lenient(descriptor, on_gone)
    return io.TextIOWrapper(raw, encoding, errors, line_buffering=True, write_through=True)  # type: ignore[type-var]


class _Lenient(io.RawIOBase):
    def __init__(self, descriptor: int, on_gone: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._on_gone = on_gone

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: "bytes | memoryview") -> int:  # type: ignore[override]
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:
                select.select([], [self._descriptor], [])
            except BrokenPipeError:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._descriptor)
                os.close(nowhere)
                self._on_gone()
                break
            except OSError:
                break
        return len(data)


def _interrupt() -> None:
    """Send SIGINT to the main thread, as Ctrl-C does; it may be waiting for something."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
