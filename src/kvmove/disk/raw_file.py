"""The source disk: a raw image, or a block device, that a guest uses at the same time, opened to be read only.

Invariant: a read fills the whole buffer with what is on the disk, or raises. What could not be read is never taken
for zeroes: the destination would be silently wrong.

Reads go the way QEMU's do. For `cache=none` they are direct (O_DIRECT), so that they neither push other files out of
the page cache nor see stale pages; ext4, XFS and btrfs keep both ways coherent anyhow. Takes no locks: QEMU's image
locks are for QEMU's own tools.
"""

import ctypes
import errno
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from kvmove.disk import block_device
from kvmove.disk.errors import DiskError, disk_error
from kvmove.disk.extents import Extent, extents
from kvmove.units import MIB

ALIGNMENT = 4096
"""What O_DIRECT may ask for of offset, length and memory: the logical block size, 4096 on the coarsest disks. What is
so aligned can be read and written directly wherever a disk lies."""

_BOUNCE = MIB


def aligned_buffer(size: int) -> memoryview:
    """Zeroed memory of `size` bytes at a page's start, for reads that need no copy. It is freed with the last view."""
    return memoryview(mmap.mmap(-1, size))


class RawFile:
    """A raw image, read only. With `dir_fd`, `path` is for messages and its last part is looked up in that folder.

    `size` in bytes, as it was when opened; no read goes beyond it. Reads may come from any number of threads. See
    `interface.SourceDisk`.
    """

    is_overlay = False

    def __init__(
        self, path: Path, *, direct: bool = False, dir_fd: int | None = None, device_size: int | None = None
    ) -> None:
        """Open it. A symbolic link is refused. Where the file system knows no direct reads, they are buffered.

        With `device_size` it is a block device of which the disk is the first so many bytes; links lead to devices.

        :raise DiskError: it is not there, is a link, is no such device, or may not be read.
        """
        self.path = path
        self.is_device = device_size is not None
        name = path if dir_fd is None else path.name
        flags = os.O_RDONLY | os.O_CLOEXEC | (os.O_NOFOLLOW if device_size is None else 0)
        try:
            self._fd, self.is_direct = _open(name, flags, dir_fd, direct)
        except OSError as error:
            raise disk_error("open it", path, error) from error
        try:
            self.size, self._alignment = measure(self._fd, path, device_size)
        except BaseException:
            os.close(self._fd)
            raise

    @property
    def file(self) -> int:
        """The descriptor."""
        return self._fd

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` with the bytes at `offset`. A direct read needs no copy if buffer, offset and length are
        multiples of `ALIGNMENT` (see `aligned_buffer`); others cost one, but for a device's of whole logical blocks.

        :raise DiskError: naming the range. The buffer's content is then undefined and must not be used.
        """
        if self.is_device:
            require_within(self.size, offset, len(buffer), self.path)
        try:
            if self.is_direct and (offset | len(buffer) | address_of(buffer)) % self._alignment:
                self._read_bounced(buffer, offset)
            else:
                self._read(buffer, offset, len(buffer))
        except OSError as error:
            raise disk_error(f"read {len(buffer)} bytes at {offset}", self.path, error) from error

    def extents(self, start: int, end: int) -> Iterator[Extent]:
        """Data and holes of [start, end); see `extents.extents`.

        :raise DiskError: the storage failed, or the file was cut off.
        """
        try:
            for extent in extents(self._fd, start, end):
                if not self.is_device:  # behind the end of a file there is a hole too
                    require_length(self._fd, self.size, self.path)
                yield extent
        except OSError as error:
            raise disk_error(f"find the data between {start} and {end}", self.path, error) from error

    def drop_cache(self, offset: int, length: int) -> None:
        """Tell the kernel that these pages of the page cache are not needed again. Advice only."""
        os.posix_fadvise(self._fd, offset, length, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """May be called twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, buffer: memoryview, offset: int, needed: int) -> None:
        """Read at least the first `needed` bytes of `buffer`; behind the end of the file there are no more."""
        done = 0
        while done < needed:
            count = os.preadv(self._fd, [buffer[done:]], offset + done)
            if not count:
                raise DiskError(f"{self.path}: the file ends at {offset + done}, {needed - done} bytes are missing")
            done += count

    def _read_bounced(self, buffer: memoryview, offset: int) -> None:
        with aligned_buffer(_BOUNCE) as bounce:
            done = 0
            while done < len(buffer):
                start = (offset + done) // self._alignment * self._alignment
                skip = offset + done - start
                count = min(_BOUNCE - skip, len(buffer) - done)
                whole = -(-(skip + count) // self._alignment) * self._alignment
                self._read(bounce[:whole], start, skip + count)
                buffer[done : done + count] = bounce[skip : skip + count]
                done += count


def measure(fd: int, path: Path, device_size: int | None) -> tuple[int, int]:
    """Size and alignment (bytes) of the disk in the open file, or in the device of which it is the first
    `device_size` bytes.

    :raise DiskError: it is not the device that it should be.
    """
    try:
        device = block_device.facts(fd)
    except OSError as error:
        raise disk_error("look at the device", path, error) from error
    if device_size is None:
        if device is not None:
            raise DiskError(f"{path}: it is a block device, which does not tell the disk's size")
        return os.fstat(fd).st_size, ALIGNMENT
    if device is None or device.size < device_size or device_size % device.block:
        raise DiskError(f"{path}: it is no block device that could hold {device_size} bytes in whole blocks")
    return device_size, device.block


def require_length(fd: int, least: int, path: Path) -> None:
    """For a file that somebody may have cut off: what was behind its end would be taken for zeroes.

    :raise DiskError: it is shorter than `least` bytes. :raise OSError: the storage failed.
    """
    if (length := os.fstat(fd).st_size) < least:
        raise DiskError(
            f"{path}: the file was cut off: it has {length} bytes, and had {least}",
            hint="What was behind its end is lost; see who has resized it.",
        )


def require_within(size: int, offset: int, length: int, path: Path) -> None:
    """For a device, which does not end where the disk does.

    :raise DiskError: the range goes beyond the disk's end.
    """
    if offset < 0 or offset + length > size:
        raise DiskError(f"{path}: the disk ends at {size}; {length} bytes at {offset} go beyond it")


def _open(name: Path | str, flags: int, dir_fd: int | None, direct: bool) -> tuple[int, bool]:
    if direct:
        try:
            return os.open(name, flags | os.O_DIRECT, dir_fd=dir_fd), True
        except OSError as error:
            if error.errno != errno.EINVAL:  # EINVAL: the file system has no direct I/O
                raise
    return os.open(name, flags, dir_fd=dir_fd), False


def address_of(buffer: memoryview) -> int:
    """Where writable memory lies."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer)) if len(buffer) else 0
