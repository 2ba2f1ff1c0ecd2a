"""What an event means: which changes are of state and which are figures that run on, and how to say them. Pure.

Invariant: a change of state is never taken for a figure. A field that this file does not know counts as state.
"""

from kvmove.model.host import HostStatus
from kvmove.model.task import Task
from kvmove.model.vm import VmStatus

Thing = Task | VmStatus | HostStatus

_HOST_FIGURES: dict[str, set[str] | bool] = {"info": {"memory_free", "datastores", "load"}, "load": True}
_TASK_FIGURES = {"revision", "progress", "position", "forecast", "report", "ended"}
_VM_FIGURES = {"pid", "load"}


def same_state(before: Thing, now: Thing) -> bool:
    """Whether they differ in figures alone."""
    return _state(before) == _state(now)


def words(before: Thing | None, now: Thing) -> str:
    """What changed, as a sentence without an end: `web1 is running on h2, was on h1`."""
    if isinstance(now, Task):
        return _task_words(before if isinstance(before, Task) else None, now)
    if isinstance(now, VmStatus):
        return _vm_words(before if isinstance(before, VmStatus) else None, now)
    return _host_words(before if isinstance(before, HostStatus) else None, now)


def gone_words(last: Thing) -> str:
    """That something is not there any more."""
    if isinstance(last, Task):
        return f"task {last.id} ({last.vm}) is forgotten"
    if isinstance(last, VmStatus):
        return f"{last.definition.name} is on no host any more, was on {last.host}"
    return f"host {last.name} is not listed any more"


def _state(thing: Thing) -> object:
    if isinstance(thing, Task):
        return thing.model_dump(exclude=_TASK_FIGURES), thing.progress and thing.progress.phase
    if isinstance(thing, VmStatus):
        return thing.model_dump(exclude=_VM_FIGURES)
    return thing.model_dump(exclude=_HOST_FIGURES)


def _task_words(before: Task | None, now: Task) -> str:
    way = f"{now.kind} of {now.vm} {_way(now)}"
    if now.ended_state:
        why = f": {now.problem.get('detail')}" if now.problem else ""
        return f"{way} {'needs ' if now.state == 'attention' else ''}{now.state}{why}; the VM is {now.vm_state}"
    phase = now.progress.phase.replace("-", " ") if now.progress else ""
    if before is None:
        return f"{way} is {now.state}"
    if before.state != now.state:
        return f"{way} is {now.state}, was {before.state}"
    if phase and (before.progress is None or before.progress.phase != (now.progress and now.progress.phase)):
        return f"{way} is {phase}"
    if before.notes != now.notes and now.notes:
        return f"{way}: {now.notes[-1]}"
    if before.vm_state != now.vm_state:
        return f"{way}: the VM is {now.vm_state}, was {before.vm_state or 'not known'}"
    return f"{way}: {phase or now.state}{_percent(now)}"


def _way(task: Task) -> str:
    return f"on {task.source}" if task.source == task.destination else f"from {task.source} to {task.destination}"


def _percent(task: Task) -> str:
    return f" {task.progress.percent:.0f} %" if task.progress else ""


def _vm_words(before: VmStatus | None, now: VmStatus) -> str:
    said = f"{now.definition.name} is {now.state} on {now.host}"
    if before is None:
        return said
    if before.host != now.host:
        return f"{said}, was on {before.host}"
    if before.state != now.state:
        return f"{said}, was {before.state}"
    if before.move_id != now.move_id:
        return f"{now.definition.name} on {now.host} {'is being moved' if now.move_id else 'is moved no more'}"
    if before.definition != now.definition:
        return f"{said}, with another definition"
    return said


def _host_words(before: HostStatus | None, now: HostStatus) -> str:
    if not now.reachable:
        return f"host {now.name} does not answer: {now.reason}"
    if before is None or not before.reachable:
        return f"host {now.name} answers"
    changed = [name for name in type(now).model_fields if getattr(before, name) != getattr(now, name)]
    if "info" in changed and before.info and now.info:
        old, new = before.info, now.info
        changed += [name for name in type(new).model_fields if getattr(old, name) != getattr(new, name)]
        changed.remove("info")
    return f"host {now.name}: {', '.join(changed) or 'nothing'} changed"
