"""A boot of a guest in host time: its heartbeats and completed writes on the recorder's clock. Pure.

A guest's clock stands still while its vCPUs are stopped (QEMU's virtual clock), so guest times alone hide every
pause. Each heartbeat carries the guest's time and was stamped by the host, so their difference, the offset, maps
guest time to host time; it is constant but for delays on the way (it is then too large for a moment) and for stops
(it grows for good).

Invariant: an offset is the smallest of the next `_AHEAD` heartbeats. Delays are filtered out, and a stop never leaks
into the time before it, because offsets only grow.
"""

from bisect import bisect_left, bisect_right
from itertools import pairwise
from typing import NamedTuple

_AHEAD = 20


class Window(NamedTuple):
    """A time from `start_ns` to `end_ns` on the host's CLOCK_MONOTONIC_RAW."""

    start_ns: int
    end_ns: int


class Gap(NamedTuple):
    """The longest silence found, and when it began; length 0 when there was none to measure."""

    length_ns: int
    start_ns: int

    @property
    def seconds(self) -> float:
        return self.length_ns / 1e9


NO_GAP = Gap(0, 0)


class Completion(NamedTuple):
    """A completed write, in guest time. The order of the fields is the order in time."""

    done_ns: int
    latency_ns: int


class Timeline:
    """Heartbeats and writes of one boot; heartbeats must be added in their order, completions in any."""

    def __init__(self) -> None:
        self.arrivals: list[int] = []
        self._guest: list[int] = []
        self._offsets: list[int] = []
        self._completions: list[Completion] = []
        self._sorted = True

    def add_heartbeat(self, guest_ns: int, arrival_ns: int) -> None:
        self._guest.append(guest_ns)
        self.arrivals.append(arrival_ns)
        self._offsets.append(arrival_ns - guest_ns)

    def add_completion(self, completion: Completion) -> None:
        if self._completions and completion < self._completions[-1]:
            self._sorted = False
        self._completions.append(completion)

    def host_ns(self, guest_ns: int) -> int:
        """`guest_ns` on the host's clock; right to some milliseconds. 0 before there is a heartbeat."""
        if not self._guest:
            return 0
        at = max(0, bisect_right(self._guest, guest_ns) - 1)
        return guest_ns + min(self._offsets[at : at + _AHEAD])

    def completions(self, window: Window) -> list[tuple[int, int]]:
        """(host time, latency) of the writes completed in the window, and one before and one after it where there
        are.
        """
        if not self._guest:
            return []
        if not self._sorted:
            self._completions.sort()
            self._sorted = True
        first = bisect_left(self._completions, (self._guest_before(window.start_ns), 0))
        last = bisect_right(self._completions, (self._guest_after(window.end_ns), 0))
        found = [(self.host_ns(done), latency) for done, latency in self._completions[max(0, first - 1) : last + 1]]
        before = max((i for i, (at, _) in enumerate(found) if at < window.start_ns), default=0)
        after = min((i for i, (at, _) in enumerate(found) if at > window.end_ns), default=len(found))
        return found[before : after + 1]

    def _guest_before(self, host_ns: int) -> int:
        """A guest time that is surely not after `host_ns`."""
        at = bisect_left(self.arrivals, host_ns) - _AHEAD
        return self._guest[at] if at >= 0 else 0

    def _guest_after(self, host_ns: int) -> int:
        """A guest time that is surely not before `host_ns`."""
        at = bisect_right(self.arrivals, host_ns) + _AHEAD
        return self._guest[at] if at < len(self._guest) else 2**63

    def longest_stop(self, window: Window) -> Gap:
        """How long the guest's clock stood still at most, between two heartbeats that arrived in the window."""
        first = bisect_left(self.arrivals, window.start_ns)
        last = bisect_right(self.arrivals, window.end_ns)
        found = []
        for at in range(first, last - 1):
            before = min(self._offsets[max(0, at - _AHEAD + 1) : at + 1])
            after = min(self._offsets[at + 1 : at + 1 + _AHEAD])
            silence = self.arrivals[at + 1] - self.arrivals[at]
            found.append((after - before, silence, self.arrivals[at]))
        longest = max((length for length, _, _ in found), default=0)
        if longest <= 0:
            return NO_GAP
        # Every pair of heartbeats around a stop shows it; the pair that spans it has the longest silence.
        _, length, start = max((silence, length, at) for length, silence, at in found if length >= longest * 9 // 10)
        return Gap(length, start)


def longest_silence(events: list[int], window: Window) -> Gap:
    """The longest time without an event in the window. `events` is sorted and may reach beyond it.

    A silence that began before the window or ends after it counts as a whole; one that has not ended counts to the
    window's end. Without any event up to the window's end there is nothing to measure.
    """
    first = max(0, bisect_left(events, window.start_ns) - 1)
    last = bisect_right(events, window.end_ns)
    near = events[first : last + 1]
    if not near or near[0] > window.end_ns:
        return NO_GAP
    if near[-1] < window.end_ns:
        near.append(window.end_ns)
    longest = NO_GAP
    for before, after in pairwise(near):
        if after - before > longest.length_ns:
            longest = Gap(after - before, before)
    return longest
