"""What a move costs and risks, before anybody has measured: from sizes and NIC speeds. Pure.

Deliberately rough: the figure ranks moves and weighs them against a benefit. How long a move will really take is the
forecast's to say, which looks at what the guest writes.
"""

from __future__ import annotations

from kvmove.model.move import MoveKind
from kvmove.model.placement import Cost
from kvmove.model.vm import DiskDefinition
from kvmove.placement.cluster import Guest, Host
from kvmove.units import format_duration, format_size

FIXED_SECONDS = 3.0
"""To start a QEMU, open streams and hand over."""

MEMORY_AGAIN = 1.2
"""Bytes sent for each byte of memory: a guest writes while it moves."""

WORTH_SECONDS = 3600.0
"""A balance is taken to be worth something for an hour: a move of 36 s costs one hundredth of load."""

UNIFIED_FACTOR = 2.0
"""Moving disks too loads two datastores and can go wrong in more ways: it has to be worth twice as much."""


def local_disks(guest: Guest, source: Host, destination: Host) -> list[DiskDefinition]:
    """The disks that lie on a datastore which the destination does not reach."""
    found = []
    for disk in guest.status.definition.disks:
        store = source.stores.get(disk.datastore)
        if store is None or store.id not in destination.store_ids:
            found.append(disk)
    return found


def move_cost(guest: Guest, source: Host, destination: Host) -> tuple[MoveKind, Cost]:
    """What moving the VM between these hosts is, and takes."""
    disks = local_disks(guest, source, destination)
    kind = MoveKind.UNIFIED if disks else MoveKind.HOST
    sent = int(guest.sent * MEMORY_AGAIN) + sum(disk.size for disk in disks)
    return kind, cost_of(sent, min(source.speed, destination.speed), kind)


def move_points(guest: Guest, source: Host, destination: Host) -> float:
    """The points of `move_cost` alone, unrounded: balancing asks for them for each of many candidates."""
    disks = local_disks(guest, source, destination)
    sent = guest.sent * MEMORY_AGAIN + sum(disk.size for disk in disks)
    return _points(FIXED_SECONDS + sent / min(source.speed, destination.speed), unified=bool(disks))


def cost_of(sent: int, speed: int, kind: MoveKind) -> Cost:
    """`sent` bytes at `speed` bytes/s."""
    seconds = FIXED_SECONDS + sent / speed
    points = _points(seconds, unified=kind is MoveKind.UNIFIED)
    return Cost(bytes=sent, seconds=round(seconds, 1), points=round(points, 2))


def _points(seconds: float, *, unified: bool) -> float:
    return 100 * (UNIFIED_FACTOR if unified else 1.0) * seconds / WORTH_SECONDS


def risk_words(kind: MoveKind, cost: Cost) -> str:
    """What may go wrong, in words."""
    if kind is MoveKind.UNIFIED:
        return (
            f"disks move too ({format_size(cost.bytes)} in all): for about {format_duration(cost.seconds)} both "
            "datastores are busy, and a guest that writes faster than the NICs carry is slowed"
        )
    if kind is MoveKind.STORAGE:
        return "two datastores are busy for the time of it; the VM stays on its host"
    return "memory alone moves; a guest that writes memory faster than the NICs carry is slowed, or the move gives up"
