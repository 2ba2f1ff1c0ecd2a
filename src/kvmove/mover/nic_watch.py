"""Watches the streams of one move: measures their pace, leaves those that are of no use, and keeps account by NIC.

One thread calls `look` (disk_move's watch); it holds the move's lock while it reads and sets what the dispatcher has.
What is decided is decided elsewhere, without I/O: shares (who is given how much), stream_watch (who is left).

A NIC is left while none of its streams is open. What happened to it is kept in words, for the report.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kvmove.mover.dispatcher import Dispatcher
from kvmove.mover.sender import Sender
from kvmove.mover.shares import LEAST_STEP as LOOK_SECONDS
from kvmove.mover.shares import Load
from kvmove.mover.snapshot import NicTotals
from kvmove.mover.stream_watch import Seen, to_leave
from kvmove.transport.liveness import Liveness
from kvmove.units import format_duration

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Nic:
    """One NIC. `left_since` None: it is in use, or not tried yet; times in seconds."""

    left_since: float | None = None
    reason: str = ""
    times_left: int = 0
    seconds_left: float = 0.0
    down_since: float | None = None


class NicWatch:
    """See the file's head. `lock` guards `dispatcher`; `is_down` tells whether a NIC's link is down."""

    def __init__(
        self, senders: Sequence[Sender], dispatcher: Dispatcher, lock: threading.Lock, is_down: Callable[[str], bool]
    ) -> None:
        self._senders = senders
        self._dispatcher = dispatcher
        self._lock = lock
        self._is_down = is_down
        self._nics = {sender.nic: _Nic() for sender in senders}
        self._news: list[str] = []
        self._looked = -LOOK_SECONDS

    def look(self, now: float) -> None:
        """Look at all streams, if it is time to. Not with the lock held."""
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        for name, nic in self._nics.items():
            nic.down_since = (nic.down_since or now) if self._is_down(name) else None
        told = {sender: stream.liveness() for sender in self._senders if (stream := sender.stream) is not None}
        with self._lock:
            seen = {
                sender.number: self._seen(sender, found, now)
                for sender, found in told.items()
                if found is not None and sender.number in self._dispatcher.streams
            }
            left = self._dispatcher.left()
        leaving = to_leave(seen, left)
        for sender in told:
            if sender.number in leaving:
                sender.leave(leaving[sender.number])
        self._keep_account(now)

    def _seen(self, sender: Sender, found: Liveness, now: float) -> Seen:
        """With the lock held. What the dispatcher decides by is set too."""
        given = self._dispatcher.given(sender.number)
        sender.pace.look(now, found.acknowledged, busy=given > 0)
        state = self._dispatcher.streams[sender.number]
        state.pace, state.round_trip = sender.pace.rate, found.round_trip
        since = self._nics[sender.nic].down_since
        load = Load(sender.pace.rate, given, found.round_trip)
        return Seen(found.unanswered, found.silent, found.round_trip, now - since if since is not None else 0.0, load)

    def _keep_account(self, now: float) -> None:
        for name, nic in self._nics.items():
            own = [sender for sender in self._senders if sender.nic == name]
            trouble = next((sender.trouble for sender in own if sender.trouble), "")
            if any(sender.stream is not None for sender in own):
                if nic.left_since is not None:
                    self._taken_up(name, nic, now - nic.left_since)
            elif nic.left_since is None and trouble:
                nic.left_since, nic.reason = now, trouble
                nic.times_left += 1
                self._tell(f"NIC {name} left: {trouble}; it is tried again every few seconds")

    def _taken_up(self, name: str, nic: _Nic, seconds: float) -> None:
        nic.seconds_left += seconds
        nic.left_since, nic.reason = None, ""
        self._tell(f"NIC {name} taken up again after {format_duration(seconds)}")

    def _tell(self, what: str) -> None:
        log.warning("%s", what)
        self._news.append(what)

    # From any thread.

    def news(self) -> list[str]:
        """What has happened to NICs, in the order of time; only ever grows."""
        return list(self._news)

    def totals(self, name: str) -> NicTotals:
        """What is known of a NIC, without what it has sent. It is in use, or has been left for a reason."""
        nic = self._nics[name]
        since = nic.left_since
        seconds = nic.seconds_left + (max(self._looked - since, 0.0) if since is not None else 0.0)
        return NicTotals(reason=nic.reason, times_left=nic.times_left, seconds_left=round(seconds, 1))
