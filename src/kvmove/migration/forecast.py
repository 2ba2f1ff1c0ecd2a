"""What a move will be: seconds as a band, bytes, downtime, and whether the memory converges. Pure.

    phase            seconds
    preparing        a constant: QEMU's start, streams
    copying disks    data / the slowest of wire, storage and processors, plus half of what the guest writes meanwhile
    copying memory   rounds: what is used first, then each time what the guest changed during the round before
    switching over   a constant
    cleaning up      a constant, and reading both sides' disks if they are compared

Where processors are waited for (`Inputs.pressure`), the constants are longer and less is copied a second (`stretched`).

The constants are those of a small machine; what past moves of this manager really took corrects each phase
(`Correction`, from `forecast_scores`), so a phase that is always twice as long here is forecast twice as long.

Invariants, for the same corrections: more data, memory or pressure is never a shorter time, a faster wire or storage
never a longer one, at either end of the band; and the band holds the likely time.

Deliberately not here: how the figures are measured (agent.samples), and what of them is missing (forecast_inputs).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from kvmove.memory.convergence import GIVE_UP_ROUNDS, LEAST_LIMIT_MS, STEPS
from kvmove.model.forecast import Forecast
from kvmove.model.move import Phase
from kvmove.units import MIB, format_rate, format_size

DOWNTIME = "downtime"
"""The name of the pause among the parts of a forecast; it lies within the switchover and adds no time."""

PREPARE_SECONDS = {True: 0.3, False: 0.06}
"""With and without a QEMU to start at the destination."""

DISKS_SECONDS = 0.08
MEMORY_SECONDS = 0.35
SWITCH_SECONDS = {True: 0.2, False: 0.06}
"""With and without memory to move."""

CLEAN_UP_SECONDS = 0.04
DIGEST_RATE = 400 * MIB
PAUSE_MS = {True: 110.0, False: 25.0}
"""What a pause takes besides the last round: draining, syncing, device state, hand-over. As above."""

COPY_RATE = 200 * MIB
MEMORY_RATE = 125 * MIB
"""What the processors of a small machine carry over a wire, bytes/s: of disks, of memory. Faster machines show by the
try of their wire; this matters where processors are waited for."""

COPY_IN_HOST_RATE = 160 * MIB
"""What they read and write within a host; a try of its storage alone, into the page cache, says far more."""

PRESSED = 3.5
"""At full pressure QEMU's start and all copying takes so many times longer, on top of its time at rest."""

PRESSED_SHORT = 1.2
"""What mostly waits for answers takes longer only so many times."""

THROTTLED_FROM = 0.5
"""QEMU holds the vCPUs back once a round leaves more than this share of what it sent (throttle-trigger-threshold)."""

THROTTLE_FIRST, THROTTLE_STEP, THROTTLE_MOST = 0.2, 0.1, 0.99

UNSURE = {
    Phase.PREPARING: 0.35,
    Phase.COPYING_DISKS: 0.22,
    Phase.COPYING_MEMORY: 0.22,
    Phase.SWITCHING_OVER: 0.4,
    Phase.CLEANING_UP: 0.5,
}
"""How far off each phase may be, as a share of it, before any past move has told."""

BAND = 1.3
"""A band of so many standard deviations; nine moves of ten should end inside."""

FLOOR = 0.07
FLOOR_SECONDS = 0.15
"""No forecast is closer than this share and this time: the machines have other things to do."""


@dataclass(frozen=True)
class DiskLoad:
    """One disk: bytes to carry, and the bytes/s that its new place takes. `store` names that place."""

    data: int
    rate: float
    store: str = ""


