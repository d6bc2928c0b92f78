"""A lock on a directory that one fit at a time may use."""

import errno
import os
import socket
import threading
from contextlib import suppress
from pathlib import Path

from ..device import logger

LOCK_NAME = "lock"
_held: dict[str, int] = {}  # directories locked by this process -> its id, which differs in a forked child
_guard = threading.Lock()

try:
    import fcntl

    def _lock(file):
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

except ImportError:  # Windows
    import msvcrt

    def _lock(file):
        os.lseek(file, 1 << 20, os.SEEK_SET)  # a byte after the text, so that other processes can read the text
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        os.lseek(file, 0, os.SEEK_SET)


class InUseError(Exception):
    """Another fit uses the directory; the message names its process."""


class DirectoryLock:
    """Held from construction to `release`, or to the end of the process.

    A POSIX record lock, which a forked child does not inherit and which NFS supports.  It belongs to the process, so a
    table distinguishes the fits of several threads.  Where the file system has no locks (some NFS mounts), a warning is
    logged, and the user must not run two processes in one directory.
    """

    released = False

    def __init__(self, directory):
        """Raises InUseError, or OSError if the file `lock` cannot be opened."""
        self.key = os.path.realpath(directory)
        with _guard:
            if _held.get(self.key) == os.getpid():
                raise InUseError("another fit of this process")
            self.file = os.open(Path(directory) / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                self._acquire(directory)
            except BaseException:
                os.close(self.file)
                raise
            _held[self.key] = os.getpid()

    def _acquire(self, directory):
        """Lock the file and write process and host into it; InUseError if another process holds the lock."""
        try:
            _lock(self.file)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                raise InUseError(self._holder()) from None
            logger.warning(
                "the file system of %s has no locks (%s): make sure that one process at a time uses the directory.",
                *(directory, error.strerror),
            )
        os.ftruncate(self.file, 0)
        os.write(self.file, f"{os.getpid()} {socket.gethostname()}".encode())

    def _holder(self):
        number, _, host = os.read(self.file, 300).decode(errors="replace").partition(" ")
        return f"process {number} on {host}" if number.isdecimal() else "another process"

    def release(self):
        """Release the lock; further calls do nothing."""
        with _guard:
            if self.released or _held.get(self.key) != os.getpid():
                return
            self.released = True
            del _held[self.key]
            with suppress(OSError):
                os.close(self.file)  # which releases the lock
