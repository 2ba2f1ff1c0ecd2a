"""Whether recommendations that were shown can still be done as they were shown. Pure.

What is asked is whether each is possible, one after the other: the VM is where it was, the destination can take it,
rules hold, the move is of the same kind. Deliberately not asked is whether it would be recommended again: loads change
from second to second, and who decided for what was shown gets that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kvmove.model.move import MoveKind
from kvmove.model.placement import Action, Recommendation
from kvmove.placement.cluster import Cluster, Guest
from kvmove.placement.cost import move_cost
from kvmove.placement.fit import obstacle
from kvmove.placement.rules import Rules
from kvmove.units import format_size


def objections(shown: Sequence[Recommendation], cluster: Cluster, rules: Rules) -> list[str]:
    """What speaks against doing these in this order, in words; nothing: they can be done. Power is not judged here. The
    picture is afterwards as they would make it, as far as nothing speaks against it."""
    found = []
    moving = {it.vm: it for it in shown if it.action is Action.MOVE and it.kind is not MoveKind.STORAGE}
    placed: set[str] = set()
    for it in shown:
        if it.action is not Action.MOVE or it.vm in placed:
            continue
        guest = cluster.by_name.get(it.vm)
        if guest is None:
            said = "is not there any more, or its host does not answer"
        elif it.kind is MoveKind.STORAGE:
            said = _against_disk(it, guest, cluster)
        else:
            unit = [one for one in rules.unit(guest, cluster) if _goes_along(one, it, moving)] or [guest]
            placed.update(one.name for one in unit)
            said = _against_move(it, unit, cluster, rules)
        if said:
            found.append(f"{it.vm} {said}")
    return found


def _goes_along(guest: Guest, it: Recommendation, moving: Mapping[str, Recommendation]) -> bool:
    return guest.name in moving and moving[guest.name].destination == it.destination


def _against_move(it: Recommendation, unit: Sequence[Guest], cluster: Cluster, rules: Rules) -> str:
    said = _elsewhere(it.source, unit[0], cluster)
    if said:
        return said
    to = cluster.hosts.get(it.destination)
    if to is None:
        return f"cannot go to {it.destination}: it does not answer"
    source = cluster.host_of(unit[0])
    data = it.kind is MoveKind.UNIFIED
    if said := obstacle(unit, to, cluster, rules, move_disks=data):
        return f"cannot go to {to.name}: {to.name} {said}"
    if data and all(move_cost(one, source, to)[0] is not MoveKind.UNIFIED for one in unit):
        return f"would go to {to.name} by a host move now, not by a unified move"
    cluster.move(unit, to)
    return ""


def _against_disk(it: Recommendation, guest: Guest, cluster: Cluster) -> str:
    if said := _elsewhere(it.host, guest, cluster):
        return said
    disk = next((one for one in guest.status.definition.disks if one.name == it.disk), None)
    if disk is None or disk.datastore != it.source:
        return f"has no disk {it.disk} on {it.source} any more"
    store = cluster.host_of(guest).stores.get(it.destination)
    if store is None:
        return f"is on {it.host}, which has no datastore {it.destination} any more"
    if disk.size > store.free:
        return f"needs {format_size(disk.size)} for {it.disk}, and {it.destination} has {format_size(store.free)} free"
    return ""


def _elsewhere(host: str, guest: Guest, cluster: Cluster) -> str:
    at = cluster.place[guest.uuid]
    if at != host:
        return f"is on {at} now, not on {host}"
    if not guest.movable:
        return "moves already" if guest.status.move_id is not None else f"is {guest.status.state} now"
    return ""
