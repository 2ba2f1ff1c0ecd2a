"""The bulk copy of one region: what is read, what is a hole, and the frames that carry it. No threads, no sockets.

A region is looked at only after it is COPYING (region_map): holes are asked for, and data is read, inside this
generator, never before. A guest write that comes in between is mirrored and sent behind the region's bulk data.

- Holes are not sent at all while the destination reads as zeroes there (an untouched region), else as ZEROES.
- Zeroes that the source stores are sent as ZEROES too, so a thin destination stays thin.
- What is neither may be compressed, by `pack`.
- A read error ends the move: the range is named, and never filled with zeroes.

Deliberately not here: which region, which stream (dispatcher), sending (sender).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from kvmove.disk.extents import GRANULARITY, Extent, is_zero, split_zeroes
from kvmove.disk.interface import SourceDisk
from kvmove.disk.raw_file import ALIGNMENT, aligned_buffer
from kvmove.wire import frames

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvmove.mover.region_map import RegionCopy

CHUNK = 256 * 1024
"""Bytes of a bulk frame: 2 ms of a 1 Gbit/s wire, so that a mirrored write need not wait long behind one."""

ZERO_GRAIN = GRANULARITY
"""Bytes in which stored zeroes are looked for."""

SMALL = 64 * 1024
"""An extent below this size (bytes) is gathered with others into one item."""


EDGE = ALIGNMENT
"""Bytes at a multiple of which a window of short extents begins, as direct reads want it."""


WINDOW = 1024 * 1024 + EDGE
"""Bytes read at once for short extents, as far as nothing but holes lies between them: those of a whole region."""


Pack = Callable[[int, memoryview], bytes | None]
"""The payload to send compressed instead of a disk's data, or None: send it as it is."""


def as_it_is(disk: int, data: memoryview) -> bytes | None:
    """See `Pack`."""
    del disk, data
    return None


class Buffer:
    """A page-aligned buffer of CHUNK bytes that returns to its pool when what it holds has been sent."""

    def __init__(self, pool: BufferPool) -> None:
        self._pool = pool
        self.view = aligned_buffer(CHUNK)

    def release(self) -> None:
        self._pool.free.append(self)


class BufferPool:
    """Buffers of one sender; as many as can be unsent at once, and the window through which it reads short extents."""

    def __init__(self, count: int) -> None:
        self.window = aligned_buffer(WINDOW)
        self.free: list[Buffer] = [Buffer(self) for _ in range(count)]

    def take(self) -> Buffer:
        """A free buffer. The caller bounds what is unsent, so there is one; IndexError is a defect."""
        return self.free.pop()


@dataclass(slots=True)
class BulkFrame:
    """What is sent at once: `encoded`, and behind it either `data`, or `size` bytes of the source's file, or nothing.

    `encoded` is a frame's header; or whole frames with their data, then `count` says how many. `size` is the bytes of
    the disk's data in it. `buffer` is what holds `data`, to be released once sent. `file` is the source's
    descriptor and `file_offset` where in it the bytes lie.
    """

    encoded: bytes
    size: int = 0
    count: int = 1
    data: memoryview | None = None
    buffer: Buffer | None = None
    file: int | None = None
    file_offset: int = 0


def region_frames(
    disk: SourceDisk, copy: RegionCopy, pool: BufferPool, *, use_sendfile: bool, pack: Pack = as_it_is
) -> Iterator[BulkFrame]:
    """The frames of one visit to a region, each read only when it is asked for, in no particular order.

    With `use_sendfile`, if the disk is a file, data goes from the page cache to the socket without us, but for places
    that look like zeroes.
    """
    file = disk.file if use_sendfile else None
    short = _ShortFrames(disk, copy, pool.window)
    extents = list(chain.from_iterable(disk.extents(*span) for span in copy.spans()))
    for (offset, length, is_data), short_end in zip(extents, _short_ends(extents), strict=True):
        if not is_data:
            short.add_zeroes(offset, length)
            continue
        for start in range(offset, offset + length, CHUNK):
            size = min(CHUNK, offset + length - start)
            if size < SMALL:
                short.add_data(start, size, max(start + size, short_end))
            elif file is not None and not _may_be_zero(file, start, size):
                yield BulkFrame(frames.data_header(copy.disk, start, size), size, file=file, file_offset=start)
            else:
                yield from _read_chunk(disk, copy, pool, (start, size), pack)
        if short.size >= CHUNK:
            yield short.take()
    if short.count:
        yield short.take()


