"""Where the time of a move went, as measured, and what was its bottleneck. Seconds and bytes.

Of a stream `open_seconds` are all; the waits and what is left, its work, are parts of them. Figures are of the copy of
the disks: a stream is idle while nothing is to be sent, also while memory is.
"""

from enum import StrEnum

from kvmove.model.strict import Strict


class Limit(StrEnum):
    """What a move waited for most."""

    NETWORK = "network"
    ROUND_TRIP = "round-trip"
    CAP = "cap"
    WRITE_LATENCY = "write-latency"  # the copy held itself back for the guest's sake, as it was told to
    SOURCE_DISK = "source-disk"
    DESTINATION_DISK = "destination-disk"
    STORAGE = "storage"  # the kernel or a server copies within it: which side is slow cannot be told
    SOURCE_PROCESSOR = "source-processor"
    DESTINATION_PROCESSOR = "destination-processor"
    GUEST_WRITES = "guest-writes"


class Bottleneck(Strict):
    """`share` (of one) is how much of the time in which there was something to do was spent waiting for it."""

    limit: Limit
    share: float
    sentence: str


class StreamTime(Strict):
    """One stream of the source; in a copy within a host one worker, which has no NIC.

    Waits: `idle` for something to send, `reader_wait` for the source disk, `send_wait` for the socket to take more,
    `cap_wait` for the cap or the limit for the guest's sake. Of `send_wait` the kernel says for how long it was the
    destination that took no more (`receiver_limited`), or our socket's buffer that was full (`buffer_limited`).
    """

    nic: str = ""
    sent: int = 0
    open_seconds: float = 0.0
    idle: float = 0.0
    reader_wait: float = 0.0
    send_wait: float = 0.0
    cap_wait: float = 0.0
    receiver_limited: float = 0.0
    buffer_limited: float = 0.0
    round_trip_ms: float = 0.0

    @property
    def active(self) -> float:
        """Seconds in which there was something to do."""
        return max(self.open_seconds - self.idle, 0.0)

    @property
    def working(self) -> float:
        """Seconds in which it waited for nothing."""
        return max(self.active - self.reader_wait - self.send_wait - self.cap_wait, 0.0)


class DiskTime(Strict):
    """One disk at the source, summed over the threads that read it at once: `read_seconds`, of which `read_processor`
    kept the processor busy, for `read_bytes`; `compress_seconds`. In a copy within a host also `write_seconds`, or
    `kernel_seconds` where the kernel copied. `guest_held_seconds`: all waits of guest writes together."""

    name: str
    read_seconds: float = 0.0
    read_processor: float = 0.0
    read_bytes: int = 0
    compress_seconds: float = 0.0
    write_seconds: float = 0.0
    kernel_seconds: float = 0.0
    guest_held_seconds: float = 0.0


class DestinationTime(Strict):
    """The destination's threads together: waiting for input, writing to its disks, all else; `sync_seconds` of a thread
    beside them that makes durable what was written."""

    input_wait: float = 0.0
    write_seconds: float = 0.0
    work_seconds: float = 0.0
    sync_seconds: float = 0.0


class WhereTimeWent(Strict):
    """See the file's head. `bulk_bytes` and `write_bytes` are what was sent, of the bulk copy and of guest writes;
    `destination` None: no other host wrote disks, or it is not known yet."""

    streams: tuple[StreamTime, ...] = ()
    disks: tuple[DiskTime, ...] = ()
    destination: DestinationTime | None = None
    bulk_bytes: int = 0
    write_bytes: int = 0
    memory_seconds: float = 0.0
    memory_bytes: int = 0


class Compressed(Strict):
    """What compression did to the disks' bulk data. `before` and `after` in bytes, of what was sent compressed; `why`
    says why it is on or off now."""

    on: bool = False
    before: int = 0
    after: int = 0
    seconds: float = 0.0
    why: str = ""

    @property
    def ratio(self) -> float:
        """Of one; 1 where nothing was compressed."""
        return self.after / self.before if self.before else 1.0
