"""Balancing of CPU and memory over hosts (what vSphere calls DRS). Pure.

One step at a time: of the busiest hosts, the VM whose move to one of the least busy makes the picture's imbalance
smallest. A step is taken only if all of this is so:

    the imbalance falls, exactly computed over all hosts
    the busier of the two hosts gets less busy, by more than margin + cost (hundredths of load)
    rules hold, the destination's memory suffices (`fit`)
    disks stay where they are, unless data may move; then they cost and have to be worth it

Invariants: applying a plan's moves never makes the imbalance larger, and mends every rule that can be mended; a VM is
moved once in a plan. The plan of a picture after that plan, its VMs resting, is empty: nothing goes to and fro.

Search is bounded: a step looks at one busy host and a few that are least busy (`COLD`), so a plan's time grows with its
moves and not with the square of the hosts. A host that had nothing to give is passed over until nothing else is left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import nsmallest
from operator import attrgetter
from typing import NamedTuple
from uuid import UUID

from kvmove.model.placement import BalancePlan, Cause, Recommendation, Rule, RuleKind
from kvmove.placement.choose import choices, nothing_fits, peak_with
from kvmove.placement.cluster import Cluster, Guest, Host, demand_of
from kvmove.placement.cost import move_cost, move_points, risk_words
from kvmove.placement.fit import obstacle
from kvmove.placement.identity import identity
from kvmove.placement.rules import Rules

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
    found: list[Recommendation] = []
    while True:  # a move that balances may make room for one that a rule asks for, and the other way round
        mends, notes = _mend(cluster, rules, tuning, moved)
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
    stuck: set[str] = set()
    while cluster.imbalance > tuning.threshold or any(host.peak > tuning.hot for host in _open(cluster)):
        step = _best_step(cluster, rules, tuning, moved, stuck)
        if step is None and stuck:
            stuck.clear()  # what has moved since may have made one of them able to give
            step = _best_step(cluster, rules, tuning, moved, stuck)
        if step is None:
            notes.append(_stuck(cluster, tuning))
            return
        yield from _recommend(step)
        cluster.move(step.unit, step.to)
        moved.update(guest.uuid for guest in step.unit)


def _open(cluster: Cluster) -> Iterator[Host]:
    return (host for host in cluster.hosts.values() if host.open)


def _best_step(cluster: Cluster, rules: Rules, tuning: Tuning, moved: set[UUID], stuck: set[str]) -> _Step | None:
    """The best step of the busiest host that has one; hosts that have none are put among the `stuck`."""
    hosts = sorted(_open(cluster), key=attrgetter("peak"), reverse=True)
    least = hosts[-1].peak if hosts else 0.0
    for source in hosts:
        if source.peak - least <= tuning.margin:
            break  # the busier of two hosts cannot get less busy by more than what lies between them
        if source.name in stuck:
            continue
        cold = _cold(source, cluster, tuning)
        steps = [
            step
            for unit in _units(source, cluster, rules, moved)
            for step in _steps(cluster, unit, source, cold, tuning)
        ]
        for step in sorted(steps, key=lambda it: (it.imbalance, it.points, it.unit[0].name, it.to.name)):
            if rules.prefers(step.unit, step.to) and not obstacle(
                step.unit, step.to, cluster, rules, move_disks=tuning.move_disks
            ):
                return step
        stuck.add(source.name)
    return None


def _cold(source: Host, cluster: Cluster, tuning: Tuning) -> list[Host]:
    """The least busy hosts that may take something from this one: of those that reach a datastore of it, and of all if
    disks may move or a VM has none."""
    near = nsmallest(COLD, cluster.neighbours(source), key=_busy)
    if tuning.move_disks or any(not guest.status.definition.disks for guest in source.guests.values()):
        near += nsmallest(COLD, (host for host in _open(cluster) if host is not source), key=_busy)
    return list(dict.fromkeys(near))


def _busy(host: Host) -> tuple[float, str]:
    return host.peak, host.name


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


def _steps(
    cluster: Cluster, unit: Sequence[Guest], source: Host, cold: Sequence[Host], tuning: Tuning
) -> Iterator[_Step]:
    """The steps with these VMs that are worth it. What is cheap to tell comes first: this is asked most."""
    demand = demand_of(unit)
    left = peak_with(source, demand, -1)
    for to in cold:
        after = max(left, peak_with(to, demand))
        gain = source.peak - after
        if gain <= tuning.margin:
            continue
        points = sum(move_points(guest, source, to) for guest in unit)
        if 100 * gain <= 100 * tuning.margin + points:
            continue
        imbalance = cluster.imbalance_after(demand, source, to)
        if imbalance < cluster.imbalance - 1e-9:
            yield _Step(imbalance, points, unit, source, to, source.peak, after)


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


def _mend(cluster: Cluster, rules: Rules, tuning: Tuning, moved: set[UUID]) -> tuple[list[Recommendation], list[str]]:
    """Moves that make broken rules hold, and which rules cannot be mended. A VM that was moved lately rests from this
    too: two rules that contradict each other would send it to and fro."""
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
            free = all(one.movable and one.uuid not in moved for one in unit)
            if not chosen or not free:
                why = nothing_fits(against) if not chosen else "it was moved lately, or cannot move as it is"
                notes.append(f"rule {rule.name} does not hold: {guest.name} is on {source.name}, and {why}")
                continue
            found += [_move(one, source, chosen[0].host, Cause.RULE, _rule_words(rule, guest, source)) for one in unit]
            cluster.move(unit, chosen[0].host)
            moved.update(one.uuid for one in unit)
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
