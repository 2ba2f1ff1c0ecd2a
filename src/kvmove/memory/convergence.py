"""When QEMU's memory rounds should be helped to an end, and when they should be given up. Pure.

Memory converges when a round leaves less than what the wire carries within the downtime limit. QEMU itself slows
the vCPUs round by round (auto-converge); this raises the downtime limit step by step up to the operator's, so
that a guest which converges easily gets the short pause, and gives up after a bounded number of rounds.

    rounds without convergence   downtime limit
    0                            1/4 of the operator's
    2                            1/2
    5                            all of it
    GIVE_UP_ROUNDS               given up: the VM runs on at the source

Deliberately not here: QMP, and the clock.
"""

from __future__ import annotations

from dataclasses import dataclass

STEPS: tuple[tuple[int, float], ...] = ((0, 0.25), (2, 0.5), (5, 1.0))
"""(rounds, share of the operator's downtime limit)."""

GIVE_UP_ROUNDS = 60
"""With vCPUs held back up to 99 % from about round 12 on, a guest that has not converged by then will not."""

LEAST_LIMIT_MS = 20


@dataclass(frozen=True, slots=True)
class RaiseDowntimeLimit:
    """Allow QEMU a longer pause, milliseconds."""

    milliseconds: int


@dataclass(frozen=True, slots=True)
class GiveUp:
    """End the move; the reason is for people."""

    reason: str


class Convergence:
    """Watches one pre-copy. `max_downtime_ms` is the operator's limit."""

    def __init__(self, max_downtime_ms: int) -> None:
        self._limit = max_downtime_ms
        self._current = self._step(0)

    @property
    def first_limit_ms(self) -> int:
        """The downtime limit to begin with."""
        return self._step(0)

    def observe(self, rounds: int, throttle: int) -> RaiseDowntimeLimit | GiveUp | None:
        """What to do after `rounds` memory rounds, with vCPUs held back `throttle` percent of the time."""
        if rounds >= GIVE_UP_ROUNDS:
            return GiveUp(
                f"the guest changes its memory faster than it can be sent: {rounds} rounds, its vCPUs held back "
                f"{throttle} % of the time, and no pause of {self._limit} ms would do"
            )
        wanted = self._step(rounds)
        if wanted > self._current:
            self._current = wanted
            return RaiseDowntimeLimit(wanted)
        return None

    def _step(self, rounds: int) -> int:
        share = max(share for after, share in STEPS if rounds >= after)
        return max(round(self._limit * share), min(LEAST_LIMIT_MS, self._limit))
