"""The destination disk: a raw image that only the mover writes, until QEMU takes it over.

Invariant: what is zero on the source takes no space here as far as the file system allows (thin stays thin), and the
file has its final size from the start, because QEMU reads the size when it starts.

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
from kvmove.disk.fallocate import punch_hole
from kvmove.disk.folder import Folder
from kvmove.disk.raw_file import ALIGNMENT, address_of
from kvmove.errors import CheckFailed
from kvmove.units import MIB, format_size

log = logging.getLogger(__name__)

_ZEROES = memoryview(bytes(MIB))

DIRECT_LEAST = 64 * 1024
"""Bytes from which on a write is direct: a smaller one waits for the storage longer than copying it takes."""


class RawTarget:
    """A raw image, open for writing; see `interface.TargetDisk`. Offsets and lengths in bytes, of any alignment. Safe
    for several threads that write different ranges.

    With `dir_fd`, `path` is for messages and its last part is looked up in that folder.
    """

    def __init__(self, path: Path, *, dir_fd: int | None = None) -> None:
        """Open an existing image. A symbolic link is refused.

        :raise DiskError: it is not there, is a link, or may not be written.
        """
        self._take(path, _open(path, 0, dir_fd))

    @classmethod
    def create(cls, path: Path, size: int, *, reserve: int = 0, dir_fd: int | None = None) -> Self:
        """A new image of `size` bytes that is one hole. `reserve` is what is going to be written to it: so much must
        be free now (nothing keeps it free). The folder's entry is not durable before `sync_folder`.

        :raise CheckFailed: less than `reserve` is free; nothing was created.
        :raise DiskError: it exists, or cannot be created; then nothing is left of it.
        """
        fd = _open(path, os.O_CREAT | os.O_EXCL, dir_fd)
        try:
            _require_free(fd, path, reserve)
            os.truncate(fd, size)
        except BaseException as error:
            os.close(fd)
            os.unlink(path if dir_fd is None else path.name, dir_fd=dir_fd)
            if isinstance(error, OSError):
                raise disk_error(f"make it {size} bytes long", path, error) from error
            raise
        target = cls.__new__(cls)
        target._take(path, fd)
        return target

    def _take(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        self.size = os.fstat(fd).st_size
        self._can_punch = True
        self._direct_fd = _open_direct(fd)

    @property
    def file(self) -> int:
        """The descriptor."""
        return self._fd

    def write_at(self, offset: int, data: memoryview | bytes) -> None:
        """Write all of `data`. It needs no copy if it is large, and `data`, its length and `offset` are multiples of
        `ALIGNMENT` (see `aligned_buffer`).

        :raise DiskError: naming the range; how much of it was written is unknown.
        """
        view = memoryview(data)
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
        if (offset | len(view) | address_of(view)) % ALIGNMENT:
            return 0
        try:
            return os.pwrite(self._direct_fd, view, offset)
        except OSError as error:
            if error.errno != errno.EINVAL:  # EINVAL: the storage wants another alignment
                raise
            return 0

    def write_zeroes(self, offset: int, length: int) -> None:
        """Make the range zero and give its space back where the file system can; else write zeroes.

        :raise DiskError: naming the range; how much of it is zero is unknown.
        """
        if not length:
            return
        try:
            if self._can_punch and punch_hole(self._fd, offset, length):
                return
        except OSError as error:
            raise disk_error(f"make {length} bytes at {offset} zero", self.path, error) from error
        self._can_punch = False
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
        """Make the file's entry in its folder durable.

        :raise DiskError: the storage failed.
        """
        try:
            with Folder.at(self.path.parent) as folder:
                folder.sync()
        except OSError as error:
            raise disk_error("make its folder durable", self.path, error) from error

    def allocated(self) -> int:
        """Bytes that it takes on the file system, as far as that has decided yet (delayed allocation)."""
        return os.fstat(self._fd).st_blocks * 512

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
        return os.open(name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600, dir_fd=dir_fd)
    except OSError as error:
        raise disk_error("create it" if flags else "open it", path, error) from error


def _open_direct(fd: int) -> int:
    """The same file, opened for direct writes; -1 where its file system knows none."""
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC | os.O_DIRECT)
    except OSError as error:
        log.info("the destination disk has no direct writes, so they go through the page cache: %s", error.strerror)
        return -1


def _require_free(fd: int, path: Path, reserve: int) -> None:
    system = os.fstatvfs(fd)
    free = system.f_bavail * system.f_frsize
    if free < reserve:
        raise CheckFailed(
            f"{path.parent} has {format_size(free)} free; the disk's data needs {format_size(reserve)}",
            hint="Free space on the datastore, or choose another.",
        )
