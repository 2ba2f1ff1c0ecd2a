"""Disks that are no plain files: images that QEMU's own block layer reads and writes for us, over NBD.

    who serves it                                   what it is
    a running VM's QEMU (qemu/disk_export)          the source, read only, while the guest writes
    a storage daemon (qemu/storage_daemon)          the target, or a source whose VM is off

Invariant: data is never taken for a hole. QEMU says of each range whether it reads as zeroes; what it does not say is
read. As with a file, the answer may be out of date at once when a guest writes: that write is mirrored.

Deliberately not here: starting and ending who serves it.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from kvmove.disk.errors import DiskError, disk_error
from kvmove.disk.extents import Extent
from kvmove.disk.folder import Folder
from kvmove.disk.raw_file import require_length
from kvmove.nbd.client import SERVER_SECONDS, NbdClient, NbdError
from kvmove.nbd.protocol import ALLOCATION_DEPTH, BASE_ALLOCATION, STATUS_ZERO
from kvmove.nbd.replies import StatusRun

TOP = 1
"""The depth of the top image of a chain."""


class _NbdDisk:
    """What a source and a target have in common: the connection. `path` is the image's, for messages."""

    file = None

    def __init__(self, path: Path, client: NbdClient) -> None:
        self.path = path
        self.size = client.size
        self._client = client

    def drop_cache(self, offset: int, length: int) -> None:
        """Nothing: the cache is QEMU's."""

    def close(self) -> None:
        """End the connections; who serves the image goes on. Not a `sync`. May be called twice."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class NbdSource(_NbdDisk):
    """See `interface.SourceDisk`. With `top_only` it is an overlay: the images below it are left out of `extents`."""

    is_direct = True

    def __init__(
        self, path: Path, socket: Path, export: str, *, top_only: bool = False, timeout: float = SERVER_SECONDS
    ) -> None:
        """Connect to the export `export` at `socket`, which must tell allocation depths for `top_only`. `timeout` in
        seconds is for each wait for the server.

        :raise DiskError: nobody serves it there, or not so.
        """
        contexts = (BASE_ALLOCATION, ALLOCATION_DEPTH) if top_only else (BASE_ALLOCATION,)
        with _named(path):
            super().__init__(path, NbdClient(socket, export, contexts=contexts, timeout=timeout))
        self.is_overlay = top_only
        try:
            self._image = os.open(path, os.O_PATH | os.O_CLOEXEC)  # takes no locks
            self._length = os.fstat(self._image).st_size
        except OSError as error:
            super().close()
            raise disk_error("look at it", path, error) from error

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` from `offset`.

        :raise DiskError: naming the range. The buffer's content is then undefined and must not be used.
        """
        with _named(self.path):
            self._client.read_into(buffer, offset)
        self._require_length()

    def extents(self, start: int, end: int) -> Iterator[Extent]:
        """Data and holes of [start, end); an overlay has gaps too. Neighbours in one answer of QEMU differ in kind.

        :raise DiskError: QEMU cannot tell, or the image's file was cut off.
        """
        at = start
        while at < end:
            with _named(self.path):
                status = self._client.block_status(at, end - at)
            self._require_length()
            depths = status[ALLOCATION_DEPTH] if self.is_overlay else [StatusRun(end - at, TOP)]
            for length, in_top, is_zero in merge(status[BASE_ALLOCATION], depths, end - at):
                if in_top:
                    yield Extent(at, length, not is_zero)
                at += length

    def _require_length(self) -> None:
        """QEMU reads zeroes behind the end of an image's file, which only ever grows (block/file-posix.c)."""
        try:
            require_length(self._image, self._length, self.path)
        except OSError as error:
            raise disk_error("look at it", self.path, error) from error

    def close(self) -> None:
        """See `_NbdDisk`."""
        super().close()
        image, self._image = self._image, -1
        if image >= 0:
            os.close(image)


class NbdTarget(_NbdDisk):
    """See `interface.TargetDisk`. Safe for several threads that write different ranges."""

    def __init__(
        self, path: Path, socket: Path, export: str, *, thick: bool = False, timeout: float = SERVER_SECONDS
    ) -> None:
        """Connect to the writable export `export` at `socket`. With `thick` zeroes keep their space allocated.

        :raise DiskError: nobody serves it there.
        """
        with _named(path):
            super().__init__(path, NbdClient(socket, export, timeout=timeout))
        self._thick = thick

    def write_at(self, offset: int, data: memoryview | bytes) -> None:
        """Write all of `data`.

        :raise DiskError: naming the range; how much of it was written is unknown.
        """
        with _named(self.path):
            self._client.write(offset, memoryview(data))

    def write_zeroes(self, offset: int, length: int) -> None:
        """Make the range zero and, unless thick, give its space back.

        :raise DiskError: naming the range; how much of it is zero is unknown.
        """
        with _named(self.path):
            self._client.write_zeroes(offset, length, may_punch=not self._thick)

    def sync(self) -> None:
        """Make data and the image's own tables durable.

        :raise DiskError: the disk cannot be trusted any more; throw it away.
        """
        with _named(self.path):
            self._client.flush()

    def sync_folder(self) -> None:
        """Make the image's entry in its folder durable.

        :raise DiskError: the storage failed.
        """
        try:
            with Folder.at(self.path.parent) as folder:
                folder.sync()
        except OSError as error:
            raise disk_error("make its folder durable", self.path, error) from error


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """What fails in it is about the image `path`."""
    try:
        yield
    except NbdError as error:
        raise DiskError(f"{path}: {error.detail}", error.number) from error


class Piece(NamedTuple):
    """`length` bytes of an image. What is not `in_top` comes from the images below, zero or not."""

    length: int
    in_top: bool
    is_zero: bool


def merge(zeroes: Iterable[StatusRun], depths: Iterable[StatusRun], most: int) -> list[Piece]:
    """What two block statuses of one place tell together, base:allocation and allocation depth: up to the end of the
    shorter one, but no more than `most` bytes. Neighbours differ. No run is empty."""
    pieces: list[Piece] = []
    zero_runs, depth_runs = iter(zeroes), iter(depths)
    zero = depth = StatusRun(0, 0)
    while most:
        zero, depth = zero if zero.length else next(zero_runs, zero), depth if depth.length else next(depth_runs, depth)
        length = min(zero.length, depth.length, most)
        if not length:
            break
        in_top = depth.flags == TOP
        piece = Piece(length, in_top, in_top and bool(zero.flags & STATUS_ZERO))
        if pieces and pieces[-1][1:] == piece[1:]:
            piece = piece._replace(length=length + pieces.pop().length)
        pieces.append(piece)
        zero, depth = StatusRun(zero.length - length, zero.flags), StatusRun(depth.length - length, depth.flags)
        most -= length
    return pieces
