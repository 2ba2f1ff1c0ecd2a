"""Where a disk holds data, and where zeroes: as the file system tells, and as the bytes themselves tell.

The file system's answer may be out of date the moment it is given, when a guest writes to the disk. That does no
harm: a write into a hole is mirrored. It may call zeroes data, never data zeroes.
"""

import errno
import os
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from kvmove.units import KIB

GRANULARITY = 64 * KIB
"""Runs of zeroes shorter than this are sent as data: finer runs cost more in frames and system calls than they save."""


class Extent(NamedTuple):
    """`length` bytes at `offset`; without data they are a hole, which reads as zeroes."""

    offset: int
    length: int
    is_data: bool


class Run(NamedTuple):
    """`length` bytes at `start` of a buffer, all of them zero or not."""

    start: int
    length: int
    is_zero: bool


def extents(fd: int, start: int, end: int) -> Iterator[Extent]:
    """Data and holes of [start, end), in order and without gaps, by SEEK_DATA and SEEK_HOLE.

    Lazy: each step asks the file system anew. One that cannot tell calls everything data. Two extents of the same
    kind may follow each other when the file changes meanwhile. Moves the file's position.

    :raise OSError: the storage failed.
    """
    at = start
    while at < end:
        data = min(_seek(fd, at, os.SEEK_DATA, end), end)
        if data > at:
            yield Extent(at, data - at, False)
        if data < end:
            at = min(max(_seek(fd, data, os.SEEK_HOLE, end), data + 1), end)  # filled meanwhile: go on all the same
            yield Extent(data, at - data, True)
        else:
            at = end


def is_zero(data: bytes | bytearray | memoryview) -> bool:
    """Whether all bytes are zero. Stops at the first that is not; compares at the speed of memcmp."""
    view = memoryview(data)
    return all(_zero_piece(view[at : at + GRANULARITY]) for at in range(0, len(view), GRANULARITY))


def split_zeroes(data: bytes | bytearray | memoryview, granularity: int = GRANULARITY) -> list[Run]:
    """The runs of zeroes and of data in `data`, in order and without gaps; neighbours differ in kind.

    Every edge is a multiple of `granularity` (bytes) or the end; a piece of which one byte is not zero is data.
    """
    view = memoryview(data)
    runs: list[Run] = []
    began, kind = 0, False
    for at in range(0, len(view), granularity):
        zero = _zero_piece(view[at : at + granularity])
        if at == began:
            kind = zero
        elif zero != kind:
            runs.append(Run(began, at - began, kind))
            began, kind = at, zero
    if len(view):
        runs.append(Run(began, len(view) - began, kind))
    return runs


def _seek(fd: int, at: int, whence: int, end: int) -> int:
    try:
        return os.lseek(fd, at, whence)
    except OSError as error:
        if error.errno == errno.ENXIO:  # no more data, or beyond the end
            return end
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
            return at if whence == os.SEEK_DATA else end  # the file system cannot tell
        raise


def _zero_piece(piece: memoryview) -> bool:
    # A bytearray on the left compares with memcmp. Two memoryviews would be compared item by item, 200 times slower.
    return _zeroes(len(piece)) == piece


@lru_cache(maxsize=16)  # the granularity, and the tails of late
def _zeroes(length: int) -> bytearray:
    return bytearray(length)
