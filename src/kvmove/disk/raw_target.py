"""The destination disk: a raw image, or a block device, that only the mover writes, until QEMU takes it over.

Invariant: in a thin image what is zero on the source takes no space as far as the file system allows; a thick one has
all its space from the start and keeps it, and so has a block device. The file has its final size from the start,
because QEMU reads the size when it starts.

Large writes go past the page cache (O_DIRECT) where the file system can: the data is not read again before the guest
runs, filling the cache would push other files out of it, and a fresh page costs the processor more than all else that
the destination does. Small ones go through it. `sync` makes both durable. After a failed `sync` the kernel may have
dropped the pages that it could not write, so the disk must be thrown away: a second `sync` that succeeds would prove
nothing.
"""

import errno
import logging
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from kvmove.disk.errors import disk_error
from kvmove.disk.fallocate import allocate, punch_hole, zero_range
from kvmove.disk.folder import Folder
from kvmove.disk.raw_file import address_of, measure, require_within
from kvmove.units import MIB

log = logging.getLogger(__name__)

_ZEROES = memoryview(bytes(MIB))

DIRECT_LEAST = 64 * 1024
"""Bytes from which on a write is direct: a smaller one waits for the storage longer than copying it takes."""


class RawTarget:
    """A raw image, open for writing; see `interface.TargetDisk`. Offsets and lengths in bytes, of any alignment. Safe
    for several threads that write different ranges.

    With `dir_fd`, `path` is for messages and its last part is looked up in that folder.
    `is_blank`: it held nothing when it was opened, so zeroes need no writing. A device holds what was there before.
    """

    def __init__(
        self, path: Path, *, thick: bool = False, dir_fd: int | None = None, device_size: int | None = None
    ) -> None:
        """Open an existing image. A symbolic link is refused. A `thick` one keeps its space whatever is written.

        With `device_size` it is a block device of which the disk is the first so many bytes; links lead to devices.

        :raise DiskError: it is not there, is a link, is no such device, or may not be written.
        """
        fd = _open(path, 0 if device_size is not None else os.O_NOFOLLOW, dir_fd)
        self._take(path, fd, thick, device_size)

    @classmethod
    def create(cls, path: Path, size: int, *, thick: bool = False, dir_fd: int | None = None) -> Self:
        """A new image of `size` bytes that is one hole; a `thick` one has all its space. The folder's entry is not
        durable before `sync_folder`.

        :raise DiskError: it exists, cannot be created, or is thick and there is too little space; nothing is left.
        """
        fd = _open(path, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, dir_fd)
        try:
            os.truncate(fd, size)
            if thick and not allocate(fd, size):
                _fill(fd, size)
        except BaseException as error:
            os.close(fd)
            os.unlink(path if dir_fd is None else path.name, dir_fd=dir_fd)
            if isinstance(error, OSError):
                raise disk_error(f"make it {size} bytes long", path, error) from error
            raise
        target = cls.__new__(cls)
        target._take(path, fd, thick, None)
        return target

    def _take(self, path: Path, fd: int, thick: bool, device_size: int | None) -> None:
        self.path = path
        self.is_device = device_size is not None
        self._fd, self._direct_fd = fd, -1
        try:
            self.size, self._alignment = measure(fd, path, device_size)
            self.is_blank = not self.is_device and _is_hole(fd)
        except OSError as error:
            self.close()
            raise disk_error("look what it holds", path, error) from error
        except BaseException:
            self.close()
            raise
        self._clear = zero_range if thick or self.is_device else punch_hole
        self._can_clear = True
        self._direct_fd = _open_direct(fd)

    @property
    def file(self) -> int:
        """The descriptor."""
        return self._fd

    def write_at(self, offset: int, data: memoryview | bytes) -> None:
        """Write all of `data`. It needs no copy if it is large, and `data`, its length and `offset` are multiples of
        `raw_file.ALIGNMENT` (see `aligned_buffer`).

        :raise DiskError: naming the range; how much of it was written is unknown.
        """
        view = memoryview(data)
        if self.is_device:
            require_within(self.size, offset, len(view), self.path)
        try:
            if self._direct_fd >= 0 and len(view) >= DIRECT_LEAST and not view.readonly:
                written = self._write_direct(offset, view)
                view, offset = view[written:], offset + written
            while view:
                count = os.pwrite(self._fd, view, offset)
                view = view[count:]
                offset += count
        except OSError as error:
            raise disk_error(f"write {len(view)} bytes at {offset}", self.path, error) from error

    def _write_direct(self, offset: int, view: memoryview) -> int:
        """Bytes written past the page cache; what is left goes through it."""
        if (offset | len(view) | address_of(view)) % self._alignment:
            return 0
        try:
            return os.pwrite(self._direct_fd, view, offset)
        except OSError as error:
            if error.errno != errno.EINVAL:  # EINVAL: the storage wants another alignment
                raise
            return 0

    def write_zeroes(self, offset: int, length: int) -> None:
        """Make the range zero; a thin image gives its space back where the file system can. Else zeroes are written.

        :raise DiskError: naming the range; how much of it is zero is unknown.
        """
        if self.is_device:
            require_within(self.size, offset, length, self.path)
            start = -(-offset // self._alignment) * self._alignment  # a device clears whole logical blocks
            end = (offset + length) // self._alignment * self._alignment
            if start < end and self._cleared(start, end - start):
                self._write_zeroes(offset, start - offset)
                self._write_zeroes(end, offset + length - end)
                return
        elif not length or self._cleared(offset, length):
            return
        self._write_zeroes(offset, length)

    def _cleared(self, offset: int, length: int) -> bool:
        """Whether the kernel could make the range zero; it is not asked again once it could not."""
        try:
            self._can_clear = self._can_clear and self._clear(self._fd, offset, length)
        except OSError as error:
            raise disk_error(f"make {length} bytes at {offset} zero", self.path, error) from error
        return self._can_clear

    def _write_zeroes(self, offset: int, length: int) -> None:
        while length:
            count = min(length, len(_ZEROES))
            self.write_at(offset, _ZEROES[:count])
            offset += count
            length -= count

    def sync(self) -> None:
        """Make what was written durable (fdatasync).

        :raise DiskError: the disk cannot be trusted any more; throw it away.
        """
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise disk_error("make it durable", self.path, error) from error

    def sync_folder(self) -> None:
        """Make the file's entry in its folder durable; a device has none that is ours.

        :raise DiskError: the storage failed.
        """
        if self.is_device:
            return
        try:
            with Folder.at(self.path.parent) as folder:
                folder.sync()
        except OSError as error:
            raise disk_error("make its folder durable", self.path, error) from error

    def allocated(self) -> int:
        """Bytes that it takes on the file system, as far as that has decided yet (delayed allocation); a device's are
        all taken."""
        return self.size if self.is_device else os.fstat(self._fd).st_blocks * 512

    def drop_cache(self, offset: int, length: int) -> None:
        """Tell the kernel that these pages are not needed again; pages that are not written yet stay. Advice only."""
        os.posix_fadvise(self._fd, offset, length, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """Not a `sync`. May be called twice."""
        for fd in (self._fd, self._direct_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._direct_fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _open(path: Path, flags: int, dir_fd: int | None) -> int:
    name = path if dir_fd is None else path.name
    try:
        return os.open(name, os.O_RDWR | os.O_CLOEXEC | flags, 0o600, dir_fd=dir_fd)
    except OSError as error:
        raise disk_error("create it" if flags & os.O_CREAT else "open it", path, error) from error


def _open_direct(fd: int) -> int:
    """The same file, opened for direct writes; -1 where its file system knows none."""
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC | os.O_DIRECT)
    except OSError as error:
        log.info("the destination disk has no direct writes, so they go through the page cache: %s", error.strerror)
        return -1


def _is_hole(fd: int) -> bool:
    """Whether a file holds nothing at all, as far as its file system can tell."""
    try:
        os.lseek(fd, 0, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:  # no data
            return True
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
    return os.fstat(fd).st_blocks == 0


def _fill(fd: int, size: int) -> None:
    """Take space by writing zeroes, where the file system has no other way."""
    offset = 0
    while offset < size:
        offset += os.pwrite(fd, _ZEROES[: min(len(_ZEROES), size - offset)], offset)
