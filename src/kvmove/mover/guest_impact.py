"""What a copy costs the guest, and how it slows itself to cost less. Pure; times come in.

How long a mirrored write is held (from its arrival here until QEMU is answered) goes into a histogram for each disk.
Where the operator set a budget, the bulk copy is held to a rate that keeps the 99th percentile of it within the budget:
halved when a look finds it above, raised by a step when not (AIMD), and let go once it is above anything seen.

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

_BOUNDS = tuple(1e-5 * 2 ** (step / 4) for step in range(92))
"""Seconds, from 10 us to 70 s; each 19 % above the one before."""


class HoldTimes:
    """A histogram of times (seconds). What it tells is a bound that is at most 19 % above what was."""

    def __init__(self) -> None:
        self.count = 0
        self.worst = 0.0
        self._counts = [0] * (len(_BOUNDS) + 1)

    def note(self, seconds: float) -> None:
        self.count += 1
        self.worst = max(self.worst, seconds)
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

    budget: float
    limit: int | None = None
    slowed_seconds: float = 0.0
    highest: float = 0.0
    _step: int = LEAST_STEP

    def look(self, held: float, sent_rate: float, seconds: float) -> int | None:
        """After `seconds` in which the 99th percentile of the hold times was `held` (0: no writes) and bulk was sent
        at `sent_rate`: the limit from now on."""
        if self.limit is not None:
            self.slowed_seconds += seconds
        self.highest = max(self.highest, sent_rate)
        if held > self.budget:
            now = sent_rate if self.limit is None else min(self.limit, max(sent_rate, LEAST_RATE))
            if now > 0:
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
    _lately: HoldTimes = field(init=False, default_factory=HoldTimes)
    _waiting: dict[tuple[int, int], float] = field(init=False, default_factory=dict)
    _looked: float | None = field(init=False, default=None)
    _sent: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.held = [HoldTimes() for _ in range(self.disks)]
        self._rate = BulkRate(self.budget) if self.budget is not None else None

    def waits(self, disk: int, cookie: int, arrived: float) -> None:
        """A write is held."""
        self._waiting[disk, cookie] = arrived

    def released(self, disk: int, cookie: int, now: float) -> None:
        """A held write is answered."""
        self.answered(disk, now - self._waiting.pop((disk, cookie), now))

    def answered(self, disk: int, seconds: float) -> None:
        """A write was answered so long after it came."""
        self.held[disk].note(seconds)
        self._lately.note(seconds)

    def look(self, now: float, bulk_bytes: int) -> tuple[bool, int | None]:
        """Whether the bulk's limit is to be set anew, and to what. `bulk_bytes` is all that was sent so far."""
        if self._looked is None:
            self._looked, self._sent = now, bulk_bytes
        seconds = now - self._looked
        if self._rate is None or seconds < LOOK_SECONDS:
            return False, None
        before = self.limit
        oldest = max((now - arrived for arrived in self._waiting.values()), default=0.0)
        held = max(self._lately.percentile(P99), oldest)
        self.limit = self._rate.look(held, (bulk_bytes - self._sent) / seconds, seconds)
        self.slowed_seconds = self._rate.slowed_seconds
        self._looked, self._sent, self._lately = now, bulk_bytes, HoldTimes()
        return self.limit != before, self.limit

    def rate_ends(self) -> None:
        """The copy is over: it is slowed no more. What was seen stays to be told."""
        self._rate, self.limit = None, None
