"""Rules on where VMs run, and whether a VM may be on a host. Pure.

Invariant: `allows` is the only word on rules; who moves a VM has asked it. What a rule of the kind `should` says is
asked for apart (`prefers`), as it is given up where nothing else is possible.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kvmove.model.placement import Rule, RuleKind
from kvmove.placement.cluster import Cluster, Guest, Host


class Rules:
    """The rules by VM."""

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self.all = tuple(rules)
        self._of: dict[str, list[Rule]] = {}
        for rule in self.all:
            for vm in dict.fromkeys(rule.vms):
                self._of.setdefault(vm, []).append(rule)

    def of(self, vm: str, *kinds: RuleKind) -> list[Rule]:
        return [rule for rule in self._of.get(vm, ()) if rule.kind in kinds]

    def unit(self, guest: Guest, cluster: Cluster) -> list[Guest]:
        """The VM, and those on its host that are to stay with it: they move as one."""
        found = {guest.uuid: guest}
        todo = [guest]
        here = cluster.place[guest.uuid]
        while todo:
            for rule in self.of(todo.pop().name, RuleKind.TOGETHER):
                for name in rule.vms:
                    other = cluster.by_name.get(name)
                    if other is not None and other.uuid not in found and cluster.place[other.uuid] == here:
                        found[other.uuid] = other
                        todo.append(other)
        return list(found.values())

    def objection(self, unit: Sequence[Guest], to: Host, cluster: Cluster) -> str:
        """Why these VMs may not be on `to`, in words; empty: they may."""
        names = {guest.name for guest in unit}
        for guest in unit:
            for rule in self._of.get(guest.name, ()):
                if said := _objection(rule, names, to, cluster):
                    return said
        return ""

    def prefers(self, unit: Sequence[Guest], to: Host) -> bool:
        """Whether no rule says that one of these VMs should rather be elsewhere."""
        return all(to.name in rule.hosts for guest in unit for rule in self.of(guest.name, RuleKind.SHOULD))

    def misplaced(self, rule: Rule, cluster: Cluster) -> list[Guest]:
        """The VMs that should move so that the rule holds; none: it does."""
        guests = [guest for name in dict.fromkeys(rule.vms) if (guest := cluster.by_name.get(name)) is not None]
        places = [cluster.place[guest.uuid] for guest in guests]
        match rule.kind:
            case RuleKind.MUST | RuleKind.SHOULD:
                return [guest for guest, place in zip(guests, places, strict=True) if place not in rule.hosts]
            case RuleKind.APART:
                return [guest for index, guest in enumerate(guests) if places[index] in places[:index]]
            case RuleKind.TOGETHER:
                home = max(dict.fromkeys(places), key=places.count, default="")
                return [guest for guest, place in zip(guests, places, strict=True) if place != home]


def _objection(rule: Rule, moving: set[str], to: Host, cluster: Cluster) -> str:
    match rule.kind:
        case RuleKind.MUST if to.name not in rule.hosts:
            return f"rule {rule.name} keeps it on {', '.join(rule.hosts)}"
        case RuleKind.APART:
            met = [name for name in dict.fromkeys(rule.vms) if name in moving or _place(name, cluster) == to.name]
            return f"rule {rule.name} keeps {' and '.join(met)} apart" if len(met) > 1 else ""
        case RuleKind.TOGETHER:
            others = {name: _place(name, cluster) for name in rule.vms if name not in moving}
            known = {name: place for name, place in others.items() if place}
            return (
                f"rule {rule.name} keeps it with {', '.join(known)}" if known and to.name not in known.values() else ""
            )
    return ""


def _place(name: str, cluster: Cluster) -> str:
    guest = cluster.by_name.get(name)
    return cluster.place[guest.uuid] if guest is not None else ""
