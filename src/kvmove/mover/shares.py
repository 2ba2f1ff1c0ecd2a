"""How much of a copy each stream is given, so that streams of unequal speed end together. Pure; times come in.

A stream asks for its next region when it has room. It gets one unless

- what it has been given already would take it longer than HOLD_SECONDS, or a few round trips: so long at most waits a
  guest's write to a region that is on its way over a slow stream; or
- it has its part of LOST_SHARE of the disks on its way already: so much at most is copied again when all streams are
  lost. Two round trips of its pace it may have all the same, or a small disk would never fill a long way; or
- the other streams would carry all the rest sooner than it would this one region: so a copy's end never waits for the
  slowest NIC.

Invariant (`may_take`): while anything is left and there is a stream, one at least may take it, now or once it has
delivered what it has.

Deliberately not here: which region (region_map), what a dead stream is (stream_watch).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

HOLD_SECONDS = 0.5
HOLD_ROUND_TRIPS = 4
LEAST_ROUND_TRIPS = 2
LOST_SHARE = 0.04
LEAST_REGIONS = 2
"""One on its way and one behind it: with less, a stream stands idle while an acknowledgement travels."""

SLACK_SECONDS = 0.1
"""Paces are estimates; streams of about the same pace shall not stand back for each other."""

SMOOTHING_SECONDS = 0.5
LEAST_STEP = 0.1
SLOWEST = 1.0
"""Bytes/s: a pace is never nothing, or what is left would take for ever."""


@dataclass(frozen=True, slots=True)
class Load:
    """One stream: its pace in bytes/s (None: not known yet), bytes it was given and has not delivered, seconds."""

    pace: float | None
    given: int
    round_trip: float = 0.0

    def seconds(self, more: int = 0) -> float:
        """Until all it was given, and `more` bytes, are delivered."""
        return (self.given + more) / max(self.pace, SLOWEST) if self.pace is not None else 0.0


def may_take(mine: Load, others: Sequence[Load], region: int, left: int, disks: float = math.inf) -> bool:
    """Whether the stream with load `mine` may be given a region, of `left` bytes that nobody has been given yet of
    disks of so many bytes."""
    if mine.pace is None:
        return True
    hold = max(HOLD_SECONDS, HOLD_ROUND_TRIPS * mine.round_trip)
    part = max(disks * LOST_SHARE / (len(others) + 1), mine.pace * LEAST_ROUND_TRIPS * mine.round_trip)
    if mine.given + region > max(min(mine.pace * hold, part), LEAST_REGIONS * region):
        return False
    known = [load for load in others if load.pace is not None]
    if not known:
        return True
    together = (left + sum(load.given for load in known)) / sum(max(load.pace or 0.0, SLOWEST) for load in known)
    soonest = min(load.seconds(region) for load in known)
    return mine.seconds(region) <= max(together, soonest) + SLACK_SECONDS


class Pace:
    """How fast one way delivers, while it has something to deliver. Kept when its stream dies: the next one has it."""

    def __init__(self) -> None:
        self.rate: float | None = None
        self._at: float | None = None
        self._delivered = 0
        self._was_busy = False

    def begin(self) -> None:
        """Another stream: its count begins anew."""
        self._at = None

    def look(self, now: float, delivered: int, *, busy: bool) -> None:
        """`delivered` bytes so far; `busy`: there is more of the copy on its way. Time in which there was nothing to do
        says nothing."""
        if self._at is None:
            self._at, self._delivered, self._was_busy = now, delivered, busy
            return
        step, grown = now - self._at, delivered - self._delivered
        if step < LEAST_STEP:
            return
        says_something = busy and self._was_busy
        self._at, self._delivered, self._was_busy = now, delivered, busy
        if not says_something:
            return
        rate = max(grown / step, SLOWEST)
        weight = 1.0 if self.rate is None else 1 - math.exp(-step / SMOOTHING_SECONDS)
        self.rate = rate if self.rate is None else self.rate + weight * (rate - self.rate)
