"""What a copy costs the guest, and how it slows itself to cost less. Pure; times come in.

How long a mirrored write is held (from its arrival here until QEMU is answered) goes into a histogram for each disk.
Where the operator set a budget, the bulk copy is held to a rate that keeps the 99th percentile of it within the budget:
halved when a look finds more than one write of a hundred late, lately, raised by a step when not (AIMD), and let go
once it is above anything seen. While no bulk is sent there is nothing to slow.

Mirrored writes themselves are never slowed by this. Below LEAST_RATE the copy is not slowed further: a guest whose
writes are held longer even so writes more than the network or the destination's disk takes; the report says so.

Deliberately not here: threads, clocks, who sends.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

LEAST_RATE = 1024 * 1024
"""Bytes/s."""

LOOK_SECONDS = 0.5
"""How often the rate is looked at."""

STEP_SHARE = 1 / 10
"""Of the rate it was last lowered to: what is added at each look that finds the guest well."""

LEAST_STEP = LEAST_RATE // 4

P50, P99 = 0.5, 0.99

MAY_BE_LATE = 1 - P99

MEMORY = 0.8
"""What was seen before a look counts so much at the next: about 2.5 seconds are looked at, and one late write among few
is no reason."""

_BOUNDS = tuple(1e-5 * 2 ** (step / 4) for step in range(92))
"""Seconds, from 10 us to 70 s; each 19 % above the one before."""


class HoldTimes:
    """A histogram of times (seconds). What it tells is a bound that is at most 19 % above what was."""

    def __init__(self) -> None:
        self.count = 0
        self.worst = 0.0
        self.total = 0.0
        self._counts = [0] * (len(_BOUNDS) + 1)

    def note(self, seconds: float) -> None:
        self.count += 1
        self.worst = max(self.worst, seconds)
        self.total += seconds
        self._counts[bisect_left(_BOUNDS, seconds)] += 1

    def percentile(self, share: float) -> float:
        """Seconds below which `share` of all were; 0 when there were none."""
        seen = 0
        for place, count in enumerate(self._counts):
            seen += count
            if count and seen >= share * self.count:
                return min(_BOUNDS[place], self.worst) if place < len(_BOUNDS) else self.worst
        return 0.0


@dataclass(slots=True)
class BulkRate:
    """The rate (bytes/s) that the bulk copy is held to; `limit` None lets it run."""

    limit: int | None = None
    slowed_seconds: float = 0.0
    highest: float = 0.0
    _step: int = LEAST_STEP

    def look(self, *, too_late: bool, sent_rate: float, seconds: float) -> int | None:
        """After `seconds` in which bulk was sent at `sent_rate`, and the guest's writes were held too long or not: the
        limit from now on."""
        if not sent_rate:
            return self.limit
        if self.limit is not None:
            self.slowed_seconds += seconds
        self.highest = max(self.highest, sent_rate)
        if too_late:
            now = sent_rate if self.limit is None else min(self.limit, max(sent_rate, LEAST_RATE))
            self.limit = max(int(now / 2), LEAST_RATE)
            self._step = max(int(self.limit * STEP_SHARE), LEAST_STEP)
        elif self.limit is not None:
            raised = self.limit + self._step
            self.limit = raised if raised <= self.highest + self._step else None
        return self.limit


@dataclass(slots=True)
class GuestImpact:
    """Of all disks of one move. Not thread-safe. `budget` in seconds; None: watched alone.

    `limit` is the bulk's rate now (bytes/s), `slowed_seconds` for how long there has been one.
    """

    disks: int
    budget: float | None = None
    held: list[HoldTimes] = field(init=False)
    limit: int | None = None
    slowed_seconds: float = 0.0
    _rate: BulkRate | None = field(init=False)
    _new: int = field(init=False, default=0)
    _new_late: int = field(init=False, default=0)
    _lately: float = field(init=False, default=0.0)
    _late: float = field(init=False, default=0.0)
    _waiting: dict[tuple[int, int], float] = field(init=False, default_factory=dict)
    _looked: float | None = field(init=False, default=None)
    _sent: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.held = [HoldTimes() for _ in range(self.disks)]
        self._rate = BulkRate() if self.budget is not None else None

    def waits(self, disk: int, cookie: int, arrived: float) -> None:
        """A write is held."""
        self._waiting[disk, cookie] = arrived

    def released(self, disk: int, cookie: int, now: float) -> None:
        """A held write is answered."""
        self.answered(disk, now - self._waiting.pop((disk, cookie), now))

    def answered(self, disk: int, seconds: float) -> None:
        """A write was answered so long after it came."""
        self.held[disk].note(seconds)
        self._new += 1
        self._new_late += self.budget is not None and seconds > self.budget

    def look(self, now: float, bulk_bytes: int) -> tuple[bool, int | None]:
        """Whether the bulk's limit is to be set anew, and to what. `bulk_bytes` is all that was sent so far."""
        if self._looked is None:
            self._looked, self._sent = now, bulk_bytes
        seconds = now - self._looked
        if self._rate is None or seconds < LOOK_SECONDS:
            return False, None
        before = self.limit
        sent_rate = (bulk_bytes - self._sent) / seconds
        self.limit = self._rate.look(too_late=self._is_too_late(now), sent_rate=sent_rate, seconds=seconds)
        self.slowed_seconds = self._rate.slowed_seconds
        self._looked, self._sent = now, bulk_bytes
        return self.limit != before, self.limit

    def _is_too_late(self, now: float) -> bool:
        """Whether of the writes lately more than may be were late, and some of them since the last look."""
        budget = self.budget or 0.0
        held = sum(now - arrived > budget for arrived in self._waiting.values())
        new, late = self._new + held, self._new_late + held
        self._lately = self._lately * MEMORY + new
        self._late = self._late * MEMORY + late
        self._new = self._new_late = 0
        return late > 0 and self._late > MAY_BE_LATE * self._lately

    def rate_ends(self) -> None:
        """The copy is over: it is slowed no more. What was seen stays to be told."""
        self._rate, self.limit = None, None
