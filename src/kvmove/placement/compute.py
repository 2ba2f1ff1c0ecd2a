"""Balancing of CPU and memory over hosts (what vSphere calls DRS). Pure.

One step at a time: of the busiest hosts, the VM whose move to one of the least busy makes the picture's imbalance
smallest. A step is taken only if all of this is so:

    the imbalance falls, exactly computed over all hosts
    the busier of the two hosts gets less busy, by more than margin + cost (hundredths of load)
    rules hold, the destination's memory suffices (`fit`)
    disks stay where they are, unless data may move; then they cost and have to be worth it

Invariants: applying a plan's moves never makes the imbalance larger, and mends every rule that can be mended; a VM is
moved once in a plan. The plan of a picture after that plan, its VMs resting, is empty: nothing goes to and fro.

Search is bounded (`HOT`, `COLD`): a step looks at a few hosts on either end, so a plan's time grows with its moves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import nlargest, nsmallest
from typing import NamedTuple
from uuid import UUID

from kvmove.model.placement import BalancePlan, Cause, Recommendation, Rule, RuleKind
from kvmove.placement.choose import choices, nothing_fits, peak_with
from kvmove.placement.cluster import Cluster, Guest, Host
from kvmove.placement.cost import move_cost, risk_words
from kvmove.placement.fit import obstacle
from kvmove.placement.identity import identity
from kvmove.placement.rules import Rules

HOT = 6
COLD = 12


class Tuning(NamedTuple):
    """Shares of one; `margin` too: by so much more than its cost a move has to help. `hot`: a host that is busier is
    relieved even if the hosts' spread is below `threshold`."""

    threshold: float = 0.10
    hot: float = 0.90
    margin: float = 0.03
    move_disks: bool = False


class _Step(NamedTuple):
    imbalance: float
    points: float
    unit: Sequence[Guest]
    source: Host
    to: Host
    before: float
    after: float


def balance(cluster: Cluster, rules: Rules, tuning: Tuning) -> BalancePlan:
    """What to move, in order. The picture is afterwards as the plan would make it."""
    before = cluster.imbalance
    moved = set(cluster.resting)
    mended: set[UUID] = set()
    found: list[Recommendation] = []
    while True:  # a move that balances may make room for one that a rule asks for, and the other way round
        mends, notes = _mend(cluster, rules, tuning, mended)
        moved |= mended
        steps = list(_even_out(cluster, rules, tuning, moved, notes))
        found += [*mends, *steps]
        if not steps:
            break
    return BalancePlan(
        imbalance=round(before, 4),
        imbalance_after=round(cluster.imbalance, 4),
        recommendations=tuple(found),
        notes=tuple(notes),
    )


def _even_out(
    cluster: Cluster, rules: Rules, tuning: Tuning, moved: set[UUID], notes: list[str]
) -> Iterator[Recommendation]:
    while cluster.imbalance > tuning.threshold or any(host.peak > tuning.hot for host in _open(cluster)):
        step = _best_step(cluster, rules, tuning, moved)
        if step is None:
            notes.append(_stuck(cluster, tuning))
            return
        yield from _recommend(step)
        cluster.move(step.unit, step.to)
        moved.update(guest.uuid for guest in step.unit)


def _open(cluster: Cluster) -> Iterator[Host]:
    return (host for host in cluster.hosts.values() if host.open)


def _best_step(cluster: Cluster, rules: Rules, tuning: Tuning, moved: set[UUID]) -> _Step | None:
    hosts = list(_open(cluster))
    cold = nsmallest(COLD, hosts, key=lambda host: (host.peak, host.name))
    for source in nlargest(HOT, hosts, key=lambda host: (host.peak, host.name)):
        steps = [
            step
            for unit in _units(source, cluster, rules, moved)
            for to in cold
            if to is not source and (step := _step(cluster, unit, source, to, tuning)) is not None
        ]
        for step in sorted(steps, key=lambda it: (it.imbalance, it.points, it.unit[0].name, it.to.name)):
            if rules.prefers(step.unit, step.to) and not obstacle(
                step.unit, step.to, cluster, rules, move_disks=tuning.move_disks
            ):
                return step
    return None


