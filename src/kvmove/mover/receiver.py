"""The destination's end of the disk streams: frames in, writes to the disks, acknowledgements out.

One thread per stream applies its frames in order with blocking writes. Two streams never carry the same region at a
time (the source's pins), so they need no order among each other. Acknowledged means applied: written to the file;
`sync` makes it durable, and goes on in the background so that the last one, in the downtime, is short.

A FENCE frame names a dead stream: it is acknowledged only after that stream's thread has ended, and no stream of that
number is taken any more.

A disk that cannot be written ends the move: the source is told why over the stream. Zeroes stay holes where the
storage can.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from kvmove.disk.interface import TargetDisk
from kvmove.disk.raw_file import ALIGNMENT, aligned_buffer
from kvmove.errors import KvmoveError
from kvmove.model.time_spent import DestinationTime
from kvmove.mover.background_sync import BackgroundSync
from kvmove.transport.priority import yield_to_guests
from kvmove.transport.stream import Stream, StreamLost
from kvmove.wire import compressed, frames
from kvmove.wire.frames import FrameError, FrameKind

log = logging.getLogger(__name__)

BUFFER = frames.MAX_PAYLOAD + 512 * 1024
"""Bytes received at once: the largest frame and what follows it."""

BULK_FRAME = 64 * 1024
"""Payload in bytes from which on a frame is received with no more than the next header behind it, so that the next
payload too comes to lie at the start of a page: large writes go to the disk without a copy then."""

ACK_BYTES = 1024 * 1024
"""Applied bytes after which an acknowledgement goes out even while more input waits."""

ACK_LINGER = 0.005
"""Seconds that an acknowledgement of nothing but bulk frames may wait for more of them: no guest waits for it."""

SEND_TIMEOUT = 15.0


class DiskReceiver:
    """All disk streams of one incoming move."""

    def __init__(self, disks: list[TargetDisk]) -> None:
        self.disks = disks
        self.failure: str = ""
        self.applied_bytes = 0
        self._lock = threading.Lock()
        self._streams: dict[int, _StreamReceiver] = {}
        self._fenced: set[int] = set()
        self._stopping = threading.Event()
        self._times = DestinationTime()
        self._syncer = BackgroundSync(disks, lambda error: self.fail(error.detail))
        self._syncer.start()

    def accept(self, number: int, stream: Stream) -> Callable[[], None]:
        """Take a stream; what is returned runs it to its end, in the caller's thread.

        :raise StreamLost: the number was fenced or is in use, or the move is over.
        """
        receiver = _StreamReceiver(self, number, stream)
        with self._lock:
            if number in self._fenced or number in self._streams or self._stopping.is_set():
                raise StreamLost(f"stream {number} is not wanted any more")
            self._streams[number] = receiver
        return receiver.run

    def stream_ended(self, number: int) -> None:
        with self._lock:
            receiver = self._streams.pop(number, None)
            if receiver is not None:
                self._times = _sum([self._times, receiver.times()])

    def fence(self, number: int) -> None:
        """Make sure that nothing more of stream `number` is ever applied; returns when that is so."""
        with self._lock:
            self._fenced.add(number)
            receiver = self._streams.get(number)
        if receiver is not None:
            receiver.stream.shutdown()
            receiver.ended.wait()

    def applied(self, size: int) -> None:
        """Count what was written, and let the background sync know."""
        self.applied_bytes += size
        self._syncer.wrote(size)

    def sync(self) -> None:
        """Make all that was applied durable (fdatasync).

        :raise KvmoveError: the storage failed.
        """
        self._syncer.sync()

    def times(self) -> DestinationTime:
        """Where the time of all streams' threads went, those that have ended included."""
        with self._lock:
            living = [receiver.times() for receiver in self._streams.values()]
            whole = _sum([self._times, *living])
        return whole.model_copy(update={"sync_seconds": round(self._syncer.seconds, 3)})

    def fail(self, reason: str) -> None:
        self.failure = self.failure or reason

    def stop(self) -> None:
        """End all streams; returns when nothing is written any more."""
        self._stopping.set()
        with self._lock:
            receivers = list(self._streams.values())
        for receiver in receivers:
            receiver.stream.shutdown()
        for receiver in receivers:
            receiver.ended.wait()
        self._syncer.stop()


