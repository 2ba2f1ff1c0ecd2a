"""Which hosts to power off when there is little to do, and on again when there is more (what vSphere calls DPM). Pure.

Two limits with a gap between them are the hysteresis: a host is powered off only if the others, with its VMs, stay
below `low`; one is powered on when the hosts that are on are above `high` together.

Invariant: never fewer than `keep` hosts stay on, and a host is powered off only if every VM of it, off ones too, can be
moved by host moves that no rule objects to.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from kvmove.admission.costs import Limits
from kvmove.model.placement import Action, Cause, Cost, Recommendation
from kvmove.placement.cluster import Cluster, Host
from kvmove.placement.evacuation import Terms, evacuate
from kvmove.placement.identity import identity
from kvmove.placement.rules import Rules


class PowerTuning(NamedTuple):
    """Shares of one. `keep`: so many hosts stay on whatever comes; those in `never` always do."""

    low: float = 0.45
    high: float = 0.81
    keep: int = 2
    never: Collection[str] = ()


_USUAL = Limits()


def power(
    cluster: Cluster,
    rules: Rules,
    tuning: PowerTuning,
    powered_off: Collection[str],
    limits: Limits = _USUAL,
) -> list[Recommendation]:
    """At most one thing to do. The picture may be changed by this."""
    hosts = [host for host in cluster.hosts.values() if host.open and host.name not in powered_off]
    busy = _together(hosts)
    if busy > tuning.high and powered_off:
        name = min(powered_off)
        reason = f"the hosts that are on are {100 * busy:.0f} % busy together (limit {100 * tuning.high:.0f} %)"
        risk = "it takes some minutes until the host answers"
        return [_recommend(name, Action.POWER_ON, 100 * (busy - tuning.high), reason, Cost(), risk)]
    if len(hosts) <= tuning.keep or busy > tuning.low:
        return []
    candidates = [host for host in hosts if host.name not in tuning.never]
    for host in sorted(
        candidates, key=lambda it: (it.memory_used + sum(guest.sent for guest in it.guests.values()), it.name)
    ):
        after = _together([it for it in hosts if it is not host], host)
        if after <= tuning.low and (found := _power_off(host, cluster, rules, (busy, after), limits)) is not None:
            return [found]
    return []


def _power_off(
    host: Host, cluster: Cluster, rules: Rules, together: tuple[float, float], limits: Limits
) -> Recommendation | None:
    busy, after = together
    plan = evacuate(cluster, host.name, rules, Terms(limits=limits))
    if plan.remains:
        for step in plan.steps:
            cluster.move([cluster.by_name[step.vm]], host)
        return None
    cost = Cost(
        bytes=sum(step.cost.bytes for step in plan.steps),
        seconds=plan.seconds,
        points=round(sum(step.cost.points for step in plan.steps), 2),
    )
    reason = (
        f"the hosts are {100 * busy:.0f} % busy together; without {host.name} the others are {100 * after:.0f} %, and "
        f"its {len(plan.steps)} VMs fit on them"
    )
    risk = "memory alone moves; when load comes back, it takes minutes until the host is there again"
    return _recommend(host.name, Action.POWER_OFF, 100 * (after - busy), reason, cost, risk)


def _together(hosts: Collection[Host], gone: Host | None = None) -> float:
    """How busy the hosts are as one, with what `gone` carries in VMs."""
    if not hosts:
        return 1.0
    guests = gone.guests.values() if gone is not None else ()
    cores = sum(host.cores_used for host in hosts) + sum(guest.cpu for guest in guests)
    memory = sum(host.memory_used for host in hosts) + sum(guest.memory for guest in guests)
    return max(cores / sum(host.load.cpus for host in hosts), memory / sum(host.load.memory_total for host in hosts))


def _recommend(host: str, action: Action, benefit: float, reason: str, cost: Cost, risk: str) -> Recommendation:
    return Recommendation(
        id=identity(Cause.POWER, action, host),
        cause=Cause.POWER,
        action=action,
        host=host,
        source=host,
        destination=host,
        benefit=round(benefit, 1),
        cost=cost,
        reason=reason,
        risk=risk,
    )
