"""How a host is emptied: which VM goes where, in which order, and when it would be done. Pure.

Small VMs first, so that the host is relieved soon and a failure shows early; VMs that are off last, as nobody waits
for them. A VM goes to the host that is best for it once those before it are placed.

A plan that was shown is followed: its VMs first and in its order, each to where it said, as long as that is possible.
Where it is not, the VM's way is planned anew, and the plan's `changes` say so.

Times come from a simulation: as many moves at once as the limits of admission have it for the source, those that run at
once sharing the slower of the two hosts' NICs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kvmove.admission.costs import MOST_AT_ONCE, Limits, at_once
from kvmove.model.move import MoveKind
from kvmove.model.placement import EvacuationPlan, EvacuationStep, PlannedStep, Remaining
from kvmove.model.vm import VmState
from kvmove.placement.choose import Choice, choices, nothing_fits
from kvmove.placement.cluster import Cluster, Guest
from kvmove.placement.cost import FIXED_SECONDS, move_cost
from kvmove.placement.rules import Rules


class Terms(NamedTuple):
    """How a host may be emptied: `at_once` is an upper limit on moves at a time beside those of admission."""

    move_disks: bool = False
    at_once: int | None = None
    limits: Limits = Limits()


class Shown(NamedTuple):
    """The plan to follow, and for VMs whose move did not succeed as it was planned, why: they are planned anew."""

    steps: Sequence[PlannedStep] = ()
    failed: Mapping[str, str] = {}


_NO_TERMS = Terms()
_NOTHING_SHOWN = Shown()


def evacuate(
    cluster: Cluster, name: str, rules: Rules, terms: Terms = _NO_TERMS, shown: Shown = _NOTHING_SHOWN
) -> EvacuationPlan:
    """The plan for the host `name`, which is in the picture. The picture is afterwards as the plan would make it."""
    steps: list[EvacuationStep] = []
    remains: list[Remaining] = []
    changes: list[str] = []
    wanted = {step.vm: step for step in shown.steps}
    for unit in _units(cluster, name, rules, list(wanted)):
        stuck = [one for one in unit if not one.movable]
        chosen, against = choices(unit, cluster, rules, move_disks=terms.move_disks)
        if stuck or not chosen:
            remains += [Remaining(vm=one.name, why=_why_not(one, stuck, against, terms.move_disks)) for one in unit]
            continue
        choice = _as_shown(unit, chosen, wanted, shown.failed) or chosen[0]
        made = [_step(one, choice, cluster) for one in unit]
        objected = _why_not_there(against, wanted, cluster)
        changes += [said for step in made if (said := _change(step, wanted, shown.failed, objected))]
        steps += made
        cluster.move(unit, choice.host)
    limit = min(terms.at_once or MOST_AT_ONCE, _at_once(steps, cluster, name, terms.limits))
    timed = _timed(steps, limit, cluster)
    seconds = max((step.ends for step in timed), default=0.0)
    return EvacuationPlan(
        host=name,
        steps=timed,
        remains=tuple(remains),
        at_once=limit,
        seconds=round(seconds, 1),
        changes=tuple(changes),
    )


def _units(cluster: Cluster, name: str, rules: Rules, first: list[str]) -> Iterator[list[Guest]]:
    """The host's VMs in the order in which they are to be planned, those that a rule keeps together as one."""
    order = {vm: index for index, vm in enumerate(first)}
    waiting = sorted(
        cluster.hosts[name].guests.values(),
        key=lambda it: (order.get(it.name, len(order)), it.status.state is VmState.OFF, it.sent, it.name),
    )
    placed: set[object] = set()
    for guest in waiting:
        if guest.uuid not in placed:
            unit = rules.unit(guest, cluster)
            placed.update(one.uuid for one in unit)
            yield unit


