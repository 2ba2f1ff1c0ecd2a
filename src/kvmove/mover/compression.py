"""Compressing the disks' bulk data: what one reader's thread does with a frame, and what a move makes of it.

zstd, a frame each by itself, in the threads that read ahead: it takes the interpreter's lock for no longer than a call.
Mirrored writes go as they are: a guest may wait for them. The codec is in wire/compressed.

Deliberately not here: the decision (compression_policy), what is a hole or zero (bulk_copy looks first).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from kvmove.model.terms import Compress
from kvmove.mover.compression_policy import CompressionPolicy, Reading, State
from kvmove.mover.time_spent import StreamFigures, Wait
from kvmove.wire.compressed import Packer

LOOK_SECONDS = 1.0

LEAST_BYTES = 1024 * 1024
"""Of disk data between two looks: less says nothing, so a look waits for it."""

SAMPLE_EVERY = 4
"""While it is tried, one frame of so many is compressed."""

WORTH = 0.95
"""A frame that gets no smaller than this is sent as it is."""

LEAST_SIZE = 4 * 1024
"""Bytes below which nothing is gained."""


class IdleShare:
    """The share of all processors' time since the last call that was idle, by /proc/stat; 0 at the first."""

    def __init__(self, stat: Path = Path("/proc/stat")) -> None:
        self._stat = stat
        self._last = (0, 0)

    def __call__(self) -> float:
        with self._stat.open() as file:
            idle, whole = parse_stat(file.readline())
        passed, spare = whole - self._last[1], idle - self._last[0]
        first, self._last = self._last == (0, 0), (idle, whole)
        return 0.0 if first or passed <= 0 else max(0.0, min(1.0, spare / passed))


def parse_stat(line: str) -> tuple[int, int]:
    """Ticks that all processors idled or waited for disks, and all their ticks; guests' time is in `user` already."""
    ticks = [int(word) for word in line.split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


class Compression:
    """Of one move. Off until `begin`. Any thread may ask; `look` is one thread's."""

    def __init__(
        self,
        mode: Compress = Compress.OFF,
        idle: Callable[[], float] | None = None,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self.before = 0
        self.after = 0
        self.seconds = 0.0
        self._mode = mode
        self._idle = idle or IdleShare()
        self._look_seconds = look_seconds
        self._policy = CompressionPolicy(mode, understood=False)
        self._lock = threading.Lock()
        self._seen = (0, 0, 0)  # frames tried, their bytes before and after, since the last look
        self._looked: float | None = None
        self._at = (0.0, 0.0, 0)  # active seconds, seconds waited for the network, bytes, all at the last look

    def begin(self, *, understood: bool) -> None:
        """It is known whether the destination knows compressed frames."""
        self._policy = CompressionPolicy(self._mode, understood=understood)

    @property
    def state(self) -> State:
        return self._policy.state

    @property
    def why(self) -> str:
        return self._policy.why

    def tried(self, before: int, after: int, seconds: float, *, sent: bool) -> None:
        """A frame was compressed, and is sent so or not."""
        with self._lock:
            frames, all_before, all_after = self._seen
            self._seen = (frames + 1, all_before + before, all_after + after)
            self.seconds += seconds
            if sent:
                self.before += before
                self.after += after

    def look(self, now: float, streams: Callable[[], list[StreamFigures]], copied: Callable[[], int]) -> None:
        """From time to time: decide anew. `copied` gives the bytes of bulk data that went, as they are on the disk;
        `streams` what the streams waited for."""
        if self._mode is not Compress.AUTO or (self._looked is not None and now - self._looked < self._look_seconds):
            return
        size = copied()
        if self._looked is not None and size - self._at[2] < LEAST_BYTES:
            return
        looked, self._looked = self._looked, now
        figures = (*network_wait(streams()), size)
        idle = self._idle()
        before, self._at = self._at, figures
        with self._lock:
            frames, whole, small = self._seen
        if looked is None:
            return
        was = self.state
        spent, wire, moved = (new - old for new, old in zip(figures, before, strict=True))
        self._policy.look(
            now,
            Reading(
                wire_share=wire / spent if spent > 0 else 0.0,
                idle_share=idle,
                frames=frames,
                ratio=small / whole if whole else 1.0,
                rate=moved / spent if spent > 0 else 0.0,
            ),
        )
        if not (was is State.TRYING and self.state is State.TRYING):  # a try takes as many looks as its samples do
            with self._lock:
                self._seen = (0, 0, 0)


def network_wait(streams: list[StreamFigures]) -> tuple[float, float]:
    """Seconds in which streams had something to do, and those of them spent waiting for the network or for a cap, which
    is as good as a slower one; not for a destination that takes no more."""
    active = sum(it.active for it in streams)
    waited = sum(it.waited[Wait.SOCKET] + it.waited[Wait.CAP] - it.tcp.receiver_limited for it in streams)
    return active, max(waited, 0.0)


class FramePacker:
    """For one thread that reads: the frames of one move that it compresses. `spent` is told what it took."""

    def __init__(self, compression: Compression, spent: Callable[[int, float], None]) -> None:
        self._compression = compression
        self._spent = spent
        self._packer = Packer()
        self._turn = 0

    @property
    def is_active(self) -> bool:
        """Whether frames are wanted for it at all, so that they must be read."""
        return self._compression.state is not State.OFF

    def pack(self, disk: int, data: memoryview) -> bytes | None:
        """The payload to send instead of `data`, or None: send it as it is."""
        state = self._compression.state
        if state is State.OFF or len(data) < LEAST_SIZE:
            return None
        self._turn += 1
        if state is State.TRYING and self._turn % SAMPLE_EVERY:
            return None
        began = time.monotonic()
        packed = self._packer.pack(data)
        seconds = time.monotonic() - began
        self._spent(disk, seconds)
        worth = len(packed) < WORTH * len(data)
        self._compression.tried(len(data), len(packed), seconds, sent=worth)
        return packed if worth else None
