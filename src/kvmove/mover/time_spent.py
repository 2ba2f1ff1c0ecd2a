"""Where the time of a move's threads goes: counted where a thread waits anyway, or once for a frame of bulk data.

`StreamTimes` is written by its worker's thread alone; `DiskTimes` by all that read a disk, under a lock. What readers
of the figures see may be a wait old. Deliberately not here: what follows from the figures (migration/bottleneck).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from kvmove.disk.offload import Offload, Rung
from kvmove.transport.tcp_info import NOTHING_KNOWN, TcpInfo


class Wait(Enum):
    """What a worker waits for."""

    IDLE = "something to send"
    READER = "the source disk"
    SOCKET = "the socket to take more"
    CAP = "the cap, or the limit for the guest's sake"


@dataclass(slots=True)
class StreamTimes:
    """One worker, over all the streams that it has had. Seconds."""

    nic: str = ""
    waited: dict[Wait, float] = field(default_factory=lambda: dict.fromkeys(Wait, 0.0))
    tcp: TcpInfo = NOTHING_KNOWN
    """Of the streams that have ended, as is what they sent (bytes)."""
    sent: int = 0
    _before: float = 0.0
    _since: float | None = None

    def opened(self, now: float) -> None:
        """A stream is open."""
        self._since = now

    def closed(self, now: float, tcp: TcpInfo, sent: int) -> None:
        """It has ended; the kernel's last word of it, and the bytes that it sent."""
        self.sent += sent
        self._before, self._since = self.open_seconds(now), None
        self.tcp = self.with_stream(tcp)

    def with_stream(self, tcp: TcpInfo) -> TcpInfo:
        """All streams so far, the open one included."""
        return TcpInfo(
            tcp.round_trip or self.tcp.round_trip,
            self.tcp.receiver_limited + tcp.receiver_limited,
            self.tcp.buffer_limited + tcp.buffer_limited,
        )

    def figures(self, now: float, tcp: TcpInfo, sent: int) -> StreamFigures:
        """As they are now; `tcp` and `sent` are the open stream's."""
        return StreamFigures(
            self.nic, self.sent + sent, self.open_seconds(now), dict(self.waited), self.with_stream(tcp)
        )

    def open_seconds(self, now: float) -> float:
        return self._before + (max(now - self._since, 0.0) if self._since is not None else 0.0)


@dataclass(slots=True)
class DiskTimes:
    """One disk at the source. Seconds and bytes; as in `model.time_spent.DiskTime`, but that what compressing took is
    in `read_seconds` too."""

    read_seconds: float = 0.0
    read_processor: float = 0.0
    read_bytes: int = 0
    compress_seconds: float = 0.0
    write_seconds: float = 0.0
    kernel_seconds: float = 0.0


def local_times(offload: Offload) -> DiskTimes:
    """Those of a disk that is copied within the host."""
    return DiskTimes(
        read_seconds=offload.read_seconds,
        read_bytes=offload.moved[Rung.READ_WRITE],
        write_seconds=offload.write_seconds,
        kernel_seconds=offload.kernel_seconds,
    )


class ReadTimes:
    """All disks of a move; any thread may count."""

    def __init__(self, disks: int) -> None:
        self.disks = [DiskTimes() for _ in range(disks)]
        self._lock = threading.Lock()

    def read(self, disk: int, size: int, seconds: float, processor: float) -> None:
        """So much was read, in so much time, in which so much of the processor was used."""
        with self._lock:
            times = self.disks[disk]
            times.read_seconds += seconds
            times.read_processor += min(processor, seconds)
            times.read_bytes += size

    def compressed(self, disk: int, seconds: float) -> None:
        with self._lock:
            self.disks[disk].compress_seconds += seconds


@dataclass(slots=True, frozen=True)
class StreamFigures:
    """A worker's times, with what it has sent."""

    nic: str
    sent: int
    open_seconds: float
    waited: dict[Wait, float]
    tcp: TcpInfo

    @property
    def active(self) -> float:
        return max(self.open_seconds - self.waited[Wait.IDLE], 0.0)


@dataclass(slots=True, frozen=True)
class MoveFigures:
    """A whole move's disks: streams or workers, each disk, and for how long its guest writes were held (seconds)."""

    streams: Sequence[StreamFigures]
    disks: Sequence[DiskTimes]
    held: Sequence[float]
    bulk_bytes: int
    write_bytes: int


class Clock:
    """Wall and processor time of the calling thread between two calls."""

    def __init__(self) -> None:
        self._wall, self._processor = time.monotonic(), time.thread_time()

    def lap(self) -> tuple[float, float]:
        """Seconds since it was made, or since the last lap."""
        wall, processor = time.monotonic(), time.thread_time()
        spent = (wall - self._wall, processor - self._processor)
        self._wall, self._processor = wall, processor
        return spent
