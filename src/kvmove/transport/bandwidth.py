"""How much of the network a move may take: one account for all its streams, in one place.

A token bucket: it fills with `rate` bytes a second, and what is sent is taken out, also below zero. Who may send is
asked before; how much it was is told after, so an item is never split. Two kinds of data share a bucket:

    bulk      may be sent while the bucket is above zero
    writes    the guest's mirrored writes: also while it is in debt, by CREDIT_SECONDS; so bulk yields to them first,
              and a cap holds a guest's writes back only when they alone are more than the cap

Invariant (`TokenBucket`): in any span of time no more is sent than rate x (span + BURST_SECONDS + the credit), and one
item. The bucket is pure, time comes in; `Bandwidth` adds the lock and the clock.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

BURST_SECONDS = 0.05
"""So long a pause of the sender may be made up for."""

CREDIT_SECONDS = 0.5
"""So far ahead of the cap may mirrored writes run; their forward buffer holds much more."""

CREDIT_BYTES = 512 * 1024
"""Besides: two bulk frames, which may have taken the bucket below zero just before a write came."""

LEAST_SHARE = 1 / 16
"""Of the cap, which disks keep while memory is sent."""

MOST_SHARE = 3 / 4
ROOM = 1.5
"""So much faster than now the disks' mirrored writes may become before the shares are set anew."""


class TokenBucket:
    """See the file's head. `rate` in bytes/s: None is no limit, 0 lets nothing through."""

    def __init__(self, rate: int | None, now: float) -> None:
        self.rate = rate
        self._level = self._burst()
        self._at = now

    def set_rate(self, rate: int | None, now: float) -> None:
        """From now on. What was saved or owed under another rate is limited to what the new one allows."""
        self._fill(now)
        if self.rate is None:
            self._level = float("inf")
        self.rate = rate
        self._level = min(self._level, self._burst())

    def may(self, now: float, credit: float = 0.0) -> bool:
        """Whether something may be sent now, at most `credit` bytes in debt."""
        if self.rate is None:
            return True
        self._fill(now)
        return self.rate > 0 and self._level > -credit

    def take(self, size: int, now: float) -> None:
        """`size` bytes were sent."""
        if self.rate is not None:
            self._fill(now)
            self._level -= size

    def _burst(self) -> float:
        return max((self.rate or 0) * BURST_SECONDS, 1.0)

    def _fill(self, now: float) -> None:
        if self.rate is not None:
            self._level = min(self._level + max(now - self._at, 0.0) * self.rate, self._burst())
        self._at = max(now, self._at)


class Bandwidth:
    """The account of one move; any thread may use it. `cap` in bytes/s is for all data, None is none."""

    def __init__(self, cap: int | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.bulk_bytes = 0
        self.write_bytes = 0
        self._clock = clock
        self._lock = threading.Lock()
        self._all = TokenBucket(cap, clock())
        self._bulk = TokenBucket(None, clock())

    def set_cap(self, cap: int | None) -> None:
        """For all data, from now on."""
        with self._lock:
            self._all.set_rate(cap, self._clock())

    def limit_bulk(self, rate: int | None) -> None:
        """For bulk data alone, besides the cap."""
        with self._lock:
            self._bulk.set_rate(rate, self._clock())

    def may_send_bulk(self, *, in_turn: bool = False) -> bool:
        """Whether bulk data may go now; with `in_turn` a write has gone before it and another is behind it, so it has
        their credit."""
        with self._lock:
            now = self._clock()
            return self._bulk.may(now) and self._all.may(now, self._credit() if in_turn else 0.0)

    def may_send_writes(self) -> bool:
        """Whether mirrored writes may go now."""
        with self._lock:
            return self._all.may(self._clock(), self._credit())

    def sent_bulk(self, size: int) -> None:
        with self._lock:
            now = self._clock()
            self.bulk_bytes += size
            self._all.take(size, now)
            self._bulk.take(size, now)

    def sent_writes(self, size: int) -> None:
        with self._lock:
            self.write_bytes += size
            self._all.take(size, self._clock())

    def _credit(self) -> float:
        return (self._all.rate or 0) * CREDIT_SECONDS + CREDIT_BYTES


def shares(cap: int, disk_rate: float) -> tuple[int, int]:
    """A cap of bytes/s, divided between disks, which send `disk_rate` now, and memory: (disks, memory). Pure."""
    disks = int(min(max(disk_rate * ROOM, cap * LEAST_SHARE), cap * MOST_SHARE))
    return disks, cap - disks
