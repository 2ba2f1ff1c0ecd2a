"""From a running task to the exit code: wait, show, then tell how it ended. Shared by `move` and `task watch`."""

from rich.console import Group
from rich.text import Text

from kvmove.cli.display import display_for
from kvmove.cli.failure import show_failure
from kvmove.cli.options import Form
from kvmove.cli.output import Printer
from kvmove.cli.progress import queue_words
from kvmove.cli.report import outcome, render_report
from kvmove.cli.waiting import Detached, Tasks, wait_for_end
from kvmove.errors import KvmoveError, NeedsAttention, from_problem
from kvmove.model.task import Task, TaskState
from kvmove.model.vm import Power

LEFT = 130


async def follow_to_end(tasks: Tasks, task: Task, printer: Printer) -> int:
    """Wait for the task's end, tell it, and give the exit code; `LEFT` when the person leaves before."""
    ended = await wait_or_leave(tasks, task, printer)
    return LEFT if ended is None else tell_end(ended, printer)


async def wait_or_leave(tasks: Tasks, task: Task, printer: Printer) -> Task | None:
    """Wait for the task's end and give it; None when the person left before, who is told how to come back."""
    try:
        return await wait_for_end(tasks, task, display_for(printer, task), printer)
    except Detached as left:
        waits = left.task.state is TaskState.QUEUED
        printer.note(
            f"The move {'stays queued and begins' if waits else 'goes on'} without this command.\n"
            f"  watch it:  kvmove task watch {left.task.id}\n"
            f"  stop it:   kvmove task cancel {left.task.id}"
        )
        return None


def started_words(task: Task) -> str:
    """That the move has begun, or is queued and for what it waits."""
    words = queue_words(task) if task.state is TaskState.QUEUED else "started"
    return words[0].upper() + words[1:]


def tell_end(task: Task, printer: Printer) -> int:
    """Say how an ended task ended: the report on stdout, or the problem on stderr. Gives the exit code."""
    form = printer.options.output
    if form in (Form.JSON, Form.YAML) or (form is Form.NAME and task.state is TaskState.SUCCEEDED):
        printer.item(task, task.id, lambda: "")
    if task.state is not TaskState.SUCCEEDED:
        error = task_error(task)
        show_failure(printer.options, error, what_failed(task))
        return error.exit_code
    if form is Form.TABLE:
        printer.note("")
        printer.show(Text(outcome(task), style="bold green"))
        if task.report is not None:
            printer.show(Group("", render_report(task.report, task.plan.power if task.plan else Power.RUNNING)))
    return 0


_WHAT_FAILED = {
    TaskState.FAILED: "{vm} was not moved from {source} to {destination}",
    TaskState.CANCELLED: "the move of {vm} from {source} to {destination} was cancelled",
    TaskState.ATTENTION: "the move of {vm} from {source} to {destination} needs attention",
}


_WHAT_FAILED_ON_ONE_HOST = {
    TaskState.FAILED: "the disks of {vm} were not moved on {source}",
    TaskState.CANCELLED: "the move of the disks of {vm} on {source} was cancelled",
    TaskState.ATTENTION: "the move of the disks of {vm} on {source} needs attention",
}


def what_failed(task: Task) -> str:
    """What did not succeed, for the headline of an error."""
    if task.kind != "move":
        about = f" of {task.source}" if task.source else ""
        return f"{task.kind}{about} {'was cancelled' if task.state is TaskState.CANCELLED else 'is not complete'}"
    table = _WHAT_FAILED if task.source != task.destination else _WHAT_FAILED_ON_ONE_HOST
    return table[task.state].format(vm=task.vm, source=task.source, destination=task.destination)


def task_error(task: Task) -> KvmoveError:
    """Why a task did not succeed, as the error that it was where it happened."""
    error = from_problem(task.problem or {})
    if task.state is TaskState.ATTENTION and not isinstance(error, NeedsAttention):
        error = NeedsAttention(error.detail, hint=error.hint, step=error.step)
    error.vm_state = error.vm_state or task.vm_state
    return error
