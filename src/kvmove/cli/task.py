"""`kvmove task`: what was asked of the manager, and how it goes."""

import click
from rich.console import Group as Stack
from rich.console import RenderableType

from kvmove.cli.ending import LEFT, follow_to_end, task_error, tell_end, wait_or_leave, what_failed
from kvmove.cli.failure import failure_block
from kvmove.cli.options import Form, Group, Options, pass_options
from kvmove.cli.output import Printer, facts
from kvmove.cli.progress import plain_line
from kvmove.cli.report import outcome, render_report
from kvmove.cli.rows import TASKS, local_time, task_state
from kvmove.cli.session import ask
from kvmove.client.manager import ManagerClient
from kvmove.errors import Busy
from kvmove.model.task import Task, TaskState


@click.group(cls=Group)
def task() -> None:
    """Tasks, running and ended. ID may be the beginning of one."""


@task.command("list")
@click.option("--running", is_flag=True, help="Only those that have not ended.")
@pass_options
def list_tasks(options: Options, running: bool) -> None:
    """List the tasks, newest first."""
    found = ask(options, lambda manager: manager.tasks())
    Printer(options).items([item for item in found if not (running and item.ended_state)], TASKS)


@task.command("show")
@click.argument("task_id", metavar="ID")
@pass_options
def show_task(options: Options, task_id: str) -> None:
    """Show one task: where it is, or how it ended."""
    found = ask(options, lambda manager: manager.task(task_id))
    Printer(options).item(found, found.id, lambda: _details(found))


@task.command("watch")
@click.argument("task_id", metavar="ID")
@pass_options
def watch_task(options: Options, task_id: str) -> int:
    """Watch a task to its end, as `kvmove move` does. The exit code is the task's."""
    return ask(options, lambda manager: _watch(manager, task_id, Printer(options)))


@task.command("cancel")
@click.argument("task_id", metavar="ID")
@click.option("--no-wait", is_flag=True, help="Do not wait until the source is free again.")
@pass_options
def cancel_task(options: Options, task_id: str, no_wait: bool) -> int:
    """Cancel a move; the VM runs on where it was. After the switchover it is too late."""
    return ask(options, lambda manager: _cancel(manager, task_id, Printer(options), wait=not no_wait))


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
            "Started": local_time(found.started),
            "Ended": local_time(found.ended),
        }
    )
    if found.state is TaskState.RUNNING:
        return Stack(head, "", plain_line(found.progress, found.progress.percent)) if found.progress else head
    if found.state is not TaskState.SUCCEEDED:
        return Stack(head, "", failure_block(task_error(found), what_failed(found)))
    return Stack(head, "", outcome(found), *(["", render_report(found.report)] if found.report else []))
