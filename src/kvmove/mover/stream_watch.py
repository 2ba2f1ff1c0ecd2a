"""When a stream is left before the kernel gives it up, and how long until it is tried again. Pure; times come in.

    silent      nothing of what was sent again, or of what was asked, was answered for some round trips: a link that is
                down or drops everything. Only while another stream is answered; if none is, leaving gains nothing
    link down   the NIC itself says so, and went on saying so for a moment
    drags       others have nothing to do any more, and what this one still has would take it long and them not

A stream that is left gives its regions back like one that broke, and they go over the others. The same way is tried
again, after a wait that doubles while streams over it do not last.

Deliberately not here: cutting, opening, threads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kvmove.mover.shares import Load
from kvmove.units import format_duration, format_size

SILENT_SECONDS = 1.0
"""Below the time that a guest's write may be held, so that such a write waits for nothing but another stream."""

SILENT_ROUND_TRIPS = 8
UNANSWERED = 2
"""So many attempts in a row: one lost packet, or one late answer, is none of this."""

LINK_DOWN_SECONDS = 0.5
DRAG_SECONDS = 3.0
DRAG_SHARE = 0.25
"""Of its own time: what the others may need at most for what a stream has, if it is to be left for dragging."""

RETRY_FIRST, RETRY_MOST = 0.2, 3.0
"""Seconds between attempts to reopen a stream; doubled up to the most."""

LASTED_SECONDS = 10.0
"""A stream that lived so long was a good one: the next attempt comes soon."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One stream, looked at: as `transport.liveness.Liveness`; `link_down`: seconds that its NIC has been down for."""

    unanswered: int
    silent: float
    round_trip: float
    link_down: float
    load: Load

    @property
    def is_silent(self) -> bool:
        """Whether its path seems dead."""
        bound = max(SILENT_SECONDS, SILENT_ROUND_TRIPS * self.round_trip)
        return self.unanswered >= UNANSWERED and self.silent >= bound

    @property
    def is_down(self) -> bool:
        """Whether its NIC says so, and nothing says otherwise: some drivers are wrong about their link."""
        return self.link_down >= LINK_DOWN_SECONDS and self.unanswered > 0


def to_leave(streams: Mapping[int, Seen], left: int) -> dict[int, str]:
    """The streams to leave now, each with the reason. `left` bytes have not been given to any stream."""
    leaving = {number: _why_dead(seen) for number, seen in streams.items() if seen.is_silent or seen.is_down}
    if len(leaving) == len(streams):
        return {}
    if not leaving and not left:
        return _dragging(streams)
    return leaving


def _why_dead(seen: Seen) -> str:
    return f"its link has been down for {format_duration(seen.link_down)}" if seen.is_down else (
        f"{format_duration(seen.silent)} without an answer"
    )  # fmt: skip


def _dragging(streams: Mapping[int, Seen]) -> dict[int, str]:
    """Those that everything waits for, if streams that have nothing to do would be done with it so much sooner."""
    given = sum(seen.load.given for seen in streams.values())
    idle = sum(seen.load.pace or 0.0 for seen in streams.values() if not seen.load.given)
    if not given or not idle:
        return {}
    return {
        number: f"its last {format_size(load.given)} would take {format_duration(load.seconds())} more"
        for number, load in ((number, seen.load) for number, seen in streams.items())
        if load.given and load.seconds() >= max(DRAG_SECONDS, given / idle / DRAG_SHARE)
    }


def next_wait(wait: float, lived: float) -> float:
    """Seconds until the next attempt, after one that came `wait` seconds after its predecessor's end and whose stream
    lived so long (0: it could not be opened)."""
    return RETRY_FIRST if lived >= LASTED_SECONDS else min(max(2 * wait, RETRY_FIRST), RETRY_MOST)