def _short_ends(extents: Sequence[Extent]) -> list[int]:
    """For each extent where the short ones end that may be read at once with it: before the next that is not short, of
    which nothing is to be read twice."""
    ends, end = [], 0
    for offset, length, is_data in reversed(extents):
        if is_data:
            end = max(end, offset + length) if length < SMALL else 0
        ends.append(end)
    return ends[::-1]


class _ShortFrames:
    """The short frames of one region, gathered until they are worth a turn of the threads behind this.

    A disk that was written here and there has thousands of them. They are read a window at a time: reading the holes
    between them costs less than a system call for each.
    """

    def __init__(self, disk: SourceDisk, copy: RegionCopy, buffer: memoryview) -> None:
        self.count = 0
        self.size = 0
        self._disk = disk
        self._copy = copy
        self._parts: list[bytes] = []
        self._buffer = buffer
        self._window = buffer[:0]
        self._window_start = 0

    def add_zeroes(self, offset: int, length: int) -> None:
        """Tell of a range without data, unless the destination cannot hold anything there yet."""
        if not self._copy.untouched:
            self._parts.append(frames.zeroes(self._copy.disk, offset, length))
            self.count += 1

    def add_data(self, offset: int, length: int, end: int) -> None:
        """Read less than SMALL bytes at `offset`; up to `end` more of the same kind may follow."""
        data = self._read(offset, length, end)
        if is_zero(data):
            self.add_zeroes(offset, length)
            return
        self._parts += (frames.data_header(self._copy.disk, offset, length), bytes(data))
        self.count += 1
        self.size += length

    def take(self) -> BulkFrame:
        """What was gathered, as one item."""
        frame = BulkFrame(b"".join(self._parts), self.size, self.count)
        self._parts, self.count, self.size = [], 0, 0
        return frame

    def _read(self, offset: int, length: int, end: int) -> memoryview:
        at = offset - self._window_start
        if not 0 <= at <= len(self._window) - length:
            start = offset // EDGE * EDGE
            end = min(start + len(self._buffer), -(-end // EDGE) * EDGE, self._copy.offset + self._copy.length)
            self._window = self._buffer[: end - start]
            self._disk.read_into(self._window, start)
            self._window_start, at = start, offset - start
        return self._window[at : at + length]


def _may_be_zero(file: int, offset: int, length: int) -> bool:
    """A look at the first bytes of each grain: random data says no at once."""
    return any(not any(os.pread(file, 64, at)) for at in range(offset, offset + length, ZERO_GRAIN))


def _read_chunk(
    disk: SourceDisk, copy: RegionCopy, pool: BufferPool, extent: tuple[int, int], pack: Pack
) -> Iterator[BulkFrame]:
    start, size = extent
    buffer = pool.take()
    view = buffer.view[:size]
    disk.read_into(view, start)
    runs = split_zeroes(view, ZERO_GRAIN)
    if len(runs) == 1 and not runs[0].is_zero:
        packed = pack(copy.disk, view)
        if packed is None:
            yield BulkFrame(frames.data_header(copy.disk, start, size), size, data=view, buffer=buffer)
            return
        buffer.release()
        yield BulkFrame(frames.zstd_header(copy.disk, start, len(packed)) + packed, size)
        return
    pieces = [
        (begin, length, None if is_hole else _whole_frame(copy.disk, start + begin, view[begin : begin + length], pack))
        for begin, length, is_hole in runs
    ]
    buffer.release()
    for begin, length, frame in pieces:
        if frame is not None:
            yield BulkFrame(frame, length)
        elif not copy.untouched:
            yield BulkFrame(frames.zeroes(copy.disk, start + begin, length))


def _whole_frame(disk: int, offset: int, data: memoryview, pack: Pack) -> bytes:
    """A frame with its data, which may change afterwards."""
    packed = pack(disk, data)
    if packed is not None:
        return frames.zstd_header(disk, offset, len(packed)) + packed
    return frames.data_header(disk, offset, len(data)) + bytes(data)
