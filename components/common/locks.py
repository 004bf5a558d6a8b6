"""A file's lock (flock) lets one process work at a time, among all machines that share the file system."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from matta_core.errors import UserError

_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}


@contextlib.contextmanager
def locked(file: Path, *, wait: bool) -> Iterator[None]:
    """Hold the lock of `file`, which is made where it is missing and never deleted.

    If it were deleted, a process that has it open could lock a file that no other process finds. NFS would also keep
    the open file under another name, and its folder could not be removed. The system gives the lock back when its
    process ends, however that ends. For a machine that is gone, NFS's server does so when the lease runs out.

    Raises: BlockingIOError where another process holds it and `wait` is false; UserError where the file system has no
    locks; OSError where the file cannot be made.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)  # NFS locks only what is open for writing
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            raise UserError(
                f"{file} cannot be locked ({error.strerror}), so that nothing would keep two processes apart: use a "
                f"file system with locks (NFS: version 4, or 3 with rpc.statd running and without the option nolock)"
            ) from error
        yield
    finally:
        os.close(descriptor)
