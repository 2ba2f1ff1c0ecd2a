"""A task: one request of an operator to the manager, from acceptance to its end."""

from enum import StrEnum

from kvmove.model.forecast import Forecast
from kvmove.model.move import Claim, MovePlan, MoveProgress, MoveReport, MoveRequest
from kvmove.model.priority import Priority as Priority
from kvmove.model.strict import Strict
from kvmove.model.terms import TermsChange


class TaskState(StrEnum):
    QUEUED = "queued"  # accepted, and waits for its turn or its time
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    ATTENTION = "attention"  # what is true could not be found out


_OPEN = frozenset({TaskState.QUEUED, TaskState.RUNNING})


class Task(Strict):
    """`created`, `started` (None: it has not begun to run) and `ended` are RFC 3339 times in UTC; `revision` grows with
    every change and orders its events. `started_by` is who asked for it, `parent` the task that it is a part of.

    While it is queued, `position` is its place among those that wait for room (1 is next; None: it waits for something
    else) and `queue_reason` says in plain words what it waits for. `claims` is what it takes of the limits.

    `forecast` is what was expected before it began, if anybody asked.
    `problem` is a problem+json object (see `errors`), set when the task did not succeed. `vm_state` says where the VM
    is now, `notes` what went otherwise than was planned. A task that others have as their `parent` moves no VM itself:
    its `vm` is empty, its `source` the host that it is about, if it is about one.
    """

    id: str
    kind: str
    vm: str
    source: str
    destination: str
    state: TaskState
    created: str
    started: str | None = None
    ended: str | None = None
    started_by: str = ""
    parent: str | None = None
    priority: Priority = Priority.NORMAL
    queue_reason: str = ""
    position: int | None = None
    revision: int = 0
    request: MoveRequest | None = None
    plan: MovePlan | None = None
    claims: tuple[Claim, ...] = ()
    forecast: Forecast | None = None
    progress: MoveProgress | None = None
    report: MoveReport | None = None
    problem: dict[str, object] | None = None
    vm_state: str = ""
    notes: tuple[str, ...] = ()

    @property
    def ended_state(self) -> bool:
        """Whether nothing will change any more."""
        return self.state not in _OPEN


class TaskChange(TermsChange):
    """What an operator may change about a task that has not ended: of a queued one its priority, of a running one the
    terms of its move. None leaves it as it is."""

    priority: Priority | None = None
