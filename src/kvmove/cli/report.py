"""What a move was, as measured, for a person to read: `render_report` for the figures, `outcome` for the sentence.

Invariant: every figure comes from the report; nothing is worked out here but shares of a sum.
"""

from collections.abc import Callable, Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from kvmove.cli.output import facts, printable
from kvmove.cli.progress import phase_name
from kvmove.cli.time_spent import time_spent
from kvmove.model.move import DiskReport, MoveReport, NicProgress
from kvmove.model.task import Task
from kvmove.model.vm import Power
from kvmove.units import format_duration, format_rate, format_size

_SHARE_WIDTH = 20


def render_report(report: MoveReport, power: Power = Power.RUNNING) -> RenderableType:
    """The report as tables: time per phase, the downtime and its parts, bytes per NIC, memory, and each disk.

    `power` is how the VM moved: one that did not run has no downtime, only a hand-over that took its time.
    """
    still = _heading("Downtime", _milliseconds(report.downtime_ms))
    if power is not Power.RUNNING:
        still = _heading("Switchover", _milliseconds(sum(report.switchover_ms.values())))
    parts: list[RenderableType] = [
        _heading("Time", format_duration(report.seconds)),
        _shares({phase_name(item.phase): item.seconds for item in report.phases}, format_duration),
        Text(),
        still,
        _shares(report.switchover_ms, _milliseconds),
    ]
    if report.memory_rounds:
        parts += _sent(report)
    parts += time_spent(report)
    if report.changes:
        parts += [Text(), _heading("Changes", ""), *_changes(report)]
    for disk in report.disks:
        parts += [Text(), _heading(f"Disk {disk.name}", format_size(disk.size)), _disk(disk)]
    return Group(*parts)


def _sent(report: MoveReport) -> list[RenderableType]:
    return [
        Text(),
        _heading("Sent", format_size(sum(report.bytes_per_nic.values()))),
        _shares({nic: float(sent) for nic, sent in sorted(report.bytes_per_nic.items())}, format_size),
        *(Text(f"  {words}", overflow="fold") for words in map(_nic, report.nics) if words),
        Text(),
        _heading("Memory", f"{format_size(report.memory_bytes)} in {_rounds(report.memory_rounds)}"),
        _heading("Encrypted", "yes, TLS 1.3" if report.encrypted else "no"),
    ]


def _nic(nic: NicProgress) -> str:
    """`mig1: 29.8 MiB/s on average; left once, for 8.3 s in all; left at the end: …`."""
    if not nic.average and not nic.times_left:
        return ""
    words = [f"{nic.nic}: {format_rate(nic.average)} on average"]
    if nic.times_left:
        often = "once" if nic.times_left == 1 else f"{nic.times_left} times"
        words.append(f"left {often}, for {format_duration(nic.seconds_left)} in all")
    if nic.reason:
        words.append(f"left at the end: {printable(nic.reason)}")
    return "; ".join(words)


def _changes(report: MoveReport) -> list[RenderableType]:
    lines: list[RenderableType] = [
        Text(f"  {format_duration(change.seconds)}  {printable(change.what)}", overflow="fold")
        for change in report.changes
    ]
    if report.slowed_seconds:
        lines.append(Text(f"  the copy held itself back for {format_duration(report.slowed_seconds)} in all"))
    return lines


def outcome(task: Task) -> str:
    """How a task ended, in one sentence."""
    if task.kind != "move":
        return f"{task.kind}{f' of {task.source}' if task.source else ''}: {task.vm_state}."
    moved = f"{task.vm} moved from {task.source} to {task.destination}"
    if task.source == task.destination:
        moved = f"the disks of {task.vm} moved on {task.source}"
    if task.report is None:
        return f"{moved}. (No report: the source's agent has none.)"
    moved = f"{moved} in {format_duration(task.report.seconds)}"
    if task.plan is not None and task.plan.power is not Power.RUNNING:
        return f"{moved}; it is {task.plan.power}, as it was."
    return f"{moved}; it stood still for {_milliseconds(task.report.downtime_ms)}."


def digest_words(disk: DiskReport) -> str:
    """Whether both disks were the same at the switchover; empty when nobody compared them."""
    if not disk.source_digest and not disk.destination_digest:
        return ""
    if disk.source_digest == disk.destination_digest:
        return f"equal on both sides: {disk.source_digest}"
    return f"DIFFERENT: source {disk.source_digest or 'none'}, destination {disk.destination_digest or 'none'}"


def _disk(disk: DiskReport) -> Table:
    digest = digest_words(disk)
    return facts(
        {
            "  data sent": format_size(disk.data_sent) if not disk.moved_by else "",
            "  data moved by": ", ".join(f"{rung} {format_size(size)}" for rung, size in disk.moved_by.items()),
            "  guest writes forwarded": f"{disk.writes_forwarded:,}",
            "  guest writes ignored": _ignored(disk),
            "  guest writes held": _held(disk),
            "  copied again": format_size(disk.recopied) if disk.recopied else "",
            "  mode changes": "\n".join(disk.mode_changes),
            "  verified": Text(digest, style="bold red" if digest.startswith("DIFF") else "green"),
        }
    )


def _held(disk: DiskReport) -> str:
    if not disk.hold_worst_ms:
        return ""
    p50, p99, worst = (f"{value:.3g} ms" for value in (disk.hold_p50_ms, disk.hold_p99_ms, disk.hold_worst_ms))
    return f"half of them for {p50} at most, 99 % for {p99}, the longest {worst}"


def _ignored(disk: DiskReport) -> str:
    """Ignored needs a reason, or it reads as a loss."""
    return f"{disk.writes_ignored:,} (the copy had yet to come there)" if disk.writes_ignored else "none"


def _heading(name: str, value: str) -> Text:
    return Text.assemble((f"{name}  ", "bold"), value)


def _shares(values: Mapping[str, float], render: Callable[[float], str]) -> Table:
    """A line for each value, with a bar for its share of their sum."""
    made = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    made.add_column(no_wrap=True)
    made.add_column(justify="right", no_wrap=True)
    made.add_column(style="cyan", no_wrap=True)
    whole = sum(values.values()) or 1.0
    for name, value in values.items():
        made.add_row(f"  {name}", render(value), "█" * round(value / whole * _SHARE_WIDTH))
    return made


def _milliseconds(milliseconds: float) -> str:
    return f"{milliseconds:.1f} ms" if milliseconds < 10 else f"{milliseconds:.0f} ms"


def _rounds(rounds: int) -> str:
    return f"{rounds} round{'' if rounds == 1 else 's'}"
