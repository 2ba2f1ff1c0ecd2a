"""The picture that all placement is decided on: hosts with their loads, VMs with their demands. Pure.

A VM's demand is what it got, made larger by how much tasks of its host waited (pressure): on a host where everybody
waits, what a VM got says too little. Memory is what VMs were promised, not what they touch: a host must be able to
give it. Demand goes with a VM when it is moved here, so a picture says what a move would make of it.

Invariant: sums (`cpu`, `memory` of a host; the squares behind `imbalance`) are always those of the VMs on it. Only
`move` changes a picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv4Network
from math import sqrt
from uuid import UUID

from kvmove.model.host import DatastoreInfo, HostInfo, HostStatus
from kvmove.model.load import HostLoad
from kvmove.model.vm import VmState, VmStatus

DEFAULT_SPEED = 125_000_000
"""Bytes/s that are taken for a NIC whose speed nobody knows: 1 Gbit/s."""


@dataclass(eq=False)
class Guest:
    """A VM. `cpu` in cores, `memory` in bytes that it takes on a host (none while it is off)."""

    status: VmStatus
    cpu: float
    memory: int
    sent: int
    """Bytes of memory that a move sends."""

    @property
    def name(self) -> str:
        return self.status.definition.name

    @property
    def uuid(self) -> UUID:
        return self.status.definition.uuid

    @property
    def movable(self) -> bool:
        """Whether its state lets it move now."""
        return self.status.move_id is None and self.status.state in (VmState.RUNNING, VmState.PAUSED, VmState.OFF)


@dataclass(eq=False)
class Host:
    """A host that answers. `cores_used` and `memory_used` are of its VMs and of itself; `open`: it may take VMs."""

    info: HostInfo
    load: HostLoad
    open: bool
    networks: frozenset[IPv4Network]
    speed: int
    stores: Mapping[str, DatastoreInfo]
    store_ids: frozenset[UUID]
    cores_used: float = 0.0
    memory_used: int = 0
    memory_free: int = 0
    cpu: float = 0.0
    memory: float = 0.0
    peak: float = 0.0
    guests: dict[UUID, Guest] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.info.name

    def shares(self, cores: float, memory: int) -> tuple[float, float]:
        """So many cores and bytes as shares of this host's, what waits for memory counted in; over 1: more than it
        has."""
        return cores / self.load.cpus, memory / self.load.memory_total * (1 + self.load.memory_pressure)

    def count(self) -> None:
        """Work out the shares anew: `cpu` and `memory` as they are wanted, `peak` of whatever it has least of."""
        self.cpu, self.memory = self.shares(self.cores_used, self.memory_used)
        self.peak = max(self.cpu, self.memory)


def demand_of(guests: Iterable[Guest]) -> tuple[float, int]:
    """What they want together: cores and bytes."""
    there = tuple(guests)
    return sum(guest.cpu for guest in there), sum(guest.memory for guest in there)


class Cluster:
    """All hosts that answer, and their VMs. `resting` VMs were moved lately and are left alone by balancing."""

    def __init__(self, hosts: Iterable[Host], resting: frozenset[UUID] = frozenset()) -> None:
        self.hosts = {host.name: host for host in sorted(hosts, key=lambda host: host.name)}
        self.place = {uuid: host.name for host in self.hosts.values() for uuid in host.guests}
        self.by_name = {guest.name: guest for host in self.hosts.values() for guest in host.guests.values()}
        self.resting = resting
        self._sums = [0.0, 0.0, 0.0, 0.0]
        self._counted = 0
        self._neighbours: dict[str, tuple[Host, ...]] = {}
        self._at: dict[UUID, list[Host]] = {}
        for host in self.hosts.values():
            for store in host.store_ids if host.open else ():
                self._at.setdefault(store, []).append(host)
        for host in self.hosts.values():
            self._count(host, 1)

    @property
    def imbalance(self) -> float:
        """The spread of CPU and of memory over the open hosts, as one figure: 0 when all are equally busy."""
        return _spread(self._sums, self._counted)

    def imbalance_after(self, demand: tuple[float, int], source: Host, to: Host) -> float:
        """What it would be with VMs of this demand (cores, bytes) on `to` instead of on `source`."""
        sums, counted = list(self._sums), self._counted
        cores, memory = demand
        for host, sign in ((source, -1), (to, 1)):
            if host.open:
                _add(sums, host.cpu, host.memory, -1)
                _add(sums, *host.shares(host.cores_used + sign * cores, host.memory_used + sign * memory), 1)
        return _spread(sums, counted)

    def neighbours(self, host: Host) -> tuple[Host, ...]:
        """The open hosts that reach a datastore of this one, without itself."""
        if host.name not in self._neighbours:
            found = {other.name: other for store in host.store_ids for other in self._at.get(store, ())}
            self._neighbours[host.name] = tuple(other for other in found.values() if other is not host)
        return self._neighbours[host.name]

    def host_of(self, guest: Guest) -> Host:
        return self.hosts[self.place[guest.uuid]]

    def move(self, guests: Iterable[Guest], to: Host) -> None:
        """The VMs are on `to` from now on."""
        for guest in guests:
            source = self.host_of(guest)
            for host in (source, to):
                self._count(host, -1)
            del source.guests[guest.uuid]
            to.guests[guest.uuid] = guest
            self.place[guest.uuid] = to.name
            for host, sign in ((source, -1), (to, 1)):
                host.cores_used += sign * guest.cpu
                host.memory_used += sign * guest.memory
                host.memory_free -= sign * guest.memory
                host.count()
                self._count(host, 1)

    def _count(self, host: Host, sign: int) -> None:
        if host.open:
            _add(self._sums, host.cpu, host.memory, sign)
            self._counted += sign


def _add(sums: list[float], cpu: float, memory: float, sign: int) -> None:
    for index, value in enumerate((cpu, cpu * cpu, memory, memory * memory)):
        sums[index] += sign * value


def _spread(sums: Sequence[float], counted: int) -> float:
    if not counted:
        return 0.0
    cpu, cpu2, memory, memory2 = (value / counted for value in sums)
    return sqrt(max(cpu2 - cpu * cpu, 0.0) + max(memory2 - memory * memory, 0.0))


def picture(
    hosts: Iterable[HostStatus],
    vms: Iterable[VmStatus],
    resting: frozenset[UUID] = frozenset(),
    closed: frozenset[str] = frozenset(),
) -> Cluster:
    """The picture of what the manager knows. `closed` hosts take no VM (maintenance); those that do not answer, or do
    not tell their load, are not in it, and neither are their VMs."""
    there = {host.name: made for host in hosts if (made := _host(host, host.name not in closed)) is not None}
    measured = {name: {vm.uuid: vm for vm in host.load.vms} for name, host in there.items()}
    for status in vms:
        host = there.get(status.host)
        if host is None or status.state in (VmState.INCOMING, VmState.UNKNOWN):
            continue
        definition = status.definition
        load = measured[host.name].get(definition.uuid)
        runs = status.state in (VmState.RUNNING, VmState.PAUSED)
        got = load.cpu if load is not None and runs else 0.0
        guest = Guest(
            status,
            cpu=got * (1 + host.load.cpu_pressure),
            memory=definition.memory if runs else 0,
            sent=(load.memory if load is not None and load.memory else definition.memory) if runs else 0,
        )
        host.guests[definition.uuid] = guest
    for host in there.values():
        _sum_up(host)
    return Cluster(there.values(), resting)


def _host(status: HostStatus, is_open: bool) -> Host | None:
    info = status.info
    if info is None or not status.reachable or info.load is None:
        return None
    return Host(
        info=info,
        load=info.load,
        open=is_open,
        networks=frozenset(IPv4Interface(nic.address).network for nic in info.nics),
        speed=sum(nic.speed or DEFAULT_SPEED for nic in info.nics) or DEFAULT_SPEED,
        stores={store.name: store for store in info.datastores},
        store_ids=frozenset(store.id for store in info.datastores),
        memory_free=info.memory_free,
    )


def _sum_up(host: Host) -> None:
    """The host's own part is what it uses beyond its VMs; memory that VMs hold is counted as promised to them."""
    vms_cpu = sum(vm.cpu for vm in host.load.vms)
    vms_memory = sum(vm.memory for vm in host.load.vms)
    own_cpu = max(host.load.cpu_used * host.load.cpus - vms_cpu, 0.0) * (1 + host.load.cpu_pressure)
    own_memory = max(host.load.memory_used - vms_memory, 0)
    host.cores_used = own_cpu + sum(guest.cpu for guest in host.guests.values())
    host.memory_used = own_memory + sum(guest.memory for guest in host.guests.values())
    untouched = sum(max(guest.memory - guest.sent, 0) for guest in host.guests.values() if guest.memory)
    host.memory_free = max(min(host.memory_free - untouched, host.load.memory_total - host.memory_used), 0)
    host.count()
