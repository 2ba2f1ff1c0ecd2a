"""The one system call that Python lacks: fallocate(2), to punch holes."""

import ctypes
import errno
import os

_FALLOC_FL_KEEP_SIZE = 1
_FALLOC_FL_PUNCH_HOLE = 2
_REFUSALS = (errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def punch_hole(fd: int, offset: int, length: int) -> bool:
    """Make `length` bytes at `offset` zero and give their whole blocks back. False when the file system cannot.

    Any alignment: the kernel writes zeroes to the blocks at both ends that are not covered wholly. The file keeps its
    size. Releases the interpreter lock.

    :raise OSError: it failed; what of the range is zero then is unknown.
    """
    while _libc.fallocate(fd, _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE, offset, length):
        number = ctypes.get_errno()
        if number in _REFUSALS:
            return False
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))
    return True
