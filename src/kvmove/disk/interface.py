"""What a disk is to those who copy it, whatever its image's format: a source that is read, a target that is written.

    image                        source                    target
    raw, a plain file            raw_file.RawFile          raw_target.RawTarget
    any that QEMU knows          nbd_disk.NbdSource        nbd_disk.NbdTarget

Offsets and lengths are bytes. Errors are KvmoveErrors that name the disk and the range. Calls may come from several
threads at once.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from kvmove.disk.extents import Extent


class SourceDisk(Protocol):
    """A disk that is read, also while a guest writes to it."""

    @property
    def path(self) -> Path:
        """The image, for messages."""

    @property
    def size(self) -> int: ...

    @property
    def file(self) -> int | None:
        """The descriptor of a file whose bytes are the disk's bytes; None if there is no such file."""

    @property
    def is_direct(self) -> bool:
        """Whether reads bypass the page cache; then `sendfile` is no use."""

    @property
    def is_overlay(self) -> bool:
        """Whether this is the top image of a chain of which the target has the others. What nobody writes to the
        target then reads as they do, not as zeroes: so holes must be written, also to a target that is still empty."""

    def extents(self, start: int, end: int) -> Iterator[Extent]:
        """Data and holes of [start, end) in order, looked up as they are asked for.

        A gap is a range that the target has already, from its own copy of the chain's other images. Only an overlay
        has gaps.
        """

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` from `offset`.

        :raise KvmoveError: the disk cannot be read there; names the range.
        """

    def drop_cache(self, offset: int, length: int) -> None:
        """These bytes are not read again. Advice only."""

    def close(self) -> None:
        """May be called twice."""


class TargetDisk(Protocol):
    """A disk that only the mover writes. It reads as zeroes, or as its backing image, where nothing was written."""

    @property
    def path(self) -> Path:
        """The image, for messages."""

    @property
    def size(self) -> int: ...

    @property
    def file(self) -> int | None:
        """The descriptor of a file whose bytes are the disk's bytes, open for writing; None if there is none."""

    def write_at(self, offset: int, data: memoryview, /) -> None:
        """Write all of `data`.

        :raise KvmoveError: how much of it was written is unknown.
        """

    def write_zeroes(self, offset: int, length: int) -> None:
        """Make the range zero; a thin disk gives its space back.

        :raise KvmoveError: how much of it is zero is unknown.
        """

    def sync(self) -> None:
        """Make what was written durable.

        :raise KvmoveError: the disk cannot be trusted any more; throw it away.
        """

    def sync_folder(self) -> None:
        """Make the image's entry in its folder durable.

        :raise KvmoveError: the storage failed.
        """

    def drop_cache(self, offset: int, length: int) -> None:
        """These bytes are not needed again; what is not written yet stays. Advice only."""

    def close(self) -> None:
        """Not a `sync`. May be called twice."""
