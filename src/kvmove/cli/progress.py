"""A move as it goes, for a person: a live picture on a terminal, a line a second elsewhere.

`MoveView` is the picture; `kvmove move`, `kvmove task watch` and the lab's demo all draw it. It holds what was shown
(`shown`) and draws what it is given; it asks nobody and keeps no clock.
"""

from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kvmove.cli.forecast import span
from kvmove.cli.output import printable
from kvmove.cli.shown import LINE, Shown, disk_words, follow, memory_words
from kvmove.model.move import MoveProgress, NicProgress, Phase
from kvmove.model.task import Task, TaskState
from kvmove.units import format_duration, format_rate, format_size

_BESIDE_BAR = 44  # the name, the percentage and the sizes beside a bar
_UNHAPPY = {Phase.ABORTING: "being undone", Phase.ABORTED: "undone", Phase.IN_DOUBT: "in doubt", Phase.LOST: "lost"}


class MoveView:
    """The live picture of one move: `update` it with each new state of the task, and let Rich draw it."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._shown = Shown()
        self.update(task)

    def update(self, task: Task) -> None:
        """Take in a newer state of the task."""
        self._task = task
        if task.progress is not None:
            self._shown = follow(self._shown, task.progress)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._title()
        if self._task.state is TaskState.QUEUED:
            yield Text(queue_words(self._task), style="yellow", overflow="fold")
            return
        progress = self._task.progress
        if progress is None:
            yield Text("waiting for the source's agent", style="dim")
            return
        yield _phase_line(progress.phase, self._shown.place)
        yield Text()
        yield self._bars(progress, bar_width=max(8, min(28, options.max_width - _BESIDE_BAR)))
        yield from _words(progress)
        if progress.nics:
            yield Text()
            yield _nics(progress.nics)
        yield Text()
        figures = f"{format_duration(progress.elapsed_seconds)}  {summary(progress, self._shown.percent)}"
        yield Text(figures, style="bold", overflow="fold")
        if progress.bottleneck is not None and progress.phase in LINE:
            yield Text(printable(progress.bottleneck.sentence), style="dim", overflow="fold")
        if progress.message:
            yield Text(printable(progress.message), style="yellow", overflow="fold")

    def _title(self) -> Text:
        task = self._task
        return Text.assemble((task.vm, "bold"), f"  {task.source} → {task.destination}  ", (task.id, "dim"))

    def _bars(self, progress: MoveProgress, bar_width: int) -> Table:
        made = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
        made.add_column(no_wrap=True)
        made.add_column(width=bar_width)
        made.add_column(justify="right", no_wrap=True)
        made.add_column(justify="right", no_wrap=True)
        for disk in progress.disks:
            _bar(made, f"disk {disk.name}", self._shown.disks[disk.name], disk.total)
        _bar(made, "memory", self._shown.memory, progress.memory.total)
        return made


def queue_words(task: Task) -> str:
    """Where a queued task is and what it waits for: `queued, 2nd in line: waits for h2: …`."""
    place = f"queued, {_ordinal(task.position)} in line" if task.position else "queued"
    return printable(f"{place}: {task.queue_reason}" if task.queue_reason else place)


def _ordinal(number: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th") if number % 100 not in (11, 12, 13) else "th"
    return f"{number}{ending}"


def plain_line(progress: MoveProgress, percent: float) -> str:
    """The move in one line, for where nothing can be drawn over: `12.4 s  copying disks  52.1 %  …`."""
    words = [format_duration(progress.elapsed_seconds), phase_name(progress.phase), summary(progress, percent)]
    words += [f"{nic.nic} {nic_words(nic)}" for nic in progress.nics if nic.reason]
    words += [f"{disk.name} {said}" for disk in progress.disks if (said := disk_words(disk))]
    if progress.bottleneck is not None and progress.phase in LINE:
        words.append(f"waits for: {progress.bottleneck.limit.value.replace('-', ' ')}")
    if progress.message:
        words.append(printable(progress.message))
    return "  ".join(words)


def summary(progress: MoveProgress, percent: float) -> str:
    """The whole move in figures; a figure that is not known is left out rather than invented."""
    words = [f"{percent:.1f} %"]
    under_way = progress.phase in LINE
    if progress.rate and under_way:
        words.append(format_rate(progress.rate))
    if progress.bytes_total:
        words.append(f"{format_size(progress.bytes_done)} of {format_size(progress.bytes_total)}")
    if progress.eta_seconds is not None and under_way:
        words.append(f"about {_to_go(progress)} left")
    return "  ".join(words)


def _to_go(progress: MoveProgress) -> str:
    """A band where one is known: an older agent tells none."""
    if progress.eta_low is None or progress.eta_high is None:
        return format_duration(progress.eta_seconds or 0.0)
    return span(progress.eta_low, progress.eta_high)


def phase_name(phase: Phase) -> str:
    """`copying disks`."""
    return _UNHAPPY.get(phase, phase.value.replace("-", " "))


def _phase_line(phase: Phase, place: int) -> Text:
    line = Text(overflow="fold")
    for index, step in enumerate(LINE):
        sign, style = ("✓", "green") if index < place else ("●", "bold cyan") if index == place else ("○", "dim")
        line.append(f"{sign} {phase_name(step)}   ", style)
    if phase in _UNHAPPY:
        line.append(f"✗ {phase_name(phase)}", "bold red")
    return line


def _bar(into: Table, name: str, share: float, total: int) -> None:
    size = f"{format_size(share * total)} / {format_size(total)}" if total else ""
    into.add_row(name, ProgressBar(total=1.0, completed=share), f"{share * 100:.0f} %", size)


def _words(progress: MoveProgress) -> Iterator[Text]:
    """A line for each disk, and one for the memory, of which there is more to say than its bar does."""
    said = [(f"disk {disk.name}", disk_words(disk)) for disk in progress.disks]
    for name, words in [*said, ("memory", memory_words(progress.memory))]:
        if words:
            yield Text(f"{name}: {printable(words)}", style="yellow", overflow="fold")


def _nics(nics: tuple[NicProgress, ...]) -> Table:
    """Those that are left say why; where all is well there is nothing to say."""
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    made.add_column("NIC")
    for heading in ("RATE", "AVERAGE", "SENT", "STREAMS"):
        made.add_column(heading, justify="right")
    made.add_column("STATE", overflow="fold")
    for nic in nics:
        figures = format_rate(nic.rate), format_rate(nic.average), format_size(nic.sent), str(nic.streams)
        made.add_row(nic.nic, *figures, Text(nic_words(nic), style="yellow" if nic.reason else ""))
    return made


def nic_words(nic: NicProgress) -> str:
    """`up`, or `left: 1.2 s without an answer`."""
    return printable(f"{nic.state}: {nic.reason}") if nic.reason else str(nic.state)
