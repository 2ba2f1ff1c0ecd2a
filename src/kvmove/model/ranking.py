"""Where a VM could go: every host with what a check says of it, best first."""

from pydantic import Field

from kvmove.model.finding import Finding
from kvmove.model.move import MovePlan
from kvmove.model.names import Name
from kvmove.model.strict import Strict


class RankedHost(Strict):
    """One host. `plan` is there when nothing blocks. Memory in bytes, None where the host does not answer;
    `running_moves` are those that this manager has under way from or to it. `why` says what its place rests on."""

    host: Name
    plan: MovePlan | None = None
    findings: tuple[Finding, ...] = ()
    memory_free: int | None = None
    memory_total: int | None = None
    running_moves: int = 0
    why: str = ""


class MoveRanking(Strict):
    """All hosts but the VM's own, best first; `order` says in words what comes before what."""

    vm: Name
    source: Name
    hosts: tuple[RankedHost, ...] = Field(default=())
    order: str
