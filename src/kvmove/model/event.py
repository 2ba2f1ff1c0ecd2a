"""What changed, as the manager's one stream of events tells it."""

from enum import StrEnum

from kvmove.model.host import HostStatus
from kvmove.model.strict import Strict
from kvmove.model.task import Task
from kvmove.model.vm import VmStatus


class Topic(StrEnum):
    """What an event is about."""

    TASK = "task"
    VM = "vm"
    HOST = "host"


class Change(StrEnum):
    ADDED = "added"
    CHANGED = "changed"
    REMOVED = "removed"


class Event(Strict):
    """One thing as it is since `time` (RFC 3339, UTC), whole; `what` says in words what changed.

    `revision` orders all events of a manager, over its restarts too. Of `task`, `vm` and `host` the one of the topic is
    set; with `removed` it is what was last known. `key` names it: a task's id, a VM's UUID, a host's name. `lasting`
    tells a change of state from figures that run on.
    """

    revision: int
    time: str
    topic: Topic
    key: str
    change: Change
    lasting: bool
    what: str
    task: Task | None = None
    vm: VmStatus | None = None
    host: HostStatus | None = None


class Reset(Strict):
    """Forget what you have: the whole present state follows, as events. `why` says what made it necessary."""

    revision: int
    why: str


class PastEvents(Strict):
    """Changes of state, oldest first. Before `complete_since` (RFC 3339) some may be missing."""

    events: tuple[Event, ...]
    complete_since: str
