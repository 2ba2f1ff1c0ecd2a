"""How a host is emptied: which VM goes where, in which order, and when it would be done. Pure.

Small VMs first, so that the host is relieved soon and a failure shows early; VMs that are off last, as nobody waits
for them. A VM goes to the host that is best for it once those before it are placed.

Times come from a simulation with the limits of vSphere's cost model: a host has 8 units, a host move takes one, a move
of disks four; those that run at once share the slower of the two hosts' NICs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kvmove.model.move import MoveKind
from kvmove.model.placement import EvacuationPlan, EvacuationStep, Remaining
from kvmove.model.vm import VmState
from kvmove.placement.choose import Choice, choices, nothing_fits
from kvmove.placement.cluster import Cluster, Guest
from kvmove.placement.cost import FIXED_SECONDS, move_cost
from kvmove.placement.rules import Rules

HOST_UNITS = 8
UNITS = {MoveKind.HOST: 1, MoveKind.STORAGE: 4, MoveKind.UNIFIED: 4}


def evacuate(
    cluster: Cluster, name: str, rules: Rules, *, move_disks: bool, at_once: int | None = None
) -> EvacuationPlan:
    """The plan for the host `name`, which is in the picture. The picture is afterwards as the plan would make it."""
    source = cluster.hosts[name]
    steps: list[EvacuationStep] = []
    remains: list[Remaining] = []
    waiting = sorted(source.guests.values(), key=lambda it: (it.status.state is VmState.OFF, it.sent, it.name))
    placed: set[object] = set()
    for guest in waiting:
        if guest.uuid in placed:
            continue
        unit = rules.unit(guest, cluster)
        placed.update(one.uuid for one in unit)
        stuck = [one for one in unit if not one.movable]
        chosen, against = choices(unit, cluster, rules, move_disks=move_disks)
        if stuck or not chosen:
            remains += [Remaining(vm=one.name, why=_why_not(one, stuck, against, move_disks)) for one in unit]
            continue
        steps += [_step(one, chosen[0], cluster) for one in unit]
        cluster.move(unit, chosen[0].host)
    limit = min(at_once or HOST_UNITS, _at_once(steps))
    timed = _timed(steps, limit, cluster)
    seconds = max((step.ends for step in timed), default=0.0)
    return EvacuationPlan(host=name, steps=timed, remains=tuple(remains), at_once=limit, seconds=round(seconds, 1))


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


def _at_once(steps: Sequence[EvacuationStep]) -> int:
    dearest = max((UNITS[step.kind] for step in steps), default=1)
    return HOST_UNITS // dearest


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
