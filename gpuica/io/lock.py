"""A directory that one fit at a time works in."""

import errno
import os
import socket
import threading
from contextlib import suppress
from pathlib import Path

from ..device import logger

NAME = "lock"
_held: dict[str, int] = {}  # directories that fits of this process work in, and its number: a forked child's differs
_guard = threading.Lock()

try:
    import fcntl

    def _lock(file):
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

except ImportError:  # Windows
    import msvcrt

    def _lock(file):
        os.lseek(file, 1 << 20, os.SEEK_SET)  # a byte behind the text, which others may then read
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        os.lseek(file, 0, os.SEEK_SET)


class InUseError(Exception):
    """Somebody else works in the directory; the message says who."""


class DirectoryLock:
    """Held from its making to `release`, or to the end of the process, however that comes.

    A POSIX record lock, which a forked child does not inherit and NFS passes on to its server.  It is the process's, so
    threads are told apart by a list.  Where a file system has no locks (some NFS mounts), a warning is logged: two
    processes in one directory are then the user's to avoid.
    """

    released = False

    def __init__(self, directory):
        """Raises InUseError; OSError if the file `lock` cannot be opened."""
        self.key = os.path.realpath(directory)
        with _guard:
            if _held.get(self.key) == os.getpid():
                raise InUseError("another fit of this process")
            self.file = os.open(Path(directory) / NAME, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                self._acquire(directory)
            except BaseException:
                os.close(self.file)
                raise
            _held[self.key] = os.getpid()

    def _acquire(self, directory):
        try:
            _lock(self.file)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                raise InUseError(self._holder()) from None
            logger.warning(
                "the file system of %s has no locks (%s): see to it that one process at a time works there.",
                *(directory, error.strerror),
            )
        os.ftruncate(self.file, 0)
        os.write(self.file, f"{os.getpid()} {socket.gethostname()}".encode())

    def _holder(self):
        number, _, host = os.read(self.file, 300).decode(errors="replace").partition(" ")
        return f"process {number} on {host}" if number.isdecimal() else "another process"

    def release(self):
        with _guard:
            if self.released or _held.get(self.key) != os.getpid():
                return
            self.released = True
            del _held[self.key]
            with suppress(OSError):
                os.close(self.file)  # and with it the lock
