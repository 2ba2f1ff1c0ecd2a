"""Balancing of space and of write latency over datastores (what vSphere calls Storage DRS). Pure.

A cluster of datastores is a named group; disks are moved only within it, on the host that their VM is on: a storage
move, which leaves the VM where it is. A datastore is one wherever it is seen: it is known by its id.

A disk is moved when its datastore is over the limit of space or of latency, the other one stays below both with it, and
the gain is larger than `margin`. Invariants: no datastore goes over the limit of space by a plan; a datastore that was
relieved for its latency takes no disk in the same plan; a disk is moved once in a plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from kvmove.model.move import MoveKind
from kvmove.model.placement import Cause, Recommendation
from kvmove.model.vm import DiskDefinition
from kvmove.placement.cluster import Cluster, Guest, Host
from kvmove.placement.cost import cost_of, risk_words
from kvmove.placement.identity import identity
from kvmove.units import format_size

STORAGE_SPEED = 200_000_000
"""Bytes/s that are taken for a copy between datastores of one host."""


class StorageTuning(NamedTuple):
    """`space`, `margin`: shares of one. `latency_ms`: above it a datastore is slow."""

    space: float = 0.80
    latency_ms: float = 15.0
    margin: float = 0.05


@dataclass(eq=False)
class _Store:
    names: dict[str, str]
    """What each host calls it."""
    size: int
    used: int
    write_ms: float
    disks: list[tuple[Guest, DiskDefinition]] = field(default_factory=list)
    relieved: bool = False

    @property
    def share(self) -> float:
        return self.used / self.size if self.size else 1.0


def balance_storage(
    cluster: Cluster, groups: Mapping[str, Sequence[str]], tuning: StorageTuning
) -> list[Recommendation]:
    """What to move between datastores, in order. `groups` are the clusters of datastores by name; block devices, whose
    disks fit or do not, are left out."""
    found: list[Recommendation] = []
    for group, names in groups.items():
        stores = _stores(cluster, frozenset(names))
        moved: set[tuple[UUID, str]] = set()
        while (step := _best(stores, cluster, tuning, moved)) is not None:
            found.append(_apply(step, group, cluster, tuning, moved))
    return found


class _Step(NamedTuple):
    gain: float
    guest: Guest
    disk: DiskDefinition
    source: _Store
    to: _Store


def _stores(cluster: Cluster, names: frozenset[str]) -> list[_Store]:
    found: dict[UUID, _Store] = {}
    for host in cluster.hosts.values():
        latency = {it.name: it.write_ms or 0.0 for it in host.load.datastores}
        for store in host.info.datastores:
            if store.name not in names or store.devices is not None:
                continue
            one = found.setdefault(store.id, _Store({}, store.size, store.size - store.free, 0.0))
            one.names[host.name] = store.name
            one.write_ms = max(one.write_ms, latency.get(store.name, 0.0))
    for host in cluster.hosts.values():
        for guest in host.guests.values():
            for disk in guest.status.definition.disks:
                store_info = host.stores.get(disk.datastore)
                if store_info is not None and store_info.id in found:
                    found[store_info.id].disks.append((guest, disk))
    return list(found.values())


def _best(
    stores: Iterable[_Store], cluster: Cluster, tuning: StorageTuning, moved: set[tuple[UUID, str]]
) -> _Step | None:
    everywhere = list(stores)
    troubled = [one for one in everywhere if _is_full(one, tuning) or _is_slow(one, tuning)]
    for source in sorted(troubled, key=lambda one: -one.share):
        steps = [
            step
            for guest, disk in source.disks
            if guest.movable and guest.uuid not in cluster.resting and (guest.uuid, disk.name) not in moved
            for to in everywhere
            if (step := _step(guest, disk, source, to, cluster.host_of(guest), tuning)) is not None
        ]
        if steps:
            return max(steps, key=lambda it: (it.gain, it.guest.name, it.disk.name))
    return None


def _is_full(store: _Store, tuning: StorageTuning) -> bool:
    return store.share > tuning.space


def _is_slow(store: _Store, tuning: StorageTuning) -> bool:
    return store.write_ms > tuning.latency_ms and not store.relieved


def _step(
    guest: Guest, disk: DiskDefinition, source: _Store, to: _Store, host: Host, tuning: StorageTuning
) -> _Step | None:
    if to is source or host.name not in to.names or to.relieved or to.write_ms > tuning.latency_ms:
        return None
    after = (to.used + disk.size) / to.size
    if after > tuning.space:
        return None
    if _is_full(source, tuning):
        gain = source.share - max(after, source.share - disk.size / source.size)
    else:
        gain = (source.write_ms - to.write_ms) / source.write_ms
    return _Step(gain, guest, disk, source, to) if gain > tuning.margin else None


def _apply(
    step: _Step, group: str, cluster: Cluster, tuning: StorageTuning, moved: set[tuple[UUID, str]]
) -> Recommendation:
    host = cluster.host_of(step.guest)
    source, to = step.source.names[host.name], step.to.names[host.name]
    full = _is_full(step.source, tuning)
    was = step.source.share
    step.source.disks = [it for it in step.source.disks if it != (step.guest, step.disk)]
    step.source.used = max(step.source.used - step.disk.size, 0)
    step.source.relieved |= not full
    step.to.used += step.disk.size
    moved.add((step.guest.uuid, step.disk.name))
    if full:
        why = f"{source} is {100 * was:.0f} % full (limit {100 * tuning.space:.0f} %), {to} would be "
        why += f"{100 * step.to.share:.0f} % full"
    else:
        why = f"a write to {source} takes {step.source.write_ms:.0f} ms (limit {tuning.latency_ms:.0f} ms), one to "
        why += f"{to} {step.to.write_ms:.0f} ms"
    cost = cost_of(step.disk.size, STORAGE_SPEED, MoveKind.STORAGE)
    benefit = round(100 * step.gain, 1)
    return Recommendation(
        id=identity(Cause.STORAGE, step.guest.name, step.disk.name, source, to),
        cause=Cause.STORAGE,
        kind=MoveKind.STORAGE,
        vm=step.guest.name,
        disk=step.disk.name,
        host=host.name,
        source=source,
        destination=to,
        benefit=benefit,
        cost=cost,
        reason=f"in cluster {group} {why}; {format_size(step.disk.size)} at most go, worth {benefit:.1f} points",
        risk=risk_words(MoveKind.STORAGE, cost),
    )
