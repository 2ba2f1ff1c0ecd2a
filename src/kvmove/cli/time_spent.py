"""Where the time of a move went, and what compression did, for a person to read."""

from rich.console import RenderableType
from rich.text import Text

from kvmove.cli.output import facts, printable
from kvmove.model.move import MoveReport
from kvmove.model.time_spent import Compressed, DestinationTime, DiskTime, StreamTime
from kvmove.units import format_duration, format_size


def time_spent(report: MoveReport) -> list[RenderableType]:
    """The bottleneck as a sentence, a line for each stream, disk and the destination, and the compression."""
    parts: list[RenderableType] = []
    if report.bottleneck is not None:
        parts += [
            Text(),
            Text.assemble(("Bottleneck  ", "bold"), printable(report.bottleneck.sentence), overflow="fold"),
        ]
    spent = report.where_time_went
    if spent is not None and spent.streams:
        shown = {f"  {_name(it, number)}": _stream(it) for number, it in enumerate(spent.streams, 1) if it.active}
        shown |= {f"  disk {it.name}": said for it in spent.disks if (said := _disk(it))}
        shown["  destination"] = _destination(spent.destination) if spent.destination is not None else ""
        parts += [Text(), Text("Where the time went", "bold"), facts(shown)]
    if report.compressed is not None:
        parts += [Text(), _compression(report.compressed)]
    return parts


def _name(it: StreamTime, number: int) -> str:
    return f"stream {number}, {it.nic}" if it.nic else f"worker {number}"


def _joined(parts: dict[str, float]) -> str:
    return ", ".join(f"{format_duration(seconds)} {what}" for what, seconds in parts.items() if seconds >= 0.001)


def _stream(it: StreamTime) -> str:
    return _joined(
        {
            "waiting for the network": it.send_wait,
            "for the source disk": it.reader_wait,
            "for the cap": it.cap_wait,
            "at work": it.working,
            "with nothing to do": it.idle,
        }
    )


def _disk(it: DiskTime) -> str:
    said = _joined(
        {
            "reading": it.read_seconds,
            "compressing": it.compress_seconds,
            "writing": it.write_seconds,
            "copied by the kernel": it.kernel_seconds,
            "of guest writes held": it.guest_held_seconds,
        }
    )
    return f"{said}; {format_size(it.read_bytes)} read" if it.read_bytes else said


def _destination(it: DestinationTime) -> str:
    return _joined(
        {
            "waiting for data": it.input_wait,
            "writing": it.write_seconds,
            "at other work": it.work_seconds,
            "syncing beside that": it.sync_seconds,
        }
    )


def _compression(it: Compressed) -> Text:
    said = f"{'on' if it.on else 'off'} in the end: {it.why}"
    if it.before:
        sizes = f"{format_size(it.before)} became {format_size(it.after)}, {it.ratio:.0%}"
        said = f"{sizes}, in {format_duration(it.seconds)} of processor time; {said}"
    return Text.assemble(("Compression  ", "bold"), printable(said), overflow="fold")
