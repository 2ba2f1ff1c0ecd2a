"""When QEMU's memory rounds should be helped to an end, and when they should be given up. Pure.

Memory converges when a round leaves less than what the wire carries within the downtime limit. What gives way for a
guest that changes its memory faster is the operator's choice:

    policy              vCPUs are held back     downtime limit            that does not converge
    minimal-downtime    never                   the operator's, at most   given up early
    balanced            up to the operator's    the operator's, at most   given up after GIVE_UP_ROUNDS
    suspend-if-needed   up to the operator's    above the operator's,     never: the limit becomes what it takes
                                                from SUSPEND_ROUNDS on

QEMU itself holds back the vCPUs, more with every round (auto-converge). The downtime limit rises in steps, so that a
guest which converges easily gets the short pause:

    rounds without convergence   downtime limit
    0                            1/4 of the operator's
    2                            1/2
    5                            all of it

Deliberately not here: QMP, and the clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from kvmove.model.terms import MOST_SLOWDOWN, Policy
from kvmove.units import format_duration, format_rate

STEPS: tuple[tuple[int, float], ...] = ((0, 0.25), (2, 0.5), (5, 1.0))
"""(rounds, share of the operator's downtime limit)."""

GIVE_UP_ROUNDS = 60
"""With vCPUs held back up to 99 % from about round 12 on, a guest that has not converged by then will not."""

TELL_ROUNDS = 2
"""So many rounds in a row must the guest outrun the wire before the operator is told: the first ones carry old data."""

GIVE_UP_EARLY_ROUNDS = 4
"""So many of them end a move that may not hold the guest back."""

SUSPEND_ROUNDS = 8

MARGIN = 1.25
"""A pause is planned so much longer than what is left would take: the rate was measured, not promised."""

MOST_LIMIT_MS = 2_000_000
"""QEMU's own, for a downtime limit."""

LEAST_LIMIT_MS = 20


class Reading(NamedTuple):
    """What is seen of the rounds: their count, the share of time (percent) that vCPUs are held back, what the guest
    changes and what is sent (bytes/s, 0: not known), and what is left of this round (bytes)."""

    rounds: int
    throttle: int = 0
    dirty_rate: int = 0
    sent_rate: int = 0
    remaining: int = 0


@dataclass(frozen=True, slots=True)
class RaiseDowntimeLimit:
    """Allow QEMU a longer pause, milliseconds; the reason is for people."""

    milliseconds: int
    reason: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """End the move; the reason is for people."""

    reason: str


class Convergence:
    """Watches one pre-copy. `max_downtime_ms` is the operator's limit; `remark` is what there is to tell now."""

    def __init__(
        self, max_downtime_ms: int, policy: Policy = Policy.BALANCED, max_slowdown: int = MOST_SLOWDOWN
    ) -> None:
        self.remark = ""
        self._operators = max_downtime_ms
        self._policy = policy
        self.max_slowdown = 0 if policy is Policy.MINIMAL_DOWNTIME else max_slowdown
        """Percent; 0: vCPUs are not held back."""
        self.limit_ms = self._step(0)
        """The downtime limit as it is."""
        self._behind = 0
        self._seen_rounds = 0

    def allow(self, max_downtime_ms: int) -> None:
        """The operator's limit is another from now on; a lower one takes back what was allowed."""
        self._operators = max_downtime_ms
        self.limit_ms = min(self.limit_ms, max_downtime_ms)

    def observe(self, now: Reading) -> RaiseDowntimeLimit | GiveUp | None:
        """What to do at this point of the rounds."""
        self._count(now)
        why = self._why(now)
        self.remark = f"{self._verdict()}: {why}" if self._behind >= TELL_ROUNDS else ""
        if self._policy is Policy.SUSPEND_IF_NEEDED and now.rounds >= SUSPEND_ROUNDS:
            return self._suspend(now, why)
        if self._policy is Policy.MINIMAL_DOWNTIME and self._behind >= GIVE_UP_EARLY_ROUNDS:
            return GiveUp(f"{why}, and {self._policy} does not hold it back")
        if self._policy is not Policy.SUSPEND_IF_NEEDED and now.rounds >= GIVE_UP_ROUNDS:
            return GiveUp(
                f"after {now.rounds} rounds, with vCPUs held back {now.throttle} % of the time, no pause of "
                f"{self._operators} ms would do: {why}"
            )
        wanted = self._step(now.rounds)
        if wanted <= self.limit_ms:
            return None
        self.limit_ms = wanted
        enough = now.rounds < STEPS[1][0]
        return RaiseDowntimeLimit(
            wanted, "the operator allows it" if enough else f"{now.rounds} rounds were not enough"
        )

    def _count(self, now: Reading) -> None:
        """A round in which the guest changed at least as much as was sent is one more behind."""
        if now.rounds <= self._seen_rounds:
            return
        self._seen_rounds = now.rounds
        self._behind = self._behind + 1 if now.rounds > 1 and 0 < now.sent_rate <= now.dirty_rate else 0

    def _verdict(self) -> str:
        if self._policy is Policy.MINIMAL_DOWNTIME:
            return "will not converge"
        if self.max_slowdown:
            return "does not converge yet, vCPUs are being held back"
        return "does not converge"

    def _suspend(self, now: Reading, why: str) -> RaiseDowntimeLimit | None:
        if not now.sent_rate:
            return None
        needed = min(round(now.remaining / now.sent_rate * 1000 * MARGIN) + 1, MOST_LIMIT_MS)
        if needed <= self.limit_ms:
            return None
        self.limit_ms = needed
        self.remark = f"the guest will be paused for about {format_duration(needed / 1000)}: {why}"
        return RaiseDowntimeLimit(needed, why)

    @staticmethod
    def _why(now: Reading) -> str:
        return f"the guest changes {format_rate(now.dirty_rate)} of its memory, {format_rate(now.sent_rate)} are sent"

    def _step(self, rounds: int) -> int:
        share = max(share for after, share in STEPS if rounds >= after)
        return max(round(self._operators * share), min(LEAST_LIMIT_MS, self._operators))