@dataclass(frozen=True)
class Inputs:
    """A move in figures. Bytes, bytes/s. `wire` None: the disks do not go over a wire, and neither does memory.

    `memory` is None where none moves; `dirty_rate` None is not known. `pressure` is the share of time, 0 to 1, in which
    something waits for a processor. `doubts` adds to how unsure a phase is, as a
    share of it; `notes` are sentences on what is not known.
    """

    disks: tuple[DiskLoad, ...] = ()
    wire: float | None = None
    disks_over_wire: bool = True
    write_rate: float = 0.0
    memory: int | None = None
    dirty_rate: float | None = 0.0
    max_downtime_ms: int = 300
    starts_qemu: bool = True
    digest_bytes: int = 0
    pressure: float = 0.0
    doubts: Mapping[Phase, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Correction:
    """What past moves say of one part: real / forecast (`factor`), and how far they scatter (`unsure`)."""

    factor: float = 1.0
    unsure: float | None = None


@dataclass(frozen=True)
class Rounds:
    """QEMU's memory rounds: seconds and bytes of those before the pause, bytes left for it, and whether that is few
    enough."""

    seconds: float
    sent: float
    rest: float
    converged: bool


def forecast(inputs: Inputs, corrections: Mapping[str, Correction], past_error: float | None = None) -> Forecast:
    """The forecast of a move with these figures."""
    rounds = memory_rounds(inputs)
    disk_seconds, mirrored = _disks(inputs)
    raw = _raw(inputs, rounds, disk_seconds)
    parts = {phase: raw[phase] * _of(corrections, phase).factor for phase in raw}
    seconds = sum(parts.values())
    spread = math.sqrt(sum((parts[phase] * _unsure(inputs, corrections, phase)) ** 2 for phase in parts))
    high = seconds * (1 + FLOOR) + FLOOR_SECONDS + BAND * spread
    pause = _pause_ms(inputs, rounds)
    return Forecast(
        seconds_low=round(seconds * seconds / high, 3),
        seconds=round(seconds, 3),
        seconds_high=round(high, 3),
        bytes=round(sum(disk.data for disk in inputs.disks) + mirrored + rounds.sent + rounds.rest),
        downtime_ms=round(pause * _of(corrections, DOWNTIME).factor, 1),
        converges=None if inputs.dirty_rate is None and inputs.memory else rounds.converged,
        why="; ".join((_why(inputs, rounds), *inputs.notes)),
        past_error=past_error,
        parts={**{str(phase): round(value, 4) for phase, value in raw.items()}, DOWNTIME: round(pause / 1000, 4)},
    )


def stretched(pressure: float, most: float = PRESSED) -> float:
    """How many times longer something takes under `pressure`. Up to about half of the time it is hardly felt, at all
    of the time much."""
    return 1 + most * pressure**4


def memory_rounds(inputs: Inputs) -> Rounds:
    """The rounds until what is left fits into the pause that is allowed by then, or until they are given up."""
    if not inputs.memory or not inputs.wire:
        return Rounds(0.0, 0.0, 0.0, converged=True)
    share = (inputs.dirty_rate or 0.0) / inputs.wire
    left, sent, seconds = float(inputs.memory), 0.0, 0.0
    for number in range(1, GIVE_UP_ROUNDS + 1):
        seconds += left / inputs.wire
        sent += left
        left = min(left * _after_throttle(share, number), float(inputs.memory))
        if left <= inputs.wire * _pause_allowed_ms(inputs.max_downtime_ms, number) / 1000:
            return Rounds(seconds, sent, left, converged=True)
    return Rounds(seconds, sent, left, converged=False)


def _after_throttle(share: float, number: int) -> float:
    """What round `number` leaves of what it sent. A guest that is held back is never held back further than to
    `THROTTLED_FROM`, or a slower wire would be the faster one."""
    held = min(THROTTLE_FIRST + THROTTLE_STEP * (number - 2), THROTTLE_MOST) if number > 1 else 0.0
    return max(min(share, THROTTLED_FROM), share * (1 - held))


def _pause_allowed_ms(limit: int, rounds: int) -> float:
    """As `memory.convergence` raises it."""
    step = max(part for after, part in STEPS if rounds >= after)
    return max(limit * step, min(LEAST_LIMIT_MS, limit))


def _disks(inputs: Inputs) -> tuple[float, float]:
    """Seconds for the bulk of all disks, and bytes of the guest's writes that go along."""
    by_store: dict[str, tuple[int, float]] = {}
    for disk in inputs.disks:
        data, rate = by_store.get(disk.store, (0, math.inf))
        by_store[disk.store] = (data + disk.data, min(rate, disk.rate))
    loads = list(by_store.values())
    data = sum(disk.data for disk in inputs.disks)
    if inputs.disks_over_wire and inputs.wire:
        loads.append((data, _carried(inputs.wire, COPY_RATE, inputs.pressure)))
    else:
        loads.append((data, COPY_IN_HOST_RATE / stretched(inputs.pressure)))
    seconds = max((data / _beside_writes(rate, inputs.write_rate) for data, rate in loads if data), default=0.0)
    return seconds, seconds * inputs.write_rate / 2


def _carried(wire: float, processors: float, pressure: float) -> float:
    """What goes over the wire: all of it, unless `processors`, bytes/s at rest, do not get to it."""
    return min(wire, max(wire, processors) / stretched(pressure))


def _beside_writes(rate: float, write_rate: float) -> float:
    """What is left of `rate` for the bulk copy: of the guest's writes half go along on average, those to what is
    copied already; and however much it writes, the copy gets its half."""
    return rate - min(write_rate / 2, rate / 2)


def _raw(inputs: Inputs, rounds: Rounds, disk_seconds: float) -> dict[Phase, float]:
    moves_memory = inputs.memory is not None
    long, short = stretched(inputs.pressure), stretched(inputs.pressure, PRESSED_SHORT)
    raw = {Phase.PREPARING: PREPARE_SECONDS[inputs.starts_qemu] * (long if inputs.starts_qemu else short)}
    if inputs.disks:
        raw[Phase.COPYING_DISKS] = DISKS_SECONDS * short + disk_seconds
    if moves_memory:
        raw[Phase.COPYING_MEMORY] = MEMORY_SECONDS * long + _memory_seconds(inputs, rounds)
    rest = rounds.rest / inputs.wire if inputs.wire else 0.0
    raw[Phase.SWITCHING_OVER] = SWITCH_SECONDS[moves_memory] * short + rest
    raw[Phase.CLEANING_UP] = CLEAN_UP_SECONDS * short + inputs.digest_bytes / DIGEST_RATE
    return raw


def _memory_seconds(inputs: Inputs, rounds: Rounds) -> float:
    """The rounds are those of the wire, for a guest waits for the same processors; only their time is longer."""
    if not inputs.wire:
        return rounds.seconds
    return rounds.sent / _carried(inputs.wire, MEMORY_RATE, inputs.pressure)


def _pause_ms(inputs: Inputs, rounds: Rounds) -> float:
    rest = rounds.rest / inputs.wire * 1000 if inputs.wire else 0.0
    return PAUSE_MS[inputs.memory is not None] * stretched(inputs.pressure, PRESSED_SHORT) + rest


def _of(corrections: Mapping[str, Correction], part: str) -> Correction:
    return corrections.get(part, Correction())


def _unsure(inputs: Inputs, corrections: Mapping[str, Correction], phase: Phase) -> float:
    learned = _of(corrections, phase).unsure
    return math.hypot(UNSURE[phase] if learned is None else learned, inputs.doubts.get(phase, 0.0))


def _why(inputs: Inputs, rounds: Rounds) -> str:
    """Of the memory; a move without any cannot fail to converge."""
    if inputs.memory is None or not inputs.wire:
        return "no memory moves"
    if inputs.dirty_rate is None:
        return "whether it converges is not known"
    carried = f"the wire carries {format_rate(inputs.wire)}"
    if not inputs.dirty_rate:
        return f"it will converge: the guest changes no memory, {carried}"
    changes = f"the guest changes {format_rate(inputs.dirty_rate)} of memory, {carried}"
    if not rounds.converged:
        return (
            f"it will not converge: {changes}, and even held back the guest leaves {format_size(rounds.rest)}, more "
            f"than a pause of {inputs.max_downtime_ms} ms allows (--max-downtime)"
        )
    if inputs.dirty_rate > inputs.wire * THROTTLED_FROM:
        return f"it will converge with the guest held back: {changes}"
    return f"it will converge: {changes}"
