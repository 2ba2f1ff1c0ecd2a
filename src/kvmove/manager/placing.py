"""The picture of all hosts as of now, and the rules: what maintenance, balancing and `auto` decide on.

Deciding is work of up to seconds for a thousand hosts, so it is done in a thread on what was snapped on the event loop;
everything in a snapshot is immutable.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple, TypeVar
from uuid import UUID

from kvmove.admission.costs import Limits
from kvmove.errors import CheckFailed, InvalidInput, NotFound
from kvmove.manager.inventory import Inventory, Marks
from kvmove.manager.lookup import one_place_each
from kvmove.manager.placement_store import PlacementStore
from kvmove.model.host import HostStatus
from kvmove.model.vm import VmDefinition, VmState, VmStatus
from kvmove.placement.choose import Choice, choices, nothing_fits
from kvmove.placement.cluster import Cluster, Guest, picture
from kvmove.placement.rules import Rules

T = TypeVar("T")


class Snapshot(NamedTuple):
    """What is known at one moment."""

    hosts: tuple[HostStatus, ...]
    reports: tuple[Sequence[VmStatus], ...]
    rules: Rules
    resting: frozenset[UUID]
    closed: frozenset[str]
    limits: Limits = Limits()

    def cluster(self, more_resting: frozenset[UUID] = frozenset()) -> Cluster:
        vms = one_place_each(vm for vms in self.reports for vm in vms)
        return picture(self.hosts, vms, self.resting | more_resting, self.closed)


class Placing:
    """Pictures over the inventory and what is kept; `limits` are those of admission. Lives on one event loop."""

    def __init__(self, inventory: Inventory, store: PlacementStore, rest_seconds: float, limits: Limits) -> None:
        self._inventory = inventory
        self._store = store
        self._rest_seconds = rest_seconds
        self._limits = limits
        inventory.marks = self._marks

    async def decide(self, policy: Callable[[Snapshot], T], *, refresh: bool = True) -> T:
        """What `policy` makes of the present, in a thread."""
        if refresh:
            await self._inventory.refresh()
        return await asyncio.to_thread(policy, self._snapshot())

    async def best_host(self, text: str) -> Choice:
        """The best host for the VM that `text` names, its disks moved along if need be.

        :raise NotFound: no such VM, or its host does not tell its load.
        :raise CheckFailed: no host can take it; why is told of each.
        """
        await self._inventory.refresh()
        vm = self._inventory.vm(text)

        def rank(now: Snapshot) -> Choice:
            cluster = now.cluster()
            guest = cluster.by_name.get(vm.definition.name)
            if guest is None:
                raise NotFound(
                    f"nobody can say how busy {vm.host} is, where {vm.definition.name} is", hint="name a host"
                )
            unit = now.rules.unit(guest, cluster)
            found, against = choices(unit if len(unit) == 1 else [guest], cluster, now.rules, move_disks=True)
            return _first(found, against, vm.definition.name)

        return await self.decide(rank, refresh=False)

    async def first_host(self, definition: VmDefinition) -> str:
        """The best host for a VM that is to be defined.

        :raise CheckFailed: no host has its datastores and bridges, and the memory.
        """

        def rank(now: Snapshot) -> str:
            cluster = now.cluster()
            guest = Guest(VmStatus(definition=definition, host="", state=VmState.OFF), 0.0, definition.memory, 0)
            fits = []
            for host in cluster.hosts.values():
                free = {name: store.free for name, store in host.stores.items()}
                has_all = all(free.get(disk.datastore, -1) >= disk.size for disk in definition.disks)
                bridged = all(nic.bridge in host.info.bridges for nic in definition.nics)
                objected = now.rules.objection([guest], host, cluster)
                if host.open and has_all and bridged and not objected and host.memory_free >= definition.memory:
                    fits.append((host.peak, host.name))
            if not fits:
                raise CheckFailed(
                    f"no host has the datastores, bridges and memory that {definition.name} needs",
                    hint="see kvmove host list and kvmove datastore list, or name a host",
                )
            return min(fits)[1]

        return await self.decide(rank)

    def uuid_of(self, vm: str) -> UUID | None:
        """The UUID of the VM of that name; None when it is gone."""
        with suppress(NotFound, InvalidInput):
            return self._inventory.vm(vm, exact=True).definition.uuid
        return None

    def _snapshot(self) -> Snapshot:
        kept = self._store.kept
        since = time.time() - self._rest_seconds
        return Snapshot(
            tuple(self._inventory.hosts()),
            tuple(self._inventory.reports()),
            Rules(kept.rules),
            frozenset(UUID(vm) for vm, at in kept.moved.items() if at > since),
            frozenset({*kept.maintenance, *kept.powered_off}),
            self._limits,
        )

    def _marks(self, host: str) -> Marks:
        return Marks(self._store.kept.maintenance.get(host), host in self._store.kept.powered_off)


def _first(found: list[Choice], against: dict[str, str], vm: str) -> Choice:
    if not found:
        raise CheckFailed(f"no host can take {vm}: {nothing_fits(against)}", hint="make room, or name a host yourself")
    return found[0]
