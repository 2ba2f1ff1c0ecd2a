"""A model of one move's disks: a guest, mirrored writes on their way, streams, and a destination. No I/O, no clock.

Everything that can happen at once in the product happens here in any order: a guest's write reaches the source
before its mirrored copy arrives, a region is read and sent in two steps, a dead stream still delivers what it had
on the wire until it is fenced. `check` holds the invariant that the switchover relies on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from kvmove.disk.extents import Extent
from kvmove.mover import bulk_copy
from kvmove.mover.bulk_copy import BufferPool, BulkFrame, region_frames
from kvmove.mover.dispatcher import DiskTerms, Dispatcher, Limits, WritePiece
from kvmove.mover.region_map import RegionCopy
from kvmove.wire import frames
from kvmove.wire.frames import FrameKind

REGION = 16
CHUNK = 8
GRAIN = 4
READ_AHEAD = 3


class ModelDisk:
    """A source disk in memory, in which grains of zeroes are holes."""

    path = Path("model")
    file = None
    is_direct = True
    is_overlay = False

    def __init__(self, size: int) -> None:
        self.content = bytearray(size)

    @property
    def size(self) -> int:
        return len(self.content)

    def extents(self, start: int, end: int) -> Iterator[Extent]:
        for at in range(start, end, GRAIN):
            size = min(GRAIN, end - at)
            yield Extent(at, size, any(self.content[at : at + size]))

    def read_into(self, buffer: memoryview, offset: int) -> None:
        buffer[:] = self.content[offset : offset + len(buffer)]

    def drop_cache(self, offset: int, length: int) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass
class Mirrored:
    """A guest write that the source disk has and that has not arrived at the mirror."""

    cookie: int
    disk: int
    offset: int
    length: int
    payload: bytes | None
    is_trim: bool = False


def split(raw: bytes) -> Iterator[bytes]:
    """The frames that `raw` is made of."""
    while raw:
        frame = frames.decode(raw)
        size = frames.HEADER_SIZE + (frame.length if frame.kind is FrameKind.DATA else 0)
        yield raw[:size]
        raw = raw[size:]


@dataclass
class ModelStream:
    """One stream as both ends see it. `job` is the region copy that its reader is at, `reads` what is not queued yet;
    no frame there means that all of the region was read."""

    wire: deque[bytes] = field(default_factory=deque)
    applied: int = 0
    alive: bool = True
    fenced: bool = False
    job: tuple[RegionCopy, Iterator[BulkFrame]] | None = None
    pool: BufferPool = field(default_factory=lambda: BufferPool(READ_AHEAD + 1))
    reads: deque[tuple[RegionCopy, BulkFrame | None]] = field(default_factory=deque)


class MoverModel:
    """Drives a Dispatcher and keeps the truth beside it."""

    disk_type: type[ModelDisk] = ModelDisk

    def __init__(
        self, disks: list[DiskTerms], make: Callable[[list[DiskTerms], int, Limits], Dispatcher] = Dispatcher
    ) -> None:
        bulk_copy.CHUNK, bulk_copy.ZERO_GRAIN, bulk_copy.EDGE = CHUNK, GRAIN, GRAIN
        bulk_copy.SMALL = GRAIN + 1
        self.limits = Limits(high_mark=24, low_mark=8, budget=2.0)
        self.terms = disks
        self.dispatcher = make(disks, REGION, self.limits)
        self.dispatcher.copying = True
        self.sources = [self.disk_type(disk.size) for disk in disks]
        self.targets = [bytearray(disk.size) if disk.blank else bytearray(b"?" * disk.size) for disk in disks]
        self.arriving: list[Mirrored] = []
        self.streams: dict[int, ModelStream] = {}
        self.unanswered: set[int] = set()
        self.now = 0.0
        self.cookies = 0
        self.make = make
        self.record: list[tuple[int, int, int]] = []
        self.kept = [bytes(-(-disk.size // REGION)) for disk in disks]
        self.since = self.turned = 0

    # The agent dies.

    def checkpoint(self) -> None:
        """What the agent keeps, and from where on the record of the guest's writes goes with it."""
        self.kept = [disk.regions.at_rest() for disk in self.dispatcher.disks]
        self.since = self.turned

    def restart(self, unseen: list[tuple[int, int, int]]) -> None:
        """The agent dies, and the next goes on; `unseen` are writes (disk, offset, fill) that no mirror brings."""
        for stream in self.streams.values():
            stream.alive, stream.fenced = False, True  # the destination ends them before it takes others
        self.arriving.clear()
        self.unanswered.clear()
        for disk, offset, fill in unseen:
            self.guest_write(disk, offset, bytes([fill]) * GRAIN, GRAIN)
        self.arriving.clear()
        self.unanswered.clear()
        terms = [replace(terms, kept=kept) for terms, kept in zip(self.terms, self.kept, strict=True)]
        self.dispatcher = self.make(terms, REGION, self.limits)
        self.open_stream()
        for disk, offset, length in self.take_up():
            self.dispatcher.unspecified(disk, (offset, length))
        self.dispatcher.copying = True

    def take_up(self) -> list[tuple[int, int, int]]:
        """The record of the guest's writes is turned, and what it holds since the checkpoint is read."""
        self.turned = len(self.record)
        return self.record[self.since :]

    # The guest.

    def guest_write(self, disk: int, offset: int, payload: bytes | None, length: int, *, is_trim: bool = False) -> None:
        source = self.sources[disk]
        length = min(length, source.size - offset)
        data = bytes(length) if payload is None else payload[:length]
        source.content[offset : offset + length] = data
        self.record.append((disk, offset, length))
        self.cookies += 1
        self.unanswered.add(self.cookies)
        content = None if payload is None else data
        self.arriving.append(Mirrored(self.cookies, disk, offset, length, content, is_trim))

    def arrive(self, pick: int) -> None:
        """A mirrored write arrives; overlapping ones keep their order."""
        if not self.arriving:
            return
        chosen = self.arriving[pick % len(self.arriving)]
        end = chosen.offset + chosen.length
        for earlier in self.arriving:
            if earlier.disk == chosen.disk and earlier.offset < end and chosen.offset < earlier.offset + earlier.length:
                chosen = earlier
                break
        self.arriving.remove(chosen)
        extent = (chosen.offset, chosen.length)
        if chosen.is_trim:
            self.dispatcher.unspecified(chosen.disk, extent)
            self.unanswered.remove(chosen.cookie)
        elif self.dispatcher.mirrored(chosen.disk, extent, chosen.payload, chosen.cookie, self.now):
            self.unanswered.remove(chosen.cookie)
        self._answer()

    def _answer(self) -> None:
        for _, cookie in self.dispatcher.take_answers():
            self.unanswered.remove(cookie)  # KeyError: answered twice

    # Streams.

    def open_stream(self) -> None:
        number = len(self.streams)
        self.streams[number] = ModelStream()
        self.dispatcher.add_stream(number)

    def living(self) -> list[int]:
        return [number for number, stream in self.streams.items() if stream.alive]

    def kill_stream(self, number: int) -> None:
        stream = self.streams[number]
        stream.alive = False
        while stream.reads:
            self._release(stream.reads.popleft()[1])
        stream.job = None
        self.dispatcher.lose_stream(number)
        self._answer()

    def send(self, number: int) -> None:
        """One step of a sender: a fence, mirrored writes, or the next step of a region's copy."""
        stream = self.streams[number]
        dead = self.dispatcher.next_fence(number)
        if dead is not None:
            stream.wire.append(frames.fence(dead))
            return
        writes = self.dispatcher.take_writes(number, 8)
        if writes:
            stream.wire.extend(encode(piece) for piece in writes)
        elif stream.reads:
            self._queue_read_frame(stream)
        else:
            self.read_ahead(number)

    def read_ahead(self, number: int) -> None:
        """One step of a stream's reader: claim a region, or read its next frame."""
        stream = self.streams[number]
        if len(stream.reads) >= READ_AHEAD:
            return
        if stream.job is None:
            copy = self.dispatcher.claim_region(number)
            if copy is not None:
                stream.job = (copy, region_frames(self.sources[copy.disk], copy, stream.pool, use_sendfile=False))
            return
        copy, steps = stream.job
        frame = next(steps, None)
        stream.reads.append((copy, frame))
        if frame is None or copy.abandoned:
            stream.job = None

    def _queue_read_frame(self, stream: ModelStream) -> None:
        copy, frame = stream.reads.popleft()
        if frame is None:
            self.dispatcher.bulk_handed(copy)
            return
        if self.dispatcher.frames_queued(copy, frame.count):
            stream.wire.extend(split(frame.encoded + bytes(frame.data or b"")))
        self._release(frame)

    def _release(self, frame: BulkFrame | None) -> None:
        if frame is not None and frame.buffer is not None:
            frame.buffer.release()

    def deliver(self, number: int) -> None:
        """The destination applies the next frame of a stream, alive or dead, unless it is fenced."""
        stream = self.streams[number]
        if stream.fenced or not stream.wire:
            return
        raw = stream.wire.popleft()
        frame = frames.decode(raw)
        if frame.kind is FrameKind.FENCE:
            self.streams[frame.offset].fenced = True
        elif frame.kind is FrameKind.DATA:
            self.targets[frame.disk][frame.offset : frame.offset + frame.length] = raw[frames.HEADER_SIZE :]
        else:
            self.targets[frame.disk][frame.offset : frame.offset + frame.length] = bytes(frame.length)
        stream.applied += 1

    def acknowledge(self, number: int) -> None:
        self.dispatcher.acknowledged(number, self.streams[number].applied)
        self._answer()

    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.dispatcher.tick(self.now)
        self._answer()

    # Judgement.

    def check(self) -> None:
        """The invariants: a settled region is equal on both sides, but for writes that are still arriving; disks that
        are copied at once share no place."""
        copied = [terms.places for terms, disk in zip(self.terms, self.dispatcher.disks, strict=True)
                  if disk.regions.copies]  # fmt: skip
        assert len(frozenset().union(*copied)) == sum(map(len, copied)), "one place, one disk"
        for number, disk in enumerate(self.dispatcher.disks):
            regions = disk.regions
            assert disk.buffered >= 0
            assert disk.buffered <= self.limits.high_mark + 16 * REGION, "the forward buffer is bounded"
            for region in range(len(regions)):
                if regions.state(region).name != "COPIED" or region in regions.pins:
                    continue
                start = region * REGION
                stop = start + regions.length(region)
                if any(w.disk == number and w.offset < stop and start < w.offset + w.length for w in self.arriving):
                    continue
                assert self.targets[number][start:stop] == self.sources[number].content[start:stop]

    def finish(self) -> None:
        """The guest stops; everything arrives and is sent: both sides must be equal and every write answered."""
        while self.arriving:
            self.arrive(0)
        if not self.living():
            self.open_stream()
        for _ in range(4000):
            if self.dispatcher.settled():
                break
            for number in self.living():
                self.send(number)
                self.deliver(number)
                self.acknowledge(number)
        assert self.dispatcher.settled(), "the move never settles"
        for number, stream in self.streams.items():
            while stream.wire and not stream.fenced:
                self.deliver(number)  # what a dead stream still had on the wire may come as late as this
        self.check()
        for source, target in zip(self.sources, self.targets, strict=True):
            assert target == source.content
        assert not self.unanswered, "a guest's write was never answered"


def encode(piece: WritePiece) -> bytes:
    """The frame of a mirrored write."""
    if piece.payload is None:
        return frames.zeroes(piece.write.disk, piece.offset, piece.length)
    return frames.data_header(piece.write.disk, piece.offset, piece.length) + bytes(piece.payload)
