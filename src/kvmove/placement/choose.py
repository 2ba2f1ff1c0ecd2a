"""Which host is best for a VM: the ranking behind `auto`, evacuation and the mending of rules. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from kvmove.model.move import MoveKind
from kvmove.placement.cluster import Cluster, Guest, Host, demand_of
from kvmove.placement.cost import move_cost
from kvmove.placement.fit import obstacle
from kvmove.placement.rules import Rules


class Choice(NamedTuple):
    """A host that can take the VMs: how busy it would be, and whether every disk may stay where it is."""

    host: Host
    peak: float
    kind: MoveKind
    preferred: bool

    @property
    def why(self) -> str:
        words = [f"{100 * self.peak:.0f} % busy with it"]
        words.append("its disks stay" if self.kind is MoveKind.HOST else "its disks move too")
        if not self.preferred:
            words.append("against a rule `should`, as nothing else is possible")
        return ", ".join(words)


def choices(
    unit: Sequence[Guest], cluster: Cluster, rules: Rules, *, move_disks: bool = False
) -> tuple[list[Choice], dict[str, str]]:
    """The hosts that can take these VMs of one host, best first, and what speaks against each of the others.

    Best is: where rules `should` have it, then where disks stay, then the least busy.
    """
    source = cluster.host_of(unit[0])
    found, against = [], {}
    for host in cluster.hosts.values():
        if host is source:
            continue
        if said := obstacle(unit, host, cluster, rules, move_disks=move_disks):
            against[host.name] = said
        else:
            found.append(_choice(unit, source, host, rules))
    found.sort(key=_rank)
    return found, against


def _rank(it: Choice) -> tuple[bool, bool, float, int, str]:
    """To the hundredth, so that the noise of a measurement does not make another plan of the one just shown."""
    return not it.preferred, it.kind is MoveKind.UNIFIED, round(it.peak, 2), len(it.host.guests), it.host.name


def peak_with(host: Host, demand: tuple[float, int], sign: int = 1) -> float:
    """How busy the host would be with VMs of this demand, or (`sign` -1) without them."""
    cores, memory = demand
    return max(host.shares(host.cores_used + sign * cores, host.memory_used + sign * memory))


def _choice(unit: Sequence[Guest], source: Host, host: Host, rules: Rules) -> Choice:
    kinds = {move_cost(guest, source, host)[0] for guest in unit}
    kind = MoveKind.UNIFIED if MoveKind.UNIFIED in kinds else MoveKind.HOST
    return Choice(host, peak_with(host, demand_of(unit)), kind, rules.prefers(unit, host))


def nothing_fits(against: dict[str, str], limit: int = 4) -> str:
    """Why no host is left, in words."""
    if not against:
        return "there is no other host"
    told = [f"{name} {why}" for name, why in sorted(against.items())]
    more = f"; and {len(told) - limit} more" if len(told) > limit else ""
    return "; ".join(told[:limit]) + more
