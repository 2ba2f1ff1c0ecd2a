"""`kvmove task`: what was asked of the manager, and how it goes."""

import click
from rich.console import Group as Stack
from rich.console import RenderableType

from kvmove.cli.ending import (
    LEFT,
    follow_to_end,
    started_words,
    task_error,
    tell_end,
    wait_or_leave,
    what_failed,
)
from kvmove.cli.failure import failure_block
from kvmove.cli.forecast import against_real
from kvmove.cli.options import Form, Group, Options, pass_options
from kvmove.cli.output import Printer, facts
from kvmove.cli.param_types import TASK
from kvmove.cli.progress import plain_line, queue_words
from kvmove.cli.report import outcome, render_report
from kvmove.cli.rows import LOG, TASKS, local_time, task_state
from kvmove.cli.session import ask
from kvmove.cli.steering import STEERING
from kvmove.client.manager import ManagerClient
from kvmove.errors import Busy
from kvmove.model.priority import Priority
from kvmove.model.task import Task, TaskState


@click.group(cls=Group)
def task() -> None:
    """Tasks, running and ended. ID may be the beginning of one."""


for word in STEERING:
    task.add_command(word)


@task.command("list")
@click.option("--running", is_flag=True, help="Only those that have not ended: running and queued.")
@click.option(
    "--state",
    "states",
    multiple=True,
    type=click.Choice([str(state) for state in TaskState]),
    help="Only tasks in this state; may be repeated.",
)
@click.option("--vm", metavar="VM", help="Only tasks of this VM: its whole name or UUID.")
@click.option("--host", metavar="HOST", help="Only tasks with this host at either end.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="The newest so many.")
@click.option("--all", "everything", is_flag=True, help="All that are kept, whatever --limit says.")
@pass_options
def list_tasks(
    options: Options,
    running: bool,
    states: tuple[str, ...],
    vm: str | None,
    host: str | None,
    limit: int,
    everything: bool,
) -> None:
    """List the tasks, newest first."""
    wanted = [*states, *((TaskState.QUEUED, TaskState.RUNNING) if running else ())]
    most = None if everything else limit
    found = ask(options, lambda manager: manager.tasks(map(TaskState, wanted), vm, host, most))
    Printer(options).items(found, TASKS)


@task.command("show")
@click.argument("task_id", metavar="ID", type=TASK)
@pass_options
def show_task(options: Options, task_id: str) -> None:
    """Show one task: where it is, or how it ended."""
    found = ask(options, lambda manager: manager.task(task_id))
    Printer(options).item(found, found.id, lambda: _details(found))


@task.command("watch")
@click.argument("task_id", metavar="ID", type=TASK)
@pass_options
def watch_task(options: Options, task_id: str) -> int:
    """Watch a task to its end, as `kvmove move` does. The exit code is the task's."""
    return ask(options, lambda manager: _watch(manager, task_id, Printer(options)))


@task.command("cancel")
@click.argument("task_id", metavar="ID", type=TASK)
@click.option("--no-wait", is_flag=True, help="Do not wait until the source is free again.")
@pass_options
def cancel_task(options: Options, task_id: str, no_wait: bool) -> int:
    """Cancel a move; the VM runs on where it was. A queued one ends at once; after the switchover it is too late."""
    return ask(options, lambda manager: _cancel(manager, task_id, Printer(options), wait=not no_wait))


@task.command("retry")
@click.argument("task_id", metavar="ID")
@click.option("--no-wait", is_flag=True, help="Start it or queue it, print the new task and leave.")
@pass_options
def retry_task(options: Options, task_id: str, no_wait: bool) -> int:
    """Ask once more for what an ended task was asked for. It is a new task, and is watched to its end."""
    return ask(options, lambda manager: _retry(manager, task_id, Printer(options), wait=not no_wait))


@task.command("log")
@click.argument("task_id", metavar="ID")
@pass_options
def log_of_task(options: Options, task_id: str) -> None:
    """Print what the manager and both hosts' agents have logged of a task, in one place, by time."""
    Printer(options).items(ask(options, lambda manager: manager.task_log(task_id)), LOG)


async def _watch(manager: ManagerClient, task_id: str, printer: Printer) -> int:
    found = await manager.task(task_id)
    if found.ended_state:
        if printer.options.output is Form.NDJSON:
            printer.item(found, found.id, lambda: "")
        return tell_end(found, printer)
    return await follow_to_end(manager, found, printer)


async def _cancel(manager: ManagerClient, task_id: str, printer: Printer, *, wait: bool) -> int:
    found = await manager.cancel_task(task_id)
    if not wait:
        printer.item(found, found.id, lambda: f"Asked to cancel. Watch it: kvmove task watch {found.id}")
        return 0
    ended = await wait_or_leave(manager, found, printer)
    if ended is None:
        return LEFT
    if ended.state is TaskState.SUCCEEDED:
        raise Busy("too late to cancel: the move had come to its end", vm_state=ended.vm_state)
    if ended.state is not TaskState.CANCELLED:
        return tell_end(ended, printer)
    printer.item(ended, ended.id, lambda: f"Cancelled. {ended.vm} is {ended.vm_state}.")
    return 0


async def _retry(manager: ManagerClient, task_id: str, printer: Printer, *, wait: bool) -> int:
    started = await manager.retry_task(task_id)
    if not wait:
        printer.item(started, started.id, lambda: f"{started_words(started)}. Watch it: kvmove task watch {started.id}")
        return 0
    return await follow_to_end(manager, started, printer)


def _details(found: Task) -> RenderableType:
    head = facts(
        {
            "Task": found.id,
            "Kind": found.kind,
            "VM": found.vm,
            "From": found.source,
            "To": found.destination,
            "State": task_state(found),
            "VM now": found.vm_state,
            "Asked for": f"{local_time(found.created)}{f' by {found.started_by}' if found.started_by else ''}",
            "Part of": f"task {found.parent}" if found.parent else "",
            "Priority": found.priority if found.priority is not Priority.NORMAL else "",
            "Started": local_time(found.started),
            "Ended": local_time(found.ended),
            "Forecast": against_real(found),
            "Otherwise": "\n".join(found.notes),
        }
    )
    if found.state is TaskState.QUEUED:
        return Stack(head, "", queue_words(found))
    if found.state is TaskState.RUNNING:
        return Stack(head, "", plain_line(found.progress, found.progress.percent)) if found.progress else head
    if found.state is not TaskState.SUCCEEDED:
        return Stack(head, "", failure_block(task_error(found), what_failed(found)))
    return Stack(head, "", outcome(found), *(["", render_report(found.report)] if found.report else []))
