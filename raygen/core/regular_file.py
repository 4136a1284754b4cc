"""Opening users' local files without being held up by what is no file."""

import errno
import os
import stat
from typing import BinaryIO


def open_regular(path: str) -> BinaryIO:
    """Open a local file for reading, if it is one.

    A named pipe without a writer would block for ever and a device may never end, so neither is
    read, also where a link leads to it.

    Raises: OSError, with EINVAL where there is a pipe, a socket or a device.
    """
    # Only a pipe is affected: it opens at once.
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
