"""Reading ahead of one stream: claims regions for it and reads their frames while the stream sends earlier ones.

Without it a disk that takes its time, or a busy processor, leaves the wire idle between two reads. What lies here is
not handed to the stream yet: mirrored writes of other regions overtake it, and a region given back meanwhile is
dropped by the stream (dispatcher.frames_queued).

One thread a stream. Bounded by DEPTH frames. Deliberately not here: sending.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kvmove.disk.interface import SourceDisk
from kvmove.errors import KvmoveError, MoveFailed
from kvmove.log_context import inherited
from kvmove.mover.bulk_copy import BufferPool, BulkFrame, region_frames
from kvmove.mover.compression import Compression, FramePacker
from kvmove.mover.region_map import RegionCopy
from kvmove.mover.time_spent import Clock, ReadTimes
from kvmove.transport.priority import yield_to_guests

log = logging.getLogger(__name__)

DEPTH = 6
"""Frames read ahead: 1.5 MiB, 13 ms of a 1 Gbit/s wire."""

IDLE_SECONDS = 0.05
"""How often a region to copy is looked for when there was none."""


@dataclass(slots=True)
class ReadFrame:
    """The next frame of a region's copy; `frame` None says that there are no more of it."""

    copy: RegionCopy
    frame: BulkFrame | None


@dataclass(frozen=True, slots=True)
class ReadTerms:
    """What a reader is given of its move: `may_sendfile` in clear alone, where nothing is compressed."""

    may_sendfile: bool
    buffers: int
    compression: Compression
    times: ReadTimes


class ReadAhead(threading.Thread):
    """Reads for one stream until `stop`. `claim` gives the next region (under the move's lock); `ready` is called
    when something can be taken. `is_reading` says that a region is claimed and not read to its end yet."""

    def __init__(
        self,
        disks: Sequence[SourceDisk],
        claim: Callable[[], RegionCopy | None],
        ready: Callable[[], None],
        terms: ReadTerms,
    ) -> None:
        super().__init__(target=inherited(self._work), name="read-ahead", daemon=True)
        self.failure: KvmoveError | None = None
        self._disks = disks
        self._claim = claim
        self._ready = ready
        self.is_reading = False
        self._terms = terms
        self._packer = FramePacker(terms.compression, terms.times.compressed)
        self._pool = BufferPool(terms.buffers + DEPTH + 1)
        self._frames: queue.Queue[ReadFrame] = queue.Queue(DEPTH)
        self._stopping = False
        self._look = threading.Event()

    def _work(self) -> None:
        yield_to_guests()
        try:
            while not self._stopping:
                copy = self._claim()
                if copy is None:
                    self._look.wait(IDLE_SECONDS)
                    self._look.clear()
                else:
                    self.is_reading = True
                    self._read(copy)
                    self.is_reading = False
        except KvmoveError as error:
            self._fail(error)
        except Exception as error:
            log.exception("reading ahead failed")
            self._fail(MoveFailed(f"reading a disk failed by a defect of ours: {error!r}"))

    def _fail(self, error: KvmoveError) -> None:
        """Whoever takes what was read is told."""
        self.failure = error
        self._ready()

    def take(self) -> ReadFrame | None:
        """What is read next, or None: nothing yet.

        :raise KvmoveError: the disk could not be read.
        """
        try:
            return self._frames.get_nowait()
        except queue.Empty:
            if self.failure is not None:
                raise self.failure from None
            return None

    @property
    def has_read(self) -> bool:
        """Whether there is something to take."""
        return not self._frames.empty()

    def look(self) -> None:
        """There may be a region to copy."""
        self._look.set()

    def stop(self) -> None:
        """End the thread; what it has read is dropped."""
        self._stopping = True
        self._look.set()
        while self.is_alive():
            self.take_quietly()
            self.join(0.01)

    def take_quietly(self) -> None:
        """Make room, so that a thread which waits for it can end."""
        try:
            self._frames.get_nowait()
        except queue.Empty:
            return

    def _read(self, copy: RegionCopy) -> None:
        disk = self._disks[copy.disk]
        use_sendfile = self._terms.may_sendfile and not disk.is_direct and not self._packer.is_active
        pack, clock = self._packer.pack, Clock()
        for frame in region_frames(disk, copy, self._pool, use_sendfile=use_sendfile, pack=pack):
            if frame.file is None:  # else it is read, and counted, when it is sent
                self._terms.times.read(copy.disk, frame.size, *clock.lap())
            self._put(ReadFrame(copy, frame))
            clock.lap()
            if self._stopping or copy.abandoned:
                break
        self._put(ReadFrame(copy, None))

    def _put(self, item: ReadFrame) -> None:
        self._frames.put(item)
        self._ready()
