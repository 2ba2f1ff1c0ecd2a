"""Moves ranges of one open disk into another of the same machine, by the cheapest way that the two have in common.

    rung             how                            what it costs
    REFLINK          ioctl FICLONERANGE             no data is read or written: both files share the blocks
    KERNEL_COPY      copy_file_range(2)             the file system, or its server, copies; no data passes through here
    READ_WRITE       reads and writes of ours       everything, but it always works

A disk that is no plain file, such as a qcow2 image, is read and written. Of two files nobody asks beforehand what they
can do: the best rung is tried on the first range. A rung that they refuse is not
tried again, unless the range alone is to blame: one that does not begin and end at a block's edge.

Invariant: a range that was moved holds at the target what the source held at some moment during `move`, for each byte;
a write that had completed at the source before is in it. All three rungs see the page cache and direct writes alike:
FICLONERANGE waits for direct writes that are under way and writes the range's dirty pages back before it shares the
blocks, with both files locked against writes meanwhile (Linux generic_remap_file_range_prep), so nobody has to flush
the source; the others read as everybody reads.

Deliberately not here: which range, in what order with the guest's writes (mover); holes, which are no range to move.
"""

import errno
import fcntl
import os
import struct
import threading
import time
from collections.abc import Callable, Sequence
from enum import StrEnum

from kvmove.disk.clone import REFUSALS
from kvmove.disk.errors import disk_error
from kvmove.disk.extents import split_zeroes
from kvmove.disk.interface import SourceDisk, TargetDisk
from kvmove.disk.raw_file import ALIGNMENT, aligned_buffer
from kvmove.units import MIB

_FICLONERANGE = 0x4020940D
"""ioctl_ficlonerange(2): _IOW(0x94, 13, struct file_clone_range)."""

_FILE_CLONE_RANGE = struct.Struct("=qQQQ")
"""The source's descriptor, its offset, the length (0 would mean: to the end), the target's offset."""

COPY_MOST = MIB
"""Bytes read at once on the last rung."""


class Rung(StrEnum):
    """A way to move a range, best first."""

    REFLINK = "reflink"
    KERNEL_COPY = "copy_file_range"
    READ_WRITE = "read and write"


RangeCopy = Callable[[int, int, int, int], None]
"""Moves a range without us: the source's and the target's descriptor, offset, length (bytes).

:raise OSError: one of `REFUSALS`: this way is none; what of the range was moved is unknown then, as with any error.
"""


def reflink(source: int, target: int, offset: int, length: int) -> None:
    """See `RangeCopy`."""
    fcntl.ioctl(target, _FICLONERANGE, _FILE_CLONE_RANGE.pack(source, offset, length, offset))


def kernel_copy(source: int, target: int, offset: int, length: int) -> None:
    """See `RangeCopy`."""
    done = 0
    while done < length:
        count = os.copy_file_range(source, target, length - done, offset + done, offset + done)
        if not count:  # the source ends here, which reading it will tell; or a file system that does not say it cannot
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        done += count


LADDER: tuple[tuple[Rung, RangeCopy], ...] = ((Rung.REFLINK, reflink), (Rung.KERNEL_COPY, kernel_copy))
"""What is tried, best first, before reading and writing."""


class Offload:
    """The way from one disk to another of the same size. Borrows both; the caller closes them.

    Several threads may move different ranges. `moved` counts bytes for each rung and only grows; so do the seconds, of
    all threads together, that reads, writes, and the kernel's copying took.
    """

    def __init__(
        self, source: SourceDisk, target: TargetDisk, ladder: Sequence[tuple[Rung, RangeCopy]] = LADDER
    ) -> None:
        self.source = source
        self.target = target
        self.moved = dict.fromkeys(Rung, 0)
        self.read_seconds = 0.0
        self.write_seconds = 0.0
        self.kernel_seconds = 0.0
        self._ladder: tuple[tuple[Rung, RangeCopy], ...] = ()
        self._files, self._block = (-1, -1), ALIGNMENT
        if source.file is not None and target.file is not None:
            self._ladder = tuple(ladder)
            self._files = (source.file, target.file)
            self._block = max(os.fstatvfs(target.file).f_bsize, ALIGNMENT)
        self._buffers: list[memoryview] = []
        self._lock = threading.Lock()

    def move(self, offset: int, length: int, *, untouched: bool) -> Rung:
        """Make the target's range equal to the source's; `length` is at least 1. Return the rung that did it.

        `untouched` says that the target's range is a hole still: zeroes that the source stores then need no writing.

        :raise DiskError: naming the range; what the target holds there is unknown then.
        """
        for rung, copy in self._ladder:
            began = time.monotonic()
            try:
                copy(*self._files, offset, length)
            except OSError as error:
                if error.errno not in REFUSALS:
                    what = f"take {length} bytes at {offset} of {self.source.path} ({rung})"
                    raise disk_error(what, self.target.path, error) from error
                untouched = False  # it may have moved some of it
                if error.errno != errno.EINVAL or not self._is_odd(offset, length):
                    self._refused(rung)
            else:
                self._count(rung, length)
                self._spent(kernel=time.monotonic() - began)
                return rung
        self._read_and_write(offset, length, untouched)
        self._count(Rung.READ_WRITE, length)
        return Rung.READ_WRITE

    def sync(self) -> None:
        """Make the target durable, and what the kernel's copy has left of it in the page cache clean and gone.

        :raise DiskError: the target cannot be trusted any more; throw it away.
        """
        self.target.sync()
        if self.moved[Rung.KERNEL_COPY]:
            self.target.drop_cache(0, self.target.size)

    def _is_odd(self, offset: int, length: int) -> bool:
        """Whether the range covers a part of a block: FICLONERANGE takes such a range at both files' end alone."""
        return bool((offset | length) % self._block)

    def _refused(self, rung: Rung) -> None:
        with self._lock:
            self._ladder = tuple(step for step in self._ladder if step[0] is not rung)

    def _count(self, rung: Rung, length: int) -> None:
        with self._lock:
            self.moved[rung] += length

    def _spent(self, *, read: float = 0.0, write: float = 0.0, kernel: float = 0.0) -> None:
        with self._lock:
            self.read_seconds += read
            self.write_seconds += write
            self.kernel_seconds += kernel

    def _read_and_write(self, offset: int, length: int, untouched: bool) -> None:
        with self._lock:
            buffer = self._buffers.pop() if self._buffers else aligned_buffer(COPY_MOST)
        try:
            for start in range(offset, offset + length, COPY_MOST):
                view = buffer[: min(COPY_MOST, offset + length - start)]
                began = time.monotonic()
                self.source.read_into(view, start)
                is_read = time.monotonic()
                self._write(start, view, untouched)
                self._spent(read=is_read - began, write=time.monotonic() - is_read)
        finally:
            self._buffers.append(buffer)

    def _write(self, start: int, view: memoryview, untouched: bool) -> None:
        for run in split_zeroes(view):
            if not run.is_zero:
                self.target.write_at(start + run.start, view[run.start : run.start + run.length])
            elif not untouched:
                self.target.write_zeroes(start + run.start, run.length)
