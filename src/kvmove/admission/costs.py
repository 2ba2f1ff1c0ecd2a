"""What each kind of move takes of hosts, NICs and datastores, and how much of each there is: vSphere's model. Pure.

    limit              units   host move   storage move   unified move
    each host              8           1              4              4    both hosts; a storage move has one
    each migration NIC 2/4/8           1              -              1    below 1 Gbit/s / from 1 / from 10; both hosts'
    each datastore       128           -             16             16    each that a moving disk leaves or comes to

So two moves of disks run on a host at once. A NIC of unknown speed counts as one of 1 Gbit/s. A datastore that hosts
share is one. The figures are the operator's to change; whatever they are, each kind of move fits where nothing else
runs, so no move waits for ever.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated

from pydantic import Field, model_validator

from kvmove.model.host import HostInfo, MigrationNic
from kvmove.model.move import Claim, MoveKind, MovePlan
from kvmove.model.strict import Strict

_GBIT = 125_000_000
"""Bytes a second."""

Units = Annotated[int, Field(ge=1)]
Cost = Annotated[int, Field(ge=0)]


class Limits(Strict):
    """The table above, `[admission]` in `manager.toml`. `patience_minutes`: see `queue`."""

    host: Units = 8
    host_move: Cost = 1
    storage_move: Cost = 4
    unified_move: Cost = 4
    nic_slow: Units = 2
    nic: Units = 4
    nic_fast: Units = 8
    nic_move: Cost = 1
    datastore: Units = 128
    datastore_move: Cost = 16
    patience_minutes: Annotated[float, Field(gt=0)] = 15.0

    @model_validator(mode="after")
    def _each_fits_alone(self) -> "Limits":
        for name, capacity in (
            ("host_move", "host"), ("storage_move", "host"), ("unified_move", "host"), ("nic_move", "nic_slow"),
            ("nic_move", "nic"), ("nic_move", "nic_fast"), ("datastore_move", "datastore"),
        ):  # fmt: skip
            if getattr(self, name) > getattr(self, capacity):
                raise ValueError(f"{name} is more than {capacity}: such a move would wait for ever")
        return self


MOST_AT_ONCE = 64


def at_once(kind: MoveKind, host: HostInfo, limits: Limits) -> int:
    """How many moves of that kind this host, its migration NICs and a datastore of it take at a time."""
    takes = [(limits.host, _host_units(kind, limits))]
    if kind is not MoveKind.STORAGE:
        takes += [(_nic_units(nic, limits), limits.nic_move) for nic in host.nics]
    if kind is not MoveKind.HOST:
        takes.append((limits.datastore, limits.datastore_move))
    return min([MOST_AT_ONCE, *(capacity // units for capacity, units in takes if units)])


def claims(plan: MovePlan, hosts: Mapping[str, HostInfo], limits: Limits) -> tuple[Claim, ...]:
    """What the move takes of everything that it takes something of.

    :param hosts: what its two hosts say of themselves. A NIC or datastore that they do not name takes nothing.
    """
    found = [*_of_hosts(plan, limits), *_of_nics(plan, hosts, limits), *_of_datastores(plan, hosts, limits)]
    return tuple({claim.key: claim for claim in found if claim.units}.values())


def _of_hosts(plan: MovePlan, limits: Limits) -> Iterator[Claim]:
    units = _host_units(plan.kind, limits)
    for name in (plan.source.name, plan.destination.name):
        yield Claim(key=f"host/{name}", what=name, units=units, capacity=limits.host)


def _host_units(kind: MoveKind, limits: Limits) -> int:
    return {
        MoveKind.HOST: limits.host_move, MoveKind.STORAGE: limits.storage_move, MoveKind.UNIFIED: limits.unified_move,
    }[kind]  # fmt: skip


def _of_nics(plan: MovePlan, hosts: Mapping[str, HostInfo], limits: Limits) -> Iterator[Claim]:
    addresses = {
        plan.source.name: {route.source_address for route in plan.routes},
        plan.destination.name: {route.destination_address for route in plan.routes},
    }
    for host, used in addresses.items():
        for nic in hosts[host].nics if host in hosts else ():
            if nic.address.partition("/")[0] in used:
                yield Claim(
                    key=f"nic/{host}/{nic.name}", what=f"{nic.name} of {host}", units=limits.nic_move,
                    capacity=_nic_units(nic, limits),
                )  # fmt: skip


def _nic_units(nic: MigrationNic, limits: Limits) -> int:
    if nic.speed >= 10 * _GBIT:
        return limits.nic_fast
    return limits.nic if nic.speed >= _GBIT or not nic.speed else limits.nic_slow


def _of_datastores(plan: MovePlan, hosts: Mapping[str, HostInfo], limits: Limits) -> Iterator[Claim]:
    leaves = sorted({disk.source_datastore for disk in plan.disks})
    comes = sorted({disk.destination_datastore for disk in plan.disks})
    for host, names in ((plan.source.name, leaves), (plan.destination.name, comes)):
        yield from _of_named(host, names, hosts, limits)


def _of_named(host: str, names: Sequence[str], hosts: Mapping[str, HostInfo], limits: Limits) -> Iterator[Claim]:
    for store in hosts[host].datastores if host in hosts else ():
        if store.name in names:
            yield Claim(
                key=f"datastore/{store.id}", what=f"datastore {store.name} of {host}", units=limits.datastore_move,
                capacity=limits.datastore,
            )  # fmt: skip
