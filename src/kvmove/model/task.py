"""A task: one request of an operator to the manager, from acceptance to its end."""

from enum import StrEnum

from kvmove.model.move import MovePlan, MoveProgress, MoveReport
from kvmove.model.strict import Strict


class TaskState(StrEnum):
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    ATTENTION = "attention"  # what is true could not be found out


class Task(Strict):
    """`started` and `ended` are RFC 3339 times in UTC; `revision` grows with every change and orders its events.

    `problem` is a problem+json object (see `errors`), set when the task did not succeed. `vm_state` says where the VM
    is now.
    """

    id: str
    kind: str
    vm: str
    source: str
    destination: str
    state: TaskState
    started: str
    ended: str | None = None
    revision: int = 0
    plan: MovePlan | None = None
    progress: MoveProgress | None = None
    report: MoveReport | None = None
    problem: dict[str, object] | None = None
    vm_state: str = ""

    @property
    def ended_state(self) -> bool:
        """Whether nothing will change any more."""
        return self.state is not TaskState.RUNNING
