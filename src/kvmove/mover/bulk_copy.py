"""The bulk copy of one region: what is read, what is a hole, and the frames that carry it. No threads, no sockets.

A region is looked at only after it is COPYING (region_map): holes are asked for, and data is read, inside this
generator, never before. A guest write that comes in between is mirrored and sent behind the region's bulk data.

- Holes are not sent at all while the destination holds nothing of the region, else as ZEROES.
- Zeroes that the source stores are sent as ZEROES too, so a thin destination stays thin.
- A read error ends the move: the range is named, and never filled with zeroes.

Deliberately not here: which region, which stream (dispatcher), sending (sender).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from kvmove.disk.extents import GRANULARITY, split_zeroes
from kvmove.disk.raw_file import aligned_buffer
from kvmove.wire import frames

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmove.disk.extents import Extent
    from kvmove.mover.region_map import RegionCopy

CHUNK = 256 * 1024
"""Bytes of a bulk frame: 2 ms of a 1 Gbit/s wire, so that a mirrored write need not wait long behind one."""

ZERO_GRAIN = GRANULARITY
"""Bytes in which stored zeroes are looked for."""

SMALL = 64 * 1024
"""Data below this size is copied out of its buffer, so that short extents do not hold whole buffers."""


class SourceDisk(Protocol):
    """What the bulk copy needs of a disk. Offsets and lengths in bytes."""

    @property
    def size(self) -> int: ...

    @property
    def is_direct(self) -> bool:
        """Whether reads bypass the page cache; then they are aligned, and `sendfile` is no use."""

    def fileno(self) -> int: ...

    def extents(self, start: int, end: int) -> Iterator[Extent]:
        """Data and holes of [start, end) in order, without gaps, looked up as they are asked for."""

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` from `offset`.

        :raise KvmoveError: the disk cannot be read there; names the range.
        """


class Buffer:
    """A page-aligned buffer of CHUNK bytes that returns to its pool when what it holds has been sent."""

    def __init__(self, pool: BufferPool) -> None:
        self._pool = pool
        self.view = aligned_buffer(CHUNK)

    def release(self) -> None:
        self._pool.free.append(self)


class BufferPool:
    """Buffers of one sender; as many as can be unsent at once."""

    def __init__(self, count: int) -> None:
        self.free: list[Buffer] = [Buffer(self) for _ in range(count)]

    def take(self) -> Buffer:
        """A free buffer. The caller bounds what is unsent, so there is one; IndexError is a defect."""
        return self.free.pop()


@dataclass(slots=True)
class BulkFrame:
    """A frame to send: its header, then either `data`, or `length` bytes of the source's file, or nothing.

    `buffer` is set when `data` lies in a pool's buffer, to be released once sent.
    """

    header: bytes
    data: memoryview | bytes | None = None
    buffer: Buffer | None = None
    file_offset: int = 0
    file_length: int = 0

    @property
    def size(self) -> int:
        """Bytes of the disk's data in it."""
        return self.file_length or (len(self.data) if self.data is not None else 0)


def region_frames(disk: SourceDisk, copy: RegionCopy, pool: BufferPool, *, use_sendfile: bool) -> Iterator[BulkFrame]:
    """The frames of one visit to a region, each read only when it is asked for.

    With `use_sendfile` data goes from the page cache to the socket without us, but for places that look like zeroes.
    """
    for offset, length, is_data in disk.extents(copy.offset, copy.offset + copy.length):
        if not is_data:
            if not copy.untouched:
                yield BulkFrame(frames.zeroes(copy.disk, offset, length))
            continue
        for start in range(offset, offset + length, CHUNK):
            size = min(CHUNK, offset + length - start)
            if use_sendfile and not _may_be_zero(disk, start, size):
                yield BulkFrame(frames.data_header(copy.disk, start, size), file_offset=start, file_length=size)
            else:
                yield from _read_chunk(disk, copy, pool, (start, size))


def _may_be_zero(disk: SourceDisk, offset: int, length: int) -> bool:
    """A look at the first bytes of each grain: random data says no at once."""
    return any(not any(os.pread(disk.fileno(), 64, at)) for at in range(offset, offset + length, ZERO_GRAIN))


def _read_chunk(disk: SourceDisk, copy: RegionCopy, pool: BufferPool, extent: tuple[int, int]) -> Iterator[BulkFrame]:
    start, size = extent
    buffer = pool.take()
    view = buffer.view[:size]
    disk.read_into(view, start)
    runs = split_zeroes(view, ZERO_GRAIN)
    if len(runs) == 1 and not runs[0].is_zero and size >= SMALL:
        yield BulkFrame(frames.data_header(copy.disk, start, size), view, buffer)
        return
    pieces = [
        (begin, length, None if is_zero else bytes(view[begin : begin + length])) for begin, length, is_zero in runs
    ]
    buffer.release()
    for begin, length, data in pieces:
        if data is not None:
            yield BulkFrame(frames.data_header(copy.disk, start + begin, length), data)
        elif not copy.untouched:
            yield BulkFrame(frames.zeroes(copy.disk, start + begin, length))
