"""The one system call that Python lacks: fallocate(2), to take space, to make it zero, and to give it back.

None of the calls changes a file's size but `allocate`. All release the interpreter lock.
"""

import ctypes
import errno
import os

_FALLOC_FL_KEEP_SIZE = 1
_FALLOC_FL_PUNCH_HOLE = 2
_FALLOC_FL_ZERO_RANGE = 0x10
_REFUSALS = (errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def punch_hole(fd: int, offset: int, length: int) -> bool:
    """Make `length` bytes at `offset` zero and give their whole blocks back. False when the file system cannot.

    Any alignment: the kernel writes zeroes to the blocks at both ends that are not covered wholly.

    :raise OSError: it failed; what of the range is zero then is unknown.
    """
    return _fallocate(fd, _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE, offset, length)


def zero_range(fd: int, offset: int, length: int) -> bool:
    """Make `length` bytes at `offset` zero; a file keeps or gets the space for them. False when it cannot be done so.

    Any alignment in a file. On a block device whole logical blocks only (EINVAL else), and the device writes the
    zeroes itself where it can (Linux blkdev_fallocate).

    :raise OSError: it failed; what of the range is zero then is unknown.
    """
    return _fallocate(fd, _FALLOC_FL_ZERO_RANGE | _FALLOC_FL_KEEP_SIZE, offset, length)


def allocate(fd: int, length: int) -> bool:
    """Take space for the file's first `length` bytes; what was a hole reads as zeroes still. The file grows to
    `length`. False when the file system cannot.

    :raise OSError: ENOSPC when there is too little; some may have been taken.
    """
    return _fallocate(fd, 0, 0, length)


def _fallocate(fd: int, mode: int, offset: int, length: int) -> bool:
    while _libc.fallocate(fd, mode, offset, length):
        number = ctypes.get_errno()
        if number in _REFUSALS:
            return False
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))
    return True
