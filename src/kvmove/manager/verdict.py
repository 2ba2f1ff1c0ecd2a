"""What became of a move: the table that turns what is known into a task's end. Pure; seconds come in.

The source's agent is the first witness: its word on how the move ended is taken. When it is silent, or knows nothing
of the move, the registry and the destination's agent are heard. What proves what:

    registry's record                      what it proves
    owner destination, epoch e + 1         this move was committed
    owner source, owned, epoch e + 1       this move was undone
    owner source, owned, epoch e           it has not begun, or not yet
    moving                                 nothing yet
    anything else                          later events; no longer this move's outcome

(e is the plan's epoch.) Invariant: no verdict without such a proof. While a witness that could still decide it is
silent, the answer is None: ask again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kvmove.errors import KvmoveError, MoveFailed, NeedsAttention
from kvmove.model.move import MovePlan, MoveProgress, MoveStatus, Phase
from kvmove.model.ownership import Ownership, OwnershipState
from kvmove.model.task import TaskState
from kvmove.model.vm import VmState, VmStatus

SOURCE_GRACE_SECONDS = 30.0
"""How long a proven end waits for the source's agent to come back, as it alone has the report."""

LOST_GRACE_SECONDS = 60.0
"""How long a contradiction between the witnesses may last before a person is called."""

_ENDS = {
    Phase.COMPLETED: TaskState.SUCCEEDED,
    Phase.ABORTED: TaskState.FAILED,
    Phase.LOST: TaskState.FAILED,
    Phase.IN_DOUBT: TaskState.ATTENTION,
}


@dataclass(frozen=True)
class Evidence:
    """What was seen when the source had no word on the move, `seconds` after its last one.

    `source_answers`: it answers, but has no record of the move. `record` None: the registry has none, or is silent
    (`registry_answers` tells). `arrived` is the VM as the destination's agent sees it, None when it does not list it.
    """

    seconds: float
    source_answers: bool
    registry_answers: bool
    record: Ownership | None
    destination_answers: bool
    arrived: VmStatus | None


@dataclass(frozen=True)
class Verdict:
    """A task's end: `error` is None when the move succeeded."""

    state: TaskState
    vm_state: str
    error: KvmoveError | None = None


def told_by_source(status: MoveStatus, before: MoveProgress | None) -> dict[str, Any]:
    """The task's fields after a word of the source's agent. Percentage and bytes never run backwards."""
    fields: dict[str, Any] = {"progress": forward_only(before, status.progress), "vm_state": status.vm_state}
    if status.outcome is None:
        return fields
    state = _ENDS.get(status.outcome, TaskState.ATTENTION)
    problem = status.problem
    if state is not TaskState.SUCCEEDED and problem is None:
        problem = MoveFailed("the agent gave no reason", vm_state=status.vm_state).problem()
    if state is TaskState.FAILED and problem is not None and problem.get("code") == "CANCELLED":
        state = TaskState.CANCELLED
    return fields | {"state": state, "report": status.report, "problem": problem}


_HELD = ("percent", "bytes_done", "elapsed_seconds")


def forward_only(before: MoveProgress | None, now: MoveProgress) -> MoveProgress:
    """`now` with the figures that only grow held at what was shown already, say after a restart of the agent."""
    if before is None:
        return now
    return now.model_copy(update={name: max(getattr(before, name), getattr(now, name)) for name in _HELD})


def judge(plan: MovePlan, seen: Evidence) -> Verdict | None:
    """The move's end as proven by `seen`, or None while it is open."""
    if not seen.registry_answers:
        return None
    record, source, destination = seen.record, plan.source.name, plan.destination.name
    if record is None:
        return _contradiction(seen, "the registry has no record of this VM any more")
    if record.state is OwnershipState.MOVING:
        if not seen.source_answers:
            return None
        return _contradiction(seen, f"the registry says that the VM moves, and {source} knows of no move")
    if (record.owner, record.epoch) == (destination, plan.epoch + 1):
        return _committed(plan, seen)
    if (record.owner, record.epoch) == (source, plan.epoch + 1):
        return _undone(plan, seen)
    if (record.owner, record.epoch) == (source, plan.epoch):
        return _not_begun(plan, seen)
    return _contradiction(
        seen, f"the registry says {record.owner}, epoch {record.epoch}; the move started at epoch {plan.epoch}"
    )


def whereabouts(plan: MovePlan, seen: Evidence) -> str:
    """Where the VM is, as far as `seen` tells."""
    if seen.record is None:
        return "not known"
    if seen.record.owner == plan.destination.name and seen.arrived is not None:
        return f"{seen.arrived.state} on {plan.destination.name}"
    silent = seen.record.owner == plan.source.name and not seen.source_answers
    return f"belongs to {seen.record.owner}{', which does not answer' if silent else ''}"


def _committed(plan: MovePlan, seen: Evidence) -> Verdict | None:
    destination = plan.destination.name
    if not seen.destination_answers or (seen.seconds < SOURCE_GRACE_SECONDS and not seen.source_answers):
        return None
    if seen.arrived is not None and seen.arrived.state not in (VmState.INCOMING, VmState.CRASHED):
        return Verdict(TaskState.SUCCEEDED, whereabouts(plan, seen))
    return _contradiction(seen, f"the VM was handed over to {destination}, and {destination} does not run it")


def _undone(plan: MovePlan, seen: Evidence) -> Verdict | None:
    if not seen.source_answers and seen.seconds < SOURCE_GRACE_SECONDS:
        return None
    return _failed("the move was undone; no agent can say why", whereabouts(plan, seen))


def _not_begun(plan: MovePlan, seen: Evidence) -> Verdict | None:
    """A silent source may still begin; one that answers has had its time to."""
    if not seen.source_answers or seen.seconds < SOURCE_GRACE_SECONDS:
        return None
    return _failed(f"{plan.source.name} never began the move", whereabouts(plan, seen))


def _failed(said: str, vm_state: str) -> Verdict:
    return Verdict(TaskState.FAILED, vm_state, MoveFailed(said, hint="start the move again", vm_state=vm_state))


def _contradiction(seen: Evidence, said: str) -> Verdict | None:
    if not seen.source_answers or seen.seconds < LOST_GRACE_SECONDS:
        return None
    error = NeedsAttention(
        said, hint="compare `kvmove vm list` with both agents' logs before you start the VM anywhere"
    )
    return Verdict(TaskState.ATTENTION, "not known", error)
