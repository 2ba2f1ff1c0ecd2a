"""`kvmove move`: the plan first, then how it goes, then what it was."""

from typing import Any

import click

from kvmove.cli.check import check_one
from kvmove.cli.ending import follow_to_end, started_words
from kvmove.cli.move_options import move_options, move_request
from kvmove.cli.options import Command, Form, Options, pass_options
from kvmove.cli.output import Printer
from kvmove.cli.param_types import HOST, VM
from kvmove.cli.plan import render_check
from kvmove.cli.session import ask
from kvmove.client.manager import ManagerClient
from kvmove.errors import Unreachable
from kvmove.model.move import MoveRequest
from kvmove.model.task import Task


@click.command(cls=Command)
@click.argument("vm", type=VM)
@click.argument("host", required=False, type=HOST)
@move_options
@click.option("--dry-run", is_flag=True, help="Print the plan and what would block it; change nothing.")
@click.option("--no-wait", is_flag=True, help="Start it or queue it, print the task and leave.")
@pass_options
def move(options: Options, /, vm: str, host: str | None, dry_run: bool, no_wait: bool, **given: Any) -> int:
    """Move the VM to HOST, memory and disks together; without HOST its disks alone, on its host.

    It goes on running meanwhile; one that is paused or off stays so. A disk on a datastore that both hosts share stays
    there, unless told otherwise; if all do, memory alone moves. HOST may be auto: the best one.
    VM is a name, a UUID or the beginning of either. Ctrl-C leaves the move alone, which goes on; pressed twice it
    cancels. Whatever fails, the VM goes on where it was.
    """
    request = move_request(vm, host, given)
    printer = Printer(options)
    if dry_run:
        return check_one(options, request)
    return ask(options, lambda manager: _move(manager, request, printer, wait=not no_wait))


async def _move(manager: ManagerClient, request: MoveRequest, printer: Printer, *, wait: bool) -> int:
    if printer.options.output is Form.TABLE and not printer.options.quiet:
        printer.aside(render_check(await manager.check_move(request, forecast=wait)))
    task = await _start(manager, request)
    if not wait:
        printer.item(task, task.id, lambda: f"{started_words(task)}. Watch it: kvmove task watch {task.id}")
        return 0
    return await follow_to_end(manager, task, printer)


async def _start(manager: ManagerClient, request: MoveRequest) -> Task:
    try:
        return await manager.start_move(request)
    except Unreachable as error:
        if not error.vm_state:  # not the manager's own word, which would say where the VM is
            error.hint = f"the move may have begun all the same, see kvmove task list; {error.hint}".rstrip("; ")
        raise
