"""Waits for a task that has others as children, and shows how many are done: maintenance and balancing."""

import json
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from kvmove.cli.ending import LEFT, tell_end
from kvmove.cli.options import Form
from kvmove.cli.output import Printer, plain
from kvmove.cli.waiting import Detached, wait_for_end
from kvmove.client.manager import ManagerClient
from kvmove.model.task import Task


class _Words:
    """A line at each change; with -o ndjson each state as JSON."""

    def __init__(self, printer: Printer) -> None:
        self._printer = printer
        self._said = ""
        self._noted = 0

    def drawing(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def show(self, task: Task) -> None:
        if self._printer.options.output is Form.NDJSON:
            self._printer.line(json.dumps(plain(task)))
        elif self._printer.options.output is Form.TABLE:
            for note in task.notes[self._noted :]:
                self._printer.note(note)
            self._noted = len(task.notes)
            if task.vm_state not in ("", self._said):
                self._said = task.vm_state
                self._printer.note(task.vm_state)


async def follow_parent(manager: ManagerClient, task: Task, printer: Printer) -> int:
    """Wait for the task's end, tell it, and give the exit code."""
    try:
        ended = await wait_for_end(manager, task, _Words(printer), printer)
    except Detached:
        printer.note(
            f"It goes on without this command.\n  watch it:  kvmove task watch {task.id}\n"
            f"  stop it:   kvmove task cancel {task.id}"
        )
        return LEFT
    return tell_end(ended, printer)


def started(task: Task, printer: Printer) -> int:
    """Tell that the task goes on by itself."""
    printer.item(task, task.id, lambda: f"Started. Watch it: kvmove task watch {task.id}")
    return 0
