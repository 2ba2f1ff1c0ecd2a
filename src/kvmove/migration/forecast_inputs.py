"""From a plan and what was sampled to the figures of a forecast; what was not measured is guessed, and said. Pure.

Invariant: a missing sample never ends a forecast. It makes it less sure (`Inputs.doubts`) and is named (`notes`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from kvmove.migration.forecast import UNSURE, DiskLoad, Inputs
from kvmove.model.forecast import DiskSample, GuestSample, StorageSample, WireSample
from kvmove.model.image import DiskImage
from kvmove.model.move import DiskPlacement, MoveKind, MovePlan, Phase
from kvmove.model.vm import Power
from kvmove.units import MIB

GUESSED_WIRE = 100 * MIB
GUESSED_STORAGE = 150 * MIB
GUESSED_FILL = 0.7
"""Of a disk or memory of which nobody knows how much is used."""

NOT_KNOWN = 0.5
"""How much less sure a phase is whose main figure is a guess."""

HALF_KNOWN = 0.25
"""And one of which a lesser figure is."""

READ_AND_WRITTEN = 0.5
"""Of what storage takes, so much is left where the same host must read as much first."""

LEAST_RATE = MIB
"""Bytes/s. A sample below this was of a wire that did not carry it, and would forecast for ever."""

BUSY_HOST = 0.4
"""How much less sure every phase is on a host where somebody waits for a processor all the time."""

VERY_BUSY = 0.6
"""From this share of the time on it is said."""


@dataclass(frozen=True)
class Seen:
    """All that was sampled; None where nothing came."""

    images: Mapping[str, DiskImage] = field(default_factory=dict)
    guest: GuestSample | None = None
    wire: WireSample | None = None
    storage: StorageSample | None = None


class _Doubts:
    """Gathers what is not known."""

    def __init__(self) -> None:
        self.of: dict[Phase, float] = {}
        self.notes: list[str] = []

    def add(self, note: str, amount: float, *phases: Phase) -> None:
        if note and note not in self.notes:
            self.notes.append(note)
        for phase in phases:
            self.of[phase] = math.hypot(self.of.get(phase, 0.0), amount)


def inputs_of(plan: MovePlan, seen: Seen) -> Inputs:
    """The figures of the move that `plan` describes."""
    doubts = _Doubts()
    wire = _wire(plan, seen.wire, doubts) if plan.kind is not MoveKind.STORAGE else None
    memory = _memory(plan, seen.guest, doubts) if plan.moves_memory else None
    guest = seen.guest or GuestSample()
    busy = guest.pressure or 0.0
    words = f"{plan.source.name} is busy: {busy * 100:.0f} % of the time something waits for a processor"
    doubts.add(words if busy >= VERY_BUSY else "", BUSY_HOST * busy, *(UNSURE if busy else ()))
    dirty_rate: float | None = 0.0
    write_rate = 0.0
    if plan.power is Power.RUNNING:
        dirty_rate = guest.dirty_rate
        write_rate = float(guest.write_rate or 0)
        if memory is not None and dirty_rate is None:
            doubts.add(_reason(guest, "how fast the guest changes memory"), HALF_KNOWN, Phase.COPYING_MEMORY)
        if plan.disks and guest.write_rate is None:
            doubts.add("how much the guest writes is not known", HALF_KNOWN, Phase.COPYING_DISKS)
    return Inputs(
        disks=tuple(_disk(plan, disk, seen, doubts) for disk in plan.disks),
        wire=wire,
        disks_over_wire=not plan.over_storage,
        write_rate=write_rate,
        memory=memory,
        dirty_rate=dirty_rate,
        max_downtime_ms=plan.max_downtime_ms,
        starts_qemu=plan.moves_memory,
        pressure=busy,
        digest_bytes=sum(disk.size for disk in plan.disks) if plan.verify else 0,
        doubts=doubts.of,
        notes=tuple(doubts.notes),
    )


def _reason(guest: GuestSample, what: str) -> str:
    return "; ".join(guest.unknown) or f"{what} is not known"


def _wire(plan: MovePlan, sample: WireSample | None, doubts: _Doubts) -> float:
    """What all NICs carry together: as tried, but no faster than they say they are."""
    speeds = {route.nic: route.speed for route in plan.routes}
    rates = sample.rates if sample else {}
    known = {nic: min(rates.get(nic, speed) or speed, speed or math.inf) for nic, speed in speeds.items()}
    phases = (Phase.COPYING_MEMORY,) if plan.over_storage else (Phase.COPYING_DISKS, Phase.COPYING_MEMORY)
    if not any(known.values()):
        doubts.add("what the wire carries is not known", NOT_KNOWN, *phases)
        return float(GUESSED_WIRE)
    if not rates:
        doubts.add("the wire was not tried: what its NICs say of their speed is taken", HALF_KNOWN, *phases)
    return max(float(sum(known.values())), LEAST_RATE)


def _memory(plan: MovePlan, guest: GuestSample | None, doubts: _Doubts) -> int:
    if guest is None or guest.memory_used is None:
        doubts.add("how much memory the guest uses is not known", NOT_KNOWN, Phase.COPYING_MEMORY)
        return round(plan.vm.memory * GUESSED_FILL)
    return min(guest.memory_used, plan.vm.memory)


def _disk(plan: MovePlan, disk: DiskPlacement, seen: Seen, doubts: _Doubts) -> DiskLoad:
    sample = seen.storage.disks.get(disk.name, DiskSample()) if seen.storage else DiskSample()
    store = disk.reached_as or disk.destination_datastore
    if sample.shares_blocks:
        return DiskLoad(0, math.inf, store)
    within_host = plan.kind is MoveKind.STORAGE or disk.reached_as is not None
    rate = sample.rate
    if rate is not None and within_host:
        rate = round(rate * READ_AND_WRITTEN)
        doubts.add("", HALF_KNOWN, Phase.COPYING_DISKS)
    if rate is None:
        rate = GUESSED_STORAGE
        doubts.add("", HALF_KNOWN if not disk.on_device else HALF_KNOWN / 2, Phase.COPYING_DISKS)
    image = seen.images.get(disk.name)
    if image is None or image.allocated is None:
        doubts.add(f"how much data disk {disk.name} holds is not known", NOT_KNOWN, Phase.COPYING_DISKS)
        return DiskLoad(round(disk.size * GUESSED_FILL), float(max(rate, LEAST_RATE)), store)
    data = min(image.allocated, disk.size) + sum(base.size for base in image.backing)
    return DiskLoad(data, float(max(rate, LEAST_RATE)), store)