def _as_shown(
    unit: Sequence[Guest], chosen: Sequence[Choice], wanted: Mapping[str, PlannedStep], failed: Mapping[str, str]
) -> Choice | None:
    """The choice that the plan shown had made for these VMs; None: it had none, or one that is not possible now."""
    steps = [wanted[one.name] for one in unit if one.name in wanted and one.name not in failed]
    for choice in chosen:
        if steps and all(step.destination == choice.host.name for step in steps):
            return choice
    return None


def _why_not_there(against: Mapping[str, str], wanted: Mapping[str, PlannedStep], cluster: Cluster) -> dict[str, str]:
    silent = {step.destination for step in wanted.values()} - set(cluster.hosts)
    return {name: f"{name} {why}" for name, why in against.items()} | {it: f"{it} does not answer" for it in silent}


def _change(
    step: EvacuationStep, wanted: Mapping[str, PlannedStep], failed: Mapping[str, str], against: Mapping[str, str]
) -> str:
    """What of a step is otherwise than in the plan shown, in words; empty: nothing. `against` has for each host that
    does not take the VM now why."""
    planned = wanted.get(step.vm)
    if planned is None:
        return f"{step.vm} was not in the plan: it goes to {step.destination}" if wanted else ""
    if planned.destination == step.destination:
        return "" if planned.kind is step.kind else f"{step.vm}: a {step.kind} move instead of a {planned.kind} move"
    apart = "VMs that a rule keeps together were to go to different hosts"
    why = failed.get(step.vm) or against.get(planned.destination, apart)
    return f"{step.vm} goes to {step.destination} instead of {planned.destination}: {why}"


def _step(guest: Guest, choice: Choice, cluster: Cluster) -> EvacuationStep:
    kind, cost = move_cost(guest, cluster.host_of(guest), choice.host)
    return EvacuationStep(
        vm=guest.name,
        power=guest.status.state,
        kind=kind,
        destination=choice.host.name,
        why=choice.why,
        cost=cost,
    )


def _why_not(guest: Guest, stuck: Sequence[Guest], against: dict[str, str], move_disks: bool) -> str:
    if guest in stuck:
        moving = guest.status.move_id is not None
        return "it moves already" if moving else f"it is {guest.status.state}: start it, or stop it for good"
    if stuck:
        return f"a rule keeps it with {', '.join(one.name for one in stuck)}, which cannot move"
    why = nothing_fits(against)
    return why if move_disks or "does not reach" not in why else f"{why}; --move-disks moves its disks too"


def _at_once(steps: Sequence[EvacuationStep], cluster: Cluster, name: str, limits: Limits) -> int:
    kinds = {step.kind for step in steps} or {MoveKind.HOST}
    return min(at_once(kind, cluster.hosts[name].info, limits) for kind in kinds)


@dataclass
class _Running:
    index: int
    left: float
    fixed: float


def _timed(steps: Sequence[EvacuationStep], limit: int, cluster: Cluster) -> tuple[EvacuationStep, ...]:
    """The steps with their times: as many at once as the limit has it, their bytes sharing the wire."""
    speeds = [cluster.hosts[step.destination].speed for step in steps]
    waiting = list(range(len(steps)))
    running: list[_Running] = []
    starts, ends = [0.0] * len(steps), [0.0] * len(steps)
    now = 0.0
    while waiting or running:
        while waiting and len(running) < limit:
            index = waiting.pop(0)
            starts[index] = now
            running.append(_Running(index, float(steps[index].cost.bytes), FIXED_SECONDS))
        sending = sum(1 for one in running if one.left > 0)
        lasts = [one.left * sending / speeds[one.index] if one.left > 0 else one.fixed for one in running]
        passed = min(lasts)
        now += passed
        for one, last in zip(list(running), lasts, strict=True):
            if one.left > 0:
                one.left = 0.0 if last <= passed else one.left - passed * speeds[one.index] / sending
            else:
                one.fixed -= passed
                if one.fixed <= 1e-9:
                    ends[one.index] = now
                    running.remove(one)
    return tuple(
        step.model_copy(update={"starts": round(starts[index], 1), "ends": round(ends[index], 1)})
        for index, step in enumerate(steps)
    )
