"""What `kvmove top` shows: the present state out of events, and its picture. It asks nobody and keeps no clock."""

from collections.abc import Iterable
from typing import TypeVar

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kvmove.cli.output import printable
from kvmove.cli.progress import phase_name
from kvmove.cli.rows import host_words, task_state
from kvmove.model.event import Change, Event, Reset
from kvmove.model.host import HostStatus
from kvmove.model.task import Task
from kvmove.model.vm import VmState, VmStatus
from kvmove.units import format_duration, format_rate, format_size

T = TypeVar("T")

_BAR = 12
_ENDED_KEPT = 5


class Cluster:
    """Hosts, VMs and tasks by their keys; the last few tasks that ended are kept to be seen."""

    def __init__(self) -> None:
        self.hosts: dict[str, HostStatus] = {}
        self.vms: dict[str, VmStatus] = {}
        self.tasks: dict[str, Task] = {}
        self.ended: list[Task] = []

    def fill(self, hosts: Iterable[HostStatus], vms: Iterable[VmStatus], tasks: Iterable[Task]) -> None:
        """Take this for all that there is."""
        self.hosts = {host.name: host for host in hosts}
        self.vms = {str(vm.definition.uuid): vm for vm in vms}
        self.tasks = {task.id: task for task in tasks}

    def take(self, event: Event | Reset) -> int | None:
        """Take in what changed; gives the revision to go on after, None for a reset."""
        if isinstance(event, Reset):
            self.fill((), (), ())
            return None
        gone = event.change is Change.REMOVED
        if event.host is not None:
            _put(self.hosts, event.key, None if gone else event.host)
        elif event.vm is not None:
            _put(self.vms, event.key, None if gone else event.vm)
        elif event.task is not None:
            ended = event.task.ended_state
            _put(self.tasks, event.key, None if gone or ended else event.task)
            if ended:
                self.ended = [event.task, *self.ended][:_ENDED_KEPT]
        return event.revision


def _put(into: dict[str, T], key: str, value: T | None) -> None:
    """None takes it out."""
    if value is None:
        into.pop(key, None)
    else:
        into[key] = value


def render(cluster: Cluster, said: str) -> RenderableType:
    """The picture; `said` is what the person should know besides."""
    running = sum(vm.state is VmState.RUNNING for vm in cluster.vms.values())
    up = sum(host.reachable for host in cluster.hosts.values())
    head = Text.assemble(
        ("kvmove top  ", "bold"), f"hosts {up} up of {len(cluster.hosts)}   VMs {running} running of ",
        f"{len(cluster.vms)}   tasks {len(cluster.tasks)}",
    )  # fmt: skip
    parts: list[RenderableType] = [head, Text(), _hosts(cluster), Text()]
    parts.append(_moves(cluster) if cluster.tasks else Text("Nothing moves.", style="dim"))
    if cluster.ended:
        parts += [Text(), _ended(cluster.ended)]
    if said:
        parts += [Text(), Text(printable(said), style="yellow")]
    return Group(*parts)


def _hosts(cluster: Cluster) -> Table:
    made = _table("host", "state", "VMs", "out", "in", "memory used", "", "datastores free")
    for name in sorted(cluster.hosts):
        host = cluster.hosts[name]
        info = host.info if host.reachable else None
        vms = [vm for vm in cluster.vms.values() if vm.host == name]
        made.add_row(
            name,
            host_words(host),
            str(sum(vm.state is VmState.RUNNING for vm in vms)),
            str(sum(task.source == name for task in cluster.tasks.values())),
            str(sum(task.destination == name for task in cluster.tasks.values())),
            _memory_bar(info.memory_free / info.memory_total) if info else "",
            f"{format_size(info.memory_free)} free" if info else "",
            ", ".join(f"{it.name} {format_size(it.free)}" for it in info.datastores) if info else "",
        )
    return made


def _memory_bar(free: float) -> ProgressBar:
    return ProgressBar(total=1.0, completed=1 - free, width=_BAR, complete_style="red" if free < 0.1 else "green")


def _moves(cluster: Cluster) -> Table:
    made = _table("VM", "from", "to", "phase", "", "%", "rate", "left")
    for task in sorted(cluster.tasks.values(), key=lambda task: task.id):
        progress = task.progress
        if progress is None:
            made.add_row(task.vm, task.source, task.destination, task_state(task))
            continue
        left = format_duration(progress.eta_seconds) if progress.eta_seconds is not None else "not known"
        made.add_row(
            task.vm, task.source, task.destination, phase_name(progress.phase),
            ProgressBar(total=100.0, completed=progress.percent, width=_BAR), f"{progress.percent:.0f}",
            format_rate(progress.rate) if progress.rate else "", left,
        )  # fmt: skip
    return made


def _ended(tasks: Iterable[Task]) -> Table:
    made = _table("ended", "from", "to", "", "VM now")
    for task in tasks:
        made.add_row(task.vm, task.source, task.destination, task_state(task), printable(task.vm_state))
    return made


def _table(*headings: str) -> Table:
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in headings:
        made.add_column(heading.upper(), overflow="fold" if heading in ("state", "VM now") else "ellipsis")
    return made
