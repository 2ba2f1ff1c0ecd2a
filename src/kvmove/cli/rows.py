"""How each kind of thing looks in a list: its columns, its name for `-o name`, and what to say when there is none."""

from datetime import datetime

from rich.text import Text

from kvmove.cli.output import Cells, Listing, printable
from kvmove.cli.progress import phase_name
from kvmove.model.host import DatastoreInfo, HostStatus, MigrationNic
from kvmove.model.log import LogLine
from kvmove.model.priority import Priority
from kvmove.model.task import Task, TaskState
from kvmove.model.vm import VmState, VmStatus
from kvmove.units import format_duration, format_size

_VM_STYLE = {VmState.RUNNING: "green", VmState.CRASHED: "bold red", VmState.UNKNOWN: "yellow", VmState.OFF: "dim"}
_TASK_STYLE = {
    TaskState.QUEUED: "blue",
    TaskState.RUNNING: "cyan",
    TaskState.SUCCEEDED: "green",
    TaskState.FAILED: "red",
    TaskState.CANCELLED: "yellow",
    TaskState.ATTENTION: "bold red",
}


def vm_state(vm: VmStatus) -> Text:
    """`running`, or `running, moving`, in the colour that fits."""
    return Text(f"{vm.state}{', moving' if vm.move_id else ''}", style=_VM_STYLE.get(vm.state, ""))


def task_state(task: Task) -> Text:
    """The state in its colour."""
    return Text(task.state, style=_TASK_STYLE[task.state])


def local_time(rfc3339: str | None) -> str:
    """A time of the API as the clock on the wall here; empty for none."""
    return datetime.fromisoformat(rfc3339).astimezone().strftime("%Y-%m-%d %H:%M:%S") if rfc3339 else ""


def host_words(host: HostStatus) -> Text:
    """`up`, or why not; and whether it takes VMs."""
    if host.powered_off:
        return Text("powered off", style="dim")
    mark = host.maintenance
    words = "" if mark is None else ", entering maintenance" if mark.state == "entering" else ", in maintenance"
    if mark is not None and mark.remains:
        words += f" ({len(mark.remains)} remain)"
    if not host.reachable:
        return Text(f"no answer: {host.reason}{words}", style="red")
    return Text(f"up{words}", style="yellow" if words else "green")


def datastore_kind(store: DatastoreInfo) -> str:
    """What disks there lie on: `files`, or `devices, 3 free`."""
    return "files" if store.devices is None else f"devices, {len(store.devices)} free"


def vm_row(vm: VmStatus) -> Cells:
    definition = vm.definition
    return {
        "name": definition.name,
        "state": vm_state(vm),
        "host": vm.host,
        "vcpus": str(definition.vcpus),
        "memory": format_size(definition.memory),
        "disks": ", ".join(f"{disk.name} {format_size(disk.size)}" for disk in definition.disks) or "none",
        "uuid": str(definition.uuid),
    }


def _vm_more(vm: VmStatus) -> Cells:
    return {
        "epoch": str(vm.epoch),
        "accelerator": vm.accelerator or vm.definition.accelerator,
        "datastores": ", ".join(sorted({disk.datastore for disk in vm.definition.disks})),
        "networks": ", ".join(nic.bridge for nic in vm.definition.nics),
        "pid": str(vm.pid or ""),
        "move": vm.move_id or "",
    }


def _host_more(host: HostStatus) -> Cells:
    info = host.info
    return {
        "kvmove": info.version if info else "",
        "data port": str(info.data_port) if info else "",
        "datastores": ", ".join(f"{it.name} {format_size(it.free)} free" for it in info.datastores) if info else "",
        "bridges": ", ".join(info.bridges) if info else "",
    }


def _task_more(task: Task) -> Cells:
    report = task.report
    return {
        "kind": str(task.plan.kind) if task.plan else task.kind,
        "took": format_duration(report.seconds) if report else "",
        "downtime": f"{report.downtime_ms:.0f} ms" if report else "",
        "sent": format_size(sum(report.bytes_per_nic.values())) if report else "",
        "VM now": task.vm_state,
    }


def _host_row(host: HostStatus) -> Cells:
    info = host.info
    return {
        "name": host.name,
        "state": host_words(host),
        "control": host.control,
        "memory free": f"{format_size(info.memory_free)} of {format_size(info.memory_total)}" if info else "",
        "migration NICs": ", ".join(_nic_words(nic) for nic in info.nics) if info else "",
        "accelerator": info.accelerator if info else "",
        "QEMU": info.qemu_version if info else "",
    }


def _nic_words(nic: MigrationNic) -> str:
    return f"{nic.name} {link_speed(nic.speed)}" if nic.speed else nic.name


def link_speed(bytes_per_second: int) -> str:
    """A NIC's speed as it is sold, in bits: `1 Gbit/s`, `100 Mbit/s`."""
    bits = bytes_per_second * 8
    if not bits:
        return "not known"
    return f"{bits / 1e9:g} Gbit/s" if bits >= 1e9 else f"{bits / 1e6:g} Mbit/s"


def _task_row(task: Task) -> Cells:
    progress = task.progress
    return {
        "id": task.id,
        "VM": task.vm,
        "from": task.source,
        "to": task.destination,
        "state": task_state(task),
        "phase": f"{phase_name(progress.phase)} {progress.percent:.0f} %" if progress and not task.ended_state else "",
        "priority": task.priority if task.priority is not Priority.NORMAL else "",
        "asked for": local_time(task.created),
        "started": local_time(task.started),
        "ended": local_time(task.ended),
        "waits for": f"{_place(task)}{printable(task.queue_reason)}",
    }


def _place(task: Task) -> str:
    return f"#{task.position}, " if task.position else ""


def _log_row(line: LogLine) -> Cells:
    return {"time": local_time(line.time), "by": line.place, "level": line.level, "": printable(line.text)}


VMS = Listing(vm_row, lambda vm: vm.definition.name, "No VMs. Define one: kvmove vm define FILE --host HOST", _vm_more)
LOG = Listing(_log_row, lambda line: line.text, "No lines: nobody remembers anything of this task.")
HOSTS = Listing(
    _host_row,
    lambda host: host.name,
    "No hosts. `kvmove host add NAME --control HOST:7441` lets one join.",
    _host_more,
)
TASKS = Listing(_task_row, lambda task: task.id, "No tasks yet. Move a VM: kvmove move VM HOST", _task_more)