class _StreamReceiver:
    """One stream: receive, apply, acknowledge."""

    def __init__(self, owner: DiskReceiver, number: int, stream: Stream) -> None:
        self.stream = stream
        self.ended = threading.Event()
        self._owner = owner
        self._number = number
        self._buffer = aligned_buffer(ALIGNMENT + BUFFER)[ALIGNMENT - frames.HEADER_SIZE :]  # page-aligned payload
        self._filled = 0
        self._applied = 0
        self._acknowledged = 0
        self._since_ack = 0
        self._is_awaited = False  # something else than a bulk frame was applied: a guest may wait for it
        self._lingered = False
        self._scratch: memoryview | None = None
        self._began = time.monotonic()
        self._waited = self._wrote = 0.0

    def times(self) -> DestinationTime:
        """Where its thread's time went; from any thread."""
        waited, wrote = self._waited, self._wrote
        rest = max(time.monotonic() - self._began - waited - wrote, 0.0)
        return DestinationTime(input_wait=waited, write_seconds=wrote, work_seconds=rest)

    def run(self) -> None:
        yield_to_guests()
        self._began = time.monotonic()
        try:
            while True:
                self._step()
        except (StreamLost, FrameError) as error:
            log.info("stream %d ended: %s", self._number, error)
        except KvmoveError as error:
            self._report(error.detail)
        except Exception as error:
            log.exception("stream %d failed", self._number)
            self._report(repr(error))
        finally:
            self._owner.stream_ended(self._number)
            self.stream.close()
            self.ended.set()

    def _report(self, reason: str) -> None:
        """Tell the source why the destination cannot go on."""
        log.error("the destination cannot go on: %s", reason)
        self._owner.fail(reason)
        try:
            self.stream.send_all(frames.failed(reason), SEND_TIMEOUT)
        except StreamLost:
            log.info("the source could not be told over stream %d", self._number)

    def _step(self) -> None:
        missing = self._missing()
        room = missing + frames.HEADER_SIZE if missing + self._filled > BULK_FRAME else len(self._buffer)
        received = self.stream.receive_up_to(self._buffer[self._filled : self._filled + room], missing)
        self._filled += received
        self._apply_complete_frames()
        if self._applied > self._acknowledged and self._is_ack_due(idle=not received):
            self.stream.queue(frames.ack(self._applied))
            self._acknowledged, self._since_ack, self._is_awaited = self._applied, 0, False
        self.stream.flush()
        if received:
            return
        self.stream.wake_at(self._missing())
        is_owed = self._applied > self._acknowledged
        began = time.monotonic()
        self._lingered = not self.stream.wait(ACK_LINGER if is_owed else 1.0)
        self._waited += time.monotonic() - began

    def _is_ack_due(self, *, idle: bool) -> bool:
        if self._since_ack >= ACK_BYTES or self._lingered:
            return True
        return self._is_awaited and (idle or self._filled == 0)

    def _missing(self) -> int:
        """Bytes that the frame at the buffer's start lacks: TLS gives 16 KiB at a time, a frame has many times that."""
        if self._filled < frames.HEADER_SIZE:
            return frames.HEADER_SIZE - self._filled
        frame = frames.decode(self._buffer)
        whole = frames.HEADER_SIZE + (frame.length if frame.kind in frames.WITH_PAYLOAD else 0)
        return max(whole - self._filled, 1)

    def _apply_complete_frames(self) -> None:
        at = 0
        while self._filled - at >= frames.HEADER_SIZE:
            frame = frames.decode(self._buffer, at)
            body = at + frames.HEADER_SIZE
            size = frame.length
            if frame.kind in frames.WITH_PAYLOAD:
                if self._filled - body < frame.length:
                    break
                if at and frame.length >= BULK_FRAME:
                    self._drop_applied(at)
                    at, body = 0, frames.HEADER_SIZE
                size = self._apply_data(frame, self._buffer[body : body + frame.length])
                at = body + frame.length
            else:
                self._apply_bodyless(frame)
                at = body
            self._applied += 1
            self._is_awaited |= frame.kind is not FrameKind.DATA_ZSTD and (
                frame.kind is not FrameKind.DATA or frame.length < BULK_FRAME
            )
            self._since_ack += size
            self._owner.applied(size)
        if at:
            self._drop_applied(at)

    def _drop_applied(self, end: int) -> None:
        """Move what lies behind `end` to the buffer's start, where the payload of its first frame begins a page."""
        left = self._filled - end
        self._buffer[:left] = self._buffer[end : self._filled]
        self._filled = left

    def _apply_data(self, frame: frames.Frame, payload: memoryview) -> int:
        """Write the data of a frame; how many bytes it was."""
        if frame.kind is FrameKind.FAILED:
            raise FrameError("the source sent a frame of kind FAILED")
        if frame.kind is FrameKind.DATA_ZSTD:
            frame = frame._replace(length=compressed.declared_length(payload))
            self._disk(frame)  # before anything is unpacked
            payload = self._unpacked(payload)
        disk, began = self._disk(frame), time.monotonic()
        disk.write_at(frame.offset, payload)
        self._wrote += time.monotonic() - began
        return frame.length

    def _unpacked(self, payload: memoryview) -> memoryview:
        """The data, at the start of a page, so that it goes to the disk without another copy."""
        data = compressed.unpack(payload)
        if self._scratch is None:
            self._scratch = aligned_buffer(frames.MAX_PAYLOAD)
        self._scratch[: len(data)] = data
        return self._scratch[: len(data)]

    def _apply_bodyless(self, frame: frames.Frame) -> None:
        if frame.kind is FrameKind.ZEROES:
            disk, began = self._disk(frame), time.monotonic()
            disk.write_zeroes(frame.offset, frame.length)
            self._wrote += time.monotonic() - began
        elif frame.kind is FrameKind.FENCE:
            self._owner.fence(frame.offset)
        else:
            raise FrameError(f"the source sent a frame of kind {frame.kind.name}")

    def _disk(self, frame: frames.Frame) -> TargetDisk:
        if frame.disk >= len(self._owner.disks):
            raise FrameError(f"disk {frame.disk} is not of this move")
        disk = self._owner.disks[frame.disk]
        if frame.offset + frame.length > disk.size:
            raise FrameError(f"{frame.length} bytes at {frame.offset} are beyond the end of disk {frame.disk}")
        return disk


def _sum(times: list[DestinationTime]) -> DestinationTime:
    return DestinationTime(
        input_wait=round(sum(it.input_wait for it in times), 3),
        write_seconds=round(sum(it.write_seconds for it in times), 3),
        work_seconds=round(sum(it.work_seconds for it in times), 3),
    )
