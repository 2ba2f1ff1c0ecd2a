"""Whether a host can take a VM, and why not, in words. Pure.

A subset of the checks before a move, those that can be told from a picture of all hosts in no time. The checks proper
(`migration.preflight`) come when a move is started, and may still refuse it.
"""

from __future__ import annotations

from collections.abc import Sequence

from kvmove.model.vm import VmState
from kvmove.placement.cluster import Cluster, Guest, Host
from kvmove.placement.cost import local_disks
from kvmove.placement.rules import Rules
from kvmove.units import format_size

FULL = 0.95
"""No host is given more than this share of its memory."""


def obstacle(unit: Sequence[Guest], to: Host, cluster: Cluster, rules: Rules, *, move_disks: bool = False) -> str:
    """What keeps these VMs, which are on one host, from `to`; empty: nothing."""
    if not to.open:
        return "takes no VMs now"
    if said := rules.objection(unit, to, cluster):
        return said
    needed = sum(guest.memory for guest in unit)
    spare = min(to.memory_free, int(FULL * to.load.memory_total) - to.memory_used)
    if needed > spare:
        return f"has {format_size(max(spare, 0))} of memory to give, {format_size(needed)} are needed"
    source = cluster.host_of(unit[0])
    for guest in unit:
        if said := _machine(guest, source, to) or _disks(guest, source, to, move_disks):
            return said
    return ""


def _machine(guest: Guest, source: Host, to: Host) -> str:
    status = guest.status
    if status.state is not VmState.OFF:
        if status.accelerator and status.accelerator != to.info.accelerator:
            return f"has {to.info.accelerator}, and {guest.name} runs with {status.accelerator}"
        if not source.networks & to.networks:
            return f"has no migration NIC in a network of {source.name}"
    missing = [nic.bridge for nic in status.definition.nics if nic.bridge not in to.info.bridges]
    return f"has no bridge {missing[0]}" if missing else ""


def _disks(guest: Guest, source: Host, to: Host, move_disks: bool) -> str:
    """Disks on a datastore that `to` does not reach go to its datastore of the same name, if they may."""
    wanted: dict[str, int] = {}
    for disk in local_disks(guest, source, to):
        if not move_disks:
            return f"does not reach datastore {disk.datastore} of {source.name}, where disk {disk.name} is"
        wanted[disk.datastore] = wanted.get(disk.datastore, 0) + disk.size
    for name, size in wanted.items():
        store = to.stores.get(name)
        if store is None:
            return f"has no datastore {name}"
        if size > store.free:
            return f"has {format_size(store.free)} free in {name}, {format_size(size)} are needed"
    return ""
