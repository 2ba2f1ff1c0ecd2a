"""One stream's life at the source: connect, send what the dispatcher decides, take acknowledgements, reconnect.

One thread per migration NIC pair (and slot). Little is kept in the socket and little in the stream's queue, so that
a mirrored write finds at most WINDOW bytes of bulk data before it. Work goes to whichever stream has room: that is
what fills NICs of unequal speed.

A stream that dies takes nothing with it: the dispatcher gives its regions back, and this thread tries the NIC pair
again. Deliberately not here: which data, in which order (dispatcher); reading it (read_ahead).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator

from kvmove.errors import KvmoveError, MoveFailed
from kvmove.log_context import inherited
from kvmove.mover.bulk_copy import CHUNK, SMALL, BulkFrame
from kvmove.mover.dispatcher import WritePiece
from kvmove.mover.read_ahead import ReadAhead, ReadFrame, ReadTerms
from kvmove.mover.region_map import RegionCopy
from kvmove.mover.shares import Pace
from kvmove.mover.stream_watch import RETRY_FIRST, next_wait
from kvmove.mover.time_spent import StreamTimes, Wait
from kvmove.mover.worker import Engine
from kvmove.transport.priority import yield_to_guests
from kvmove.transport.stream import Stream, StreamLost
from kvmove.transport.tcp_info import TcpInfo
from kvmove.wire import frames
from kvmove.wire.frames import FrameKind

log = logging.getLogger(__name__)

WINDOW = 256 * 1024
"""Bytes queued for a socket, besides what the kernel holds: 2 ms of a 1 Gbit/s wire."""

BUFFERS = -(-(WINDOW + CHUNK) // SMALL)
"""Buffers that may be unsent at once, each holding at least SMALL bytes."""

LINGER = 0.002
"""Seconds that an idle stream waits for mirrored writes to gather: the guest does not wait for them (async mode), and
sending eight at once costs what sending one does."""


class Sender(threading.Thread):
    """Keeps one stream of a move open and busy. `open_stream` connects; it raises StreamLost when it cannot."""

    def __init__(self, engine: Engine, nic: str, open_stream: Callable[[int], Stream], slot: int) -> None:
        super().__init__(target=inherited(self._work), name=f"send-{nic}", daemon=True)
        self.nic = nic
        self.number = -1
        self.stream: Stream | None = None
        self.trouble = ""
        """Why no stream is open; empty while one is, and before the first attempt has ended."""
        self.pace = Pace()
        self._left_because = ""
        self.times = StreamTimes(nic)
        self._engine = engine
        self._open = open_stream
        self._slot = slot
        self._reader: ReadAhead | None = None
        self._read: ReadFrame | None = None  # taken from the reader, and without credit yet
        self._input = bytearray(64 * 1024)
        self._filled = 0

    def _work(self) -> None:
        try:
            self._keep_open()
        except Exception as error:  # else the regions that it has would wait for it for ever
            log.exception("%s failed", self.name)
            self._engine.failed(MoveFailed(f"the stream over {self.nic} failed by a defect of ours: {error!r}"))

    def _keep_open(self) -> None:
        yield_to_guests()
        wait = RETRY_FIRST
        while not self._engine.stopping.is_set():
            began = time.monotonic()
            try:
                stream = self._open(self._slot)
            except StreamLost as error:
                self.trouble = self.trouble or str(error)
                log.info("a stream over %s cannot be opened: %s", self.nic, error)
                began = time.monotonic()
            else:
                self._live(stream)
            wait = next_wait(wait, time.monotonic() - began)
            self._engine.stopping.wait(wait)

    @property
    def bytes_sent(self) -> int:
        """See `worker.Worker`."""
        stream = self.stream
        return stream.bytes_sent if stream is not None else 0

    def tcp_info(self) -> TcpInfo:
        """See `worker.Worker`."""
        stream = self.stream
        return stream.tcp_info() if stream is not None else TcpInfo()

    def wake(self) -> None:
        """From any thread: there is something to send."""
        stream, reader = self.stream, self._reader
        if reader is not None:
            reader.look()
        if stream is not None:
            stream.wake()

    def cut(self) -> None:
        """From any thread: break the stream."""
        stream = self.stream
        if stream is not None:
            stream.shutdown()

    def leave(self, reason: str) -> None:
        """From any thread: give the stream up, for this reason, and what it has to the others."""
        self._left_because = reason
        self.cut()

    def _live(self, stream: Stream) -> None:
        """From an open stream to its end."""
        self.stream = stream
        self._filled = 0
        self._left_because = self.trouble = ""
        self.pace.begin()
        stream.probe_often()
        self.number = stream.number
        self._engine.stream_opened(self)
        self.times.opened(time.monotonic())
        terms = ReadTerms(not stream.encrypted, BUFFERS, self._engine.compression, self._engine.times)
        self._reader = ReadAhead(self._engine.disks, self._claim, stream.wake, terms)
        reason = "the move ended"
        try:
            self._reader.start()
            while not self._engine.stopping.is_set():
                self._step(stream)
        except StreamLost as error:
            reason = self._left_because or str(error)
        except KvmoveError as error:
            reason = error.detail
            self._engine.failed(error)
        except Exception as error:
            reason = repr(error)
            raise
        finally:
            self._reader.stop()
            self._reader = self._read = None
            self.times.closed(time.monotonic(), stream.tcp_info(), stream.bytes_sent)
            stream.close()
            self.trouble = reason
            self._engine.stream_closed(self, reason)
            self.stream = None

    def _claim(self) -> RegionCopy | None:
        with self._engine.lock:
            return self._engine.dispatcher.claim_region(self.number)

    def _step(self, stream: Stream) -> None:
        while stream.unsent < WINDOW and self._queue_next(stream):
            pass
        stream.flush()
        if self._take_acknowledgements(stream):
            self._engine.progress_made()
        elif stream.unsent >= WINDOW or not self._queue_next(stream):
            why, began = self._waits_for(stream), time.monotonic()
            stream.wait(LINGER if not stream.unsent else 0.1)
            self.times.waited[why] += time.monotonic() - began

    def _waits_for(self, stream: Stream) -> Wait:
        """Nothing more can be queued now: why. What the kernel has not taken yet, the network holds up."""
        if stream.unsent:
            return Wait.SOCKET
        reader = self._reader
        read = self._read is not None or (reader is not None and reader.has_read)
        if read or self._engine.dispatcher.streams[self.number].queue:
            return Wait.CAP
        return Wait.READER if reader is not None and reader.is_reading else Wait.IDLE

    # What is sent next.

    def _queue_next(self, stream: Stream) -> bool:
        """Queue the next frame or batch; False when there is nothing to send now."""
        dispatcher, bandwidth = self._engine.dispatcher, self._engine.bandwidth
        pieces: list[WritePiece] = []
        with self._engine.lock:
            dead = dispatcher.next_fence(self.number)
            is_bulks_turn = dispatcher.streams[self.number].bulk_is_next
            if dead is None and bandwidth.may_send_writes():
                pieces = dispatcher.take_writes(self.number, WINDOW)
        if dead is not None:
            stream.queue(frames.fence(dead))
        elif pieces:
            encoded = b"".join(_encoded(pieces))
            bandwidth.sent_writes(len(encoded))
            stream.queue(encoded)
        else:
            return self._queue_bulk(stream, in_turn=is_bulks_turn)
        return True

    def _queue_bulk(self, stream: Stream, *, in_turn: bool) -> bool:
        """The end of a region is no data and needs no credit: the writes that were held for the region follow it."""
        assert self._reader is not None
        self._read = read = self._read or self._reader.take()
        if read is None or (read.frame is not None and not self._engine.bandwidth.may_send_bulk(in_turn=in_turn)):
            return False
        self._read = None
        dispatcher, frame = self._engine.dispatcher, read.frame
        with self._engine.lock:
            if frame is None:
                dispatcher.bulk_handed(read.copy)
                return True
            wanted = dispatcher.frames_queued(read.copy, frame.count, frame.size)
        if wanted:
            self._queue_frame(stream, frame, read.copy.disk)
        elif frame.buffer is not None:
            frame.buffer.release()
        return True

    def _file_read(self, disk: int) -> Callable[[int, float], None]:
        """Counts what the kernel read of the disk's file while it sent it."""

        def count(size: int, seconds: float) -> None:
            self._engine.times.read(disk, size, seconds, 0.0)

        return count

    def _queue_frame(self, stream: Stream, frame: BulkFrame, disk: int) -> None:
        apart = frame.size if frame.file is not None or frame.data is not None else 0
        self._engine.bandwidth.sent_bulk(len(frame.encoded) + apart)
        stream.queue(frame.encoded)
        if frame.file is not None:
            stream.queue_file(frame.file, frame.file_offset, frame.size, self._file_read(disk))
        elif frame.data is not None:
            stream.queue(frame.data, frame.buffer.release if frame.buffer is not None else None)

    # What comes back.

    def _take_acknowledgements(self, stream: Stream) -> bool:
        """Read what the destination said; True if it acknowledged something."""
        view = memoryview(self._input)
        self._filled += stream.receive_into(view[self._filled :])
        at, count = 0, None
        while self._filled - at >= frames.HEADER_SIZE:
            try:
                frame = frames.decode(self._input, at)
            except frames.FrameError as error:
                raise StreamLost(str(error)) from error
            if frame.kind is FrameKind.FAILED:
                if self._filled - at < frames.HEADER_SIZE + frame.length:
                    break
                start = at + frames.HEADER_SIZE
                raise MoveFailed(bytes(view[start : start + frame.length]).decode(errors="replace"))
            if frame.kind is not FrameKind.ACK:
                raise StreamLost(f"the destination sent a frame of kind {frame.kind.name}")
            count = frame.offset
            at += frames.HEADER_SIZE
        view[: self._filled - at] = bytes(view[at : self._filled])
        self._filled -= at
        if count is None:
            return False
        with self._engine.lock:
            try:
                self._engine.dispatcher.acknowledged(self.number, count)
            except ValueError as error:
                raise StreamLost(str(error)) from error
        return True


def _encoded(pieces: list[WritePiece]) -> Iterator[bytes | bytearray | memoryview]:
    for piece in pieces:
        if piece.payload is None:
            yield frames.zeroes(piece.write.disk, piece.offset, piece.length)
        else:
            yield frames.data_header(piece.write.disk, piece.offset, piece.length)
            yield piece.payload
