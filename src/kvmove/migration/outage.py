"""What a move says while its destination is out of reach and it waits for it, and afterwards. Pure; seconds come in.

Nothing is decided here: the mover gives up for want of streams (`disk_move`), the watch for want of answers (`watch`).
"""

from __future__ import annotations

from collections.abc import Callable

UNWORTHY = 1.0
"""Seconds: nobody wants to read of a shorter silence of the streams; they are reopened all the time."""

AGENT_UNWORTHY = 3.0
"""The same of the agent, which is asked twice a second and may be busy."""


def _silent_never() -> float:
    return 0.0


class Outage:
    """Of one move to the host `destination`. `silence` tells since when its agent has not answered (seconds), and
    `give_up` how long a copy waits; `remark` is what the task says now, empty while there is nothing to say."""

    def __init__(self, destination: str) -> None:
        self.remark = ""
        self.silence: Callable[[], float] = _silent_never
        self.give_up = 0.0
        self._destination = destination
        self._longest = 0.0

    def look(self, alone: float | None) -> str | None:
        """Take in for how long there has been no stream (None: there is one). Returns what is to be noted of an outage
        that has just ended."""
        silence = self.silence()
        if alone is not None and alone >= UNWORTHY:
            self._longest = alone
            self._say(f"no stream to {self._destination}", alone)
            return None
        self.remark = ""
        if silence >= AGENT_UNWORTHY:
            self._say(f"no answer of {self._destination}'s agent", silence)
        if alone is None and self._longest:
            lasted, self._longest = self._longest, 0.0
            return f"streams to {self._destination} are open again after {lasted:.0f} s; what changed is copied again"
        return None

    def _say(self, what: str, seconds: float) -> None:
        until = f"; the copy gives up after {self.give_up:.0f} s" if self.give_up else ""
        self.remark = f"{what} for {seconds:.0f} s: the guest goes on; trying again{until}"
