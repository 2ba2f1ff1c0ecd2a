"""The ways in which a running task is shown while a command waits for it: drawn, a line a second, JSON, or not at all.

Invariant: a display only shows; it never asks the manager anything and never ends the waiting.
"""

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from rich.live import Live

from kvmove.cli.options import Form
from kvmove.cli.output import Printer, plain
from kvmove.cli.progress import MoveView, plain_line, queue_words
from kvmove.cli.shown import Shown, follow
from kvmove.model.task import Task, TaskState

LINE_SECONDS = 1.0
_FRAMES_PER_SECOND = 8.0


class Display(Protocol):
    """Shows each state of a task that it is given, between `drawing` entered and left."""

    def drawing(self) -> AbstractContextManager[Any]: ...
    def show(self, task: Task) -> None: ...


class LiveDisplay:
    """The picture, drawn over itself, for a terminal."""

    def __init__(self, printer: Printer, task: Task) -> None:
        self._view = MoveView(task)
        self._live = Live(self._view, console=printer.err, refresh_per_second=_FRAMES_PER_SECOND)

    def drawing(self) -> AbstractContextManager[Any]:
        return self._live

    def show(self, task: Task) -> None:
        self._view.update(task)


class LineDisplay:
    """A line a second and at each change of phase or place in the queue, for a log or a pipe. `clock` gives seconds."""

    def __init__(self, printer: Printer, clock: Callable[[], float] = time.monotonic) -> None:
        self._printer = printer
        self._clock = clock
        self._shown = Shown()
        self._last: tuple[str, float] | None = None
        self._waiting = ""

    def drawing(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def show(self, task: Task) -> None:
        if task.state is TaskState.QUEUED:
            self._tell_waiting(queue_words(task))
            return
        progress = task.progress
        if progress is None:
            return
        self._shown = follow(self._shown, progress)
        now = self._clock()
        if self._last is None or progress.phase != self._last[0] or now - self._last[1] >= LINE_SECONDS:
            self._last = (progress.phase, now)
            self._printer.note(plain_line(progress, self._shown.percent))

    def _tell_waiting(self, words: str) -> None:
        """Once for each place and reason, not each second: it may wait for hours."""
        if words != self._waiting:
            self._waiting = words
            self._printer.note(words)


class JsonDisplay:
    """Each state as one line of JSON on stdout."""

    def __init__(self, printer: Printer) -> None:
        self._printer = printer

    def drawing(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def show(self, task: Task) -> None:
        self._printer.line(json.dumps(plain(task)))


class NoDisplay:
    """Nothing."""

    def drawing(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def show(self, task: Task) -> None:
        """Show nothing of `task`."""


def display_for(printer: Printer, task: Task) -> Display:
    """The display that fits the options and the terminal."""
    options = printer.options
    if options.output is Form.NDJSON:
        return JsonDisplay(printer)
    if options.quiet or options.output is not Form.TABLE:
        return NoDisplay()
    return LiveDisplay(printer, task) if printer.err.is_terminal else LineDisplay(printer)