def _units(source: Host, cluster: Cluster, rules: Rules, moved: set[UUID]) -> Iterator[Sequence[Guest]]:
    """The VMs of a host that may move and cost it something, those that stay together as one."""
    seen: set[UUID] = set()
    for guest in source.guests.values():
        if guest.uuid in seen:
            continue
        unit = rules.unit(guest, cluster)
        seen.update(one.uuid for one in unit)
        if all(one.movable and one.uuid not in moved for one in unit) and any(one.cpu or one.memory for one in unit):
            yield unit


def _step(cluster: Cluster, unit: Sequence[Guest], source: Host, to: Host, tuning: Tuning) -> _Step | None:
    """The step, if it is worth it. What is cheap to tell comes first: this is asked most."""
    before = max(source.peak, to.peak)
    after = max(peak_with(source, unit, -1), peak_with(to, unit))
    if before - after <= tuning.margin:
        return None
    points = sum(move_cost(guest, source, to)[1].points for guest in unit)
    if 100 * (before - after) <= 100 * tuning.margin + points:
        return None
    was = cluster.imbalance
    imbalance = cluster.imbalance_after(unit, source, to)
    return _Step(imbalance, points, unit, source, to, before, after) if imbalance < was - 1e-9 else None


def _recommend(step: _Step) -> Iterator[Recommendation]:
    what = "CPU" if step.source.cpu >= step.source.memory else "memory"
    reason = (
        f"{step.source.name} is {100 * step.source.peak:.0f} % busy ({what}), {step.to.name} "
        f"{100 * step.to.peak:.0f} %; with this the busier of both is {100 * step.after:.0f} %"
    )
    if len(step.unit) > 1:
        reason += f"; {', '.join(one.name for one in step.unit)} go together by a rule"
    for guest in step.unit:
        made = _move(guest, step.source, step.to, Cause.COMPUTE, reason)
        benefit = round(100 * (step.before - step.after), 1)
        weighed = f"{reason}; worth {benefit:.1f} points, costs {step.points:.1f}"
        yield made.model_copy(update={"benefit": benefit, "reason": weighed})


def _move(guest: Guest, source: Host, to: Host, cause: Cause, reason: str) -> Recommendation:
    kind, cost = move_cost(guest, source, to)
    return Recommendation(
        id=identity(cause, guest.name, source.name, to.name),
        cause=cause,
        kind=kind,
        vm=guest.name,
        host=source.name,
        source=source.name,
        destination=to.name,
        cost=cost,
        reason=reason,
        risk=risk_words(kind, cost),
    )


def _mend(cluster: Cluster, rules: Rules, tuning: Tuning, mended: set[UUID]) -> tuple[list[Recommendation], list[str]]:
    """Moves that make broken rules hold, and which rules cannot be mended. A VM that rests moves for a rule too, but
    one that was `mended` does not again."""
    found: list[Recommendation] = []
    notes: list[str] = []
    for rule in rules.all:
        tried: set[UUID] = set()
        while todo := [one for one in rules.misplaced(rule, cluster) if one.uuid not in tried]:
            guest, source = todo[0], cluster.host_of(todo[0])
            tried.add(guest.uuid)
            unit = rules.unit(guest, cluster)
            chosen, against = choices(unit, cluster, rules, move_disks=tuning.move_disks)
            if rule.kind is RuleKind.SHOULD:
                chosen = [choice for choice in chosen if choice.preferred]
            free = all(one.movable and one.uuid not in mended for one in unit)
            if not chosen or not free:
                why = nothing_fits(against) if not chosen else "it cannot move as it is"
                notes.append(f"rule {rule.name} does not hold: {guest.name} is on {source.name}, and {why}")
                continue
            found += [_move(one, source, chosen[0].host, Cause.RULE, _rule_words(rule, guest, source)) for one in unit]
            cluster.move(unit, chosen[0].host)
            mended.update(one.uuid for one in unit)
    return found, notes


def _rule_words(rule: Rule, guest: Guest, source: Host) -> str:
    about = f" ({', '.join(rule.hosts)})" if rule.hosts else f" ({', '.join(rule.vms)})"
    return f"rule {rule.name} says {rule.kind}{about}, and {guest.name} is on {source.name}"


def _stuck(cluster: Cluster, tuning: Tuning) -> str:
    return (
        f"the hosts' spread is {100 * cluster.imbalance:.0f} %, and no further move is both possible and worth more "
        f"than it costs (margin {100 * tuning.margin:.0f} points)"
        + ("" if tuning.move_disks else "; moves of disks are not allowed (move_disks)")
    )
