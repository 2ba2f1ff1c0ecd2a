"""How far a move is: the movers' figures become one bar, a rate and a time to go. Pure; the time comes in.

Invariant: within a move, `percent` and `bytes_done` never fall, whatever is copied again, and 100 % is said of a
completed move alone. So the bar may stand still (regions are copied again, memory is dirtied as fast as it is sent);
the figures beside it (recopied bytes, rounds, dirty rate) say why.

`bytes_done` counts what of the VM is at the destination, at most `bytes_total` (all disks and the memory). `rate` is
what the NICs send, smoothed. A time to go is given only while it follows from what was seen; else it is unknown. It
comes with a band, wider the more the speed changes; no end of it is ever below zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from kvmove.model.move import DiskProgress, MemoryProgress, MovePlan, MoveProgress, NicProgress, Phase

SMOOTHING_SECONDS = 3.0
"""After so long, 63 % of a change of speed shows."""

_LEAST_STEP = 0.1  # seconds; readers may ask more often, and a speed over less is noise
_SEEN_ENOUGH = 2.0  # seconds of copying before a time to go is told
_STEADY = 0.08  # share; no time to go is surer than this
_MEMORY_UNSTEADY = 0.3  # share; the guest goes on changing its memory
_AFTER = 1.0  # seconds, or so; what is yet to come after the copying was not seen at all
_NO_FORECAST = 30 * 24 * 3600.0
_COPYING_SHARE = 97.0  # percent; the rest is switchover and cleaning up
_AT_LEAST = {Phase.SWITCHING_OVER: 98.0, Phase.CLEANING_UP: 99.0, Phase.COMPLETED: 100.0}


class Speed:
    """A growing count and its smoothed growth per second."""

    def __init__(self) -> None:
        self.per_second = 0.0
        self.seen_seconds = 0.0
        self.busy_seconds = 0.0
        self._at: float | None = None
        self._count = 0
        self._grown = 0

    @property
    def average(self) -> float:
        """Growth per second over all that was seen."""
        return self._grown / self.seen_seconds if self.seen_seconds else 0.0

    @property
    def busy_average(self) -> float:
        """Growth per second over those steps in which there was any."""
        return self._grown / self.busy_seconds if self.busy_seconds else 0.0

    def update(self, seconds: float, count: int) -> None:
        """The count at this time. A count that fell (a NIC's figures began anew) is a new beginning."""
        if self._at is None or count < self._count:
            self._at, self._count = seconds, count
            return
        step = seconds - self._at
        if step < _LEAST_STEP:
            return
        now = (count - self._count) / step
        weight = 1.0 if not self.seen_seconds else 1.0 - math.exp(-step / SMOOTHING_SECONDS)
        self.per_second += weight * (now - self.per_second)
        self.seen_seconds += step
        self.busy_seconds += step if now else 0.0
        self._grown += count - self._count
        self._at, self._count = seconds, count


class ProgressMeter:
    """The progress of the move that `plan` describes."""

    def __init__(self, plan: MovePlan) -> None:
        self._sizes = {disk.name: disk.size for disk in plan.disks}
        self._memory_size = plan.vm.memory if plan.moves_memory else 0
        self._total = sum(self._sizes.values()) + self._memory_size
        self._percent = 0.0
        self._done = 0
        self._elapsed = 0.0
        self._growth = Speed()
        self._nics: dict[str, Speed] = {}

    def update(
        self,
        seconds: float,
        phase: Phase,
        disks: Sequence[DiskProgress],
        memory: MemoryProgress,
        nics: Sequence[NicProgress],
        message: str = "",
    ) -> MoveProgress:
        """The progress at `seconds` since the move began, from the movers' figures of now.

        The rates in `nics` are not read: they are computed here, from what was sent.
        """
        self._elapsed = max(self._elapsed, seconds)
        self._count(phase, disks, memory)
        shown = tuple(self._with_rate(nic) for nic in nics)
        rate = sum(nic.rate for nic in shown)
        eta = self._eta(phase, memory, rate)
        low, high = self._band(phase, eta)
        return MoveProgress(
            phase=phase,
            percent=math.floor(self._percent * 10) / 10,
            bytes_done=self._done,
            bytes_total=self._total,
            rate=rate,
            eta_seconds=eta,
            eta_low=low,
            eta_high=high,
            elapsed_seconds=round(self._elapsed, 3),
            disks=tuple(disks),
            memory=memory,
            nics=shown,
            message=message,
        )

    def _count(self, phase: Phase, disks: Sequence[DiskProgress], memory: MemoryProgress) -> None:
        if phase in {Phase.CLEANING_UP, Phase.COMPLETED}:
            self._done = self._total
        else:
            copied = sum(_part(self._sizes.get(disk.name, 0), disk.copied, disk.total) for disk in disks)
            sent = _part(self._memory_size, memory.total - memory.remaining, memory.total)
            self._done = max(self._done, copied + sent)
        if phase is Phase.COPYING_DISKS:
            self._growth.update(self._elapsed, self._done)
        copying = _COPYING_SHARE * self._done / self._total if self._total else 0.0
        self._percent = max(self._percent, copying, _AT_LEAST.get(phase, 0.0))

    def _with_rate(self, nic: NicProgress) -> NicProgress:
        speed = self._nics.setdefault(nic.nic, Speed())
        speed.update(self._elapsed, nic.sent)
        return nic.model_copy(update={"rate": int(speed.per_second), "average": int(speed.busy_average)})

    def over_all(self, nics: Sequence[NicProgress]) -> tuple[NicProgress, ...]:
        """The NICs at the end: their rates are those of the whole move, over the time in which each sent anything."""
        averages = {name: int(speed.busy_average) for name, speed in self._nics.items()}
        return tuple(nic.model_copy(update={"average": averages.get(nic.nic, 0), "rate": 0}) for nic in nics)

    def _eta(self, phase: Phase, memory: MemoryProgress, rate: int) -> float | None:
        if phase is Phase.COMPLETED:
            return 0.0
        if phase is Phase.COPYING_DISKS and self._growth.seen_seconds >= _SEEN_ENOUGH:
            return _time_for(self._total - self._done, self._growth.per_second)
        if phase is Phase.COPYING_MEMORY and memory.remaining:
            return _time_for(memory.remaining, rate - memory.dirty_rate)
        return None

    def _band(self, phase: Phase, eta: float | None) -> tuple[float | None, float | None]:
        """Between what the speed of now says and what that of the whole copy so far says, and some more either way."""
        if not eta:
            return eta, eta
        pace = self._growth.per_second, self._growth.average
        unsteady = _MEMORY_UNSTEADY
        if phase is Phase.COPYING_DISKS:
            unsteady = max(pace) / min(pace) - 1 if min(pace) > 0 else 1.0
        share = 1 + _STEADY + min(unsteady, 1.0)
        return round(eta / share, 1), round(eta * share + _AFTER, 1)


def _part(size: int, done: int, total: int) -> int:
    """How much of `size` is done when `done` of `total` is."""
    return size * min(max(done, 0), total) // total if total > 0 else 0


def _time_for(size: int, per_second: float) -> float | None:
    if per_second <= 0 or size / per_second > _NO_FORECAST:
        return None
    return round(size / per_second, 1)
