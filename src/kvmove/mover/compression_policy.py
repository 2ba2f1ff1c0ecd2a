"""Whether the disks' bulk data is compressed for the network. Pure; time and figures come in.

    mode    what is done
    off     never
    on      always, but for frames that do not get smaller
    auto    by what is measured, looked at about once a second:

        OFF     the network is waited for most, and the processors have time to spare      -> TRYING
        TRYING  a few frames were compressed, for a look: they got much smaller            -> ON
                                                          they did not                     -> OFF, for a while
                the network is not waited for any more                                     -> OFF
        ON      the data does not get smaller any more, the disks are not copied faster than before, or the processors
                have no time left                                                          -> OFF, for a while

Each way has thresholds of its own, and each OFF after a try lasts, longer each time: so it does not flap. A destination
that does not know compressed frames never gets one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from kvmove.model.terms import Compress

WIRE_MOST = 0.6
WIRE_LEAST = 0.3
"""Shares of the time in which the network is waited for: from where on a try is made, and below which it ends."""

IDLE_ENOUGH = 0.2
IDLE_NONE = 0.03
"""Shares of all processors' time that are idle."""

GOOD_RATIO = 0.8
BAD_RATIO = 0.92
"""Of the size after and before: good enough to begin, and too bad to go on."""

HELPS = 1.05
"""So many times faster than before must disks be copied."""

SAMPLES = 4
"""Frames that tell what a disk's data is like."""

LOOKS = 3
"""Looks in a row that must say so before what is on ends."""

FIRST_REST, MOST_REST = 5.0, 60.0
"""Seconds."""


class State(StrEnum):
    OFF = "off"
    TRYING = "trying"
    ON = "on"


@dataclass(frozen=True, slots=True)
class Reading:
    """What was between two looks: shares of one, frames compressed with their sizes' ratio (of a try: since it began),
    and disk bytes copied in a second in which a stream had something to do."""

    wire_share: float
    idle_share: float
    frames: int
    ratio: float
    rate: float


class CompressionPolicy:
    """Of one move; `state` now and `why`."""

    def __init__(self, mode: Compress, *, understood: bool) -> None:
        self.state = State.OFF
        self.why = "the network was not what the copy waited for"
        self._mode = mode
        self._rest = FIRST_REST
        self._not_before = 0.0
        self._before = 0.0
        self._bad_looks = 0
        self._good_looks = 0
        if mode is Compress.OFF:
            self.why = "the operator said so"
        elif not understood:
            self._mode, self.why = Compress.OFF, "the destination does not know compressed data"
        elif mode is Compress.ON:
            self.state, self.why = State.ON, "the operator said so"

    def look(self, now: float, reading: Reading) -> State:
        """What is done from now on."""
        if self._mode is not Compress.AUTO:
            return self.state
        if self.state is State.OFF:
            self._consider(now, reading)
        elif self.state is State.TRYING:
            self._judge_try(now, reading)
        else:
            self._judge(now, reading)
        return self.state

    def _consider(self, now: float, reading: Reading) -> None:
        if now < self._not_before or reading.wire_share < WIRE_MOST:
            return
        if reading.idle_share < IDLE_ENOUGH:
            self.why = f"the processors had no time to spare: {reading.idle_share:.0%} idle"
            return
        self.state, self._before = State.TRYING, reading.rate

    def _judge_try(self, now: float, reading: Reading) -> None:
        if reading.wire_share < WIRE_LEAST:
            self._end(now, "the network was not what the copy waited for")
        elif reading.frames >= SAMPLES and reading.ratio < GOOD_RATIO:
            self.state, self._bad_looks, self._good_looks = State.ON, 0, 0
            self.why = f"the copy waited for the network, and the data gets smaller, to {reading.ratio:.0%}"
        elif reading.frames >= SAMPLES:
            self._end(now, f"the data does not get smaller: to {reading.ratio:.0%}")

    def _judge(self, now: float, reading: Reading) -> None:
        against = _against(reading, self._before)
        self._bad_looks = self._bad_looks + 1 if against else 0
        self._good_looks = 0 if against else self._good_looks + 1
        if self._bad_looks >= LOOKS:
            self._end(now, against)
        elif self._good_looks >= LOOKS:
            self._rest = FIRST_REST

    def _end(self, now: float, why: str) -> None:
        self.state, self.why = State.OFF, why
        self._not_before, self._rest = now + self._rest, min(2 * self._rest, MOST_REST)


def _against(reading: Reading, rate_before: float) -> str:
    """Why to stop; empty: nothing speaks against it."""
    if reading.frames >= SAMPLES and reading.ratio > BAD_RATIO:
        return f"the data does not get smaller any more: to {reading.ratio:.0%}"
    if reading.idle_share < IDLE_NONE:
        return "the processors had no time left"
    if reading.rate < HELPS * rate_before:
        return "it did not make the copy faster"
    return ""
