"""Opening users' local files without blocking on pipes and devices."""

import errno
import os
import stat
from typing import BinaryIO


def open_regular(path: str) -> BinaryIO:
    """Open a local regular file for reading.

    A named pipe without a writer would block for ever and a device may never end, so neither is
    read, even through a link.

    Raises: OSError; its errno is EINVAL for a pipe, a socket or a device.
    """
    # O_NONBLOCK makes a pipe open at once; regular files ignore it.
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(number).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "a pipe, socket or device, not a file", path)
        return os.fdopen(number, "rb")
    except BaseException:
        os.close(number)
        raise
