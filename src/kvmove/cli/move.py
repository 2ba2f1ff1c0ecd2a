"""`kvmove move`: the plan first, then how it goes, then what it was."""

import click

from kvmove.cli.ending import follow_to_end
from kvmove.cli.options import Command, Form, Options, pass_options
from kvmove.cli.output import Printer
from kvmove.cli.param_types import Assignment, Milliseconds
from kvmove.cli.plan import render_check
from kvmove.cli.session import ask
from kvmove.client.manager import ManagerClient
from kvmove.errors import Unreachable
from kvmove.model.move import MoveRequest, Via
from kvmove.model.task import Task
from kvmove.model.toml_file import fit
from kvmove.model.vm import DiskFormat, Provisioning


@click.command(cls=Command)
@click.argument("vm")
@click.argument("host", required=False)
@click.option(
    "--datastore",
    metavar="NAME",
    help="Where all disks go on HOST; by default shared ones stay, others go to datastores of equal name.",
)
@click.option(
    "--disk", "disks", multiple=True, type=Assignment(), metavar="NAME=DATASTORE[:FORMAT]",
    help="Where this disk goes, and as what; may be repeated.",
)  # fmt: skip
@click.option(
    "--format", "form", type=click.Choice([str(form) for form in DiskFormat]),
    help="What disks that move become; by default each keeps its own format.",
)  # fmt: skip
@click.option(
    "--provisioning", type=click.Choice(["same", *(str(kind) for kind in Provisioning)]), default="same",
    show_default=True, help="The space that disks take once they have moved: that of their data, or all of their size.",
)  # fmt: skip
@click.option("--flatten", is_flag=True, help="Make one image of each disk and its backing images.")
@click.option(
    "--via", type=click.Choice([str(via) for via in Via]), default=str(Via.AUTO), show_default=True,
    help="The network that disks take.",
)  # fmt: skip
@click.option("--verify", is_flag=True, help="Compare both sides' disks as they were at the switchover.")
@click.option("--no-tls", is_flag=True, help="Send memory and disks unencrypted; needs --yes.")
@click.option("--yes", is_flag=True, help="Confirm what --no-tls means.")
@click.option("--nic", "nics", multiple=True, metavar="NAME", help="Use only this migration NIC; may be repeated.")
@click.option(
    "--max-downtime",
    type=Milliseconds(),
    default="300ms",
    show_default=True,
    help="How long the VM may stand still for the last memory round.",
)
@click.option("--dry-run", is_flag=True, help="Print the plan and what would block it; change nothing.")
@click.option("--no-wait", is_flag=True, help="Start it, print the task and leave.")
@pass_options
def move(
    options: Options,
    vm: str,
    host: str | None,
    datastore: str | None,
    disks: tuple[tuple[str, str], ...],
    form: str | None,
    provisioning: str,
    flatten: bool,
    via: str,
    verify: bool,
    no_tls: bool,
    yes: bool,
    nics: tuple[str, ...],
    max_downtime: int,
    dry_run: bool,
    no_wait: bool,
) -> int:
    """Move the VM to HOST, memory and disks together; without HOST its disks alone, on its host.

    It goes on running meanwhile; one that is paused or off stays so. A disk on a datastore that both hosts share stays
    there, unless told otherwise; if all do, memory alone moves.
    VM is a name, a UUID or the beginning of either. Ctrl-C leaves the move alone, which goes on; pressed twice it
    cancels. Whatever fails, the VM goes on where it was.
    """
    if host is None and datastore is None and not disks:
        raise click.UsageError("name a HOST, or a datastore with --datastore or --disk")
    if no_tls and not yes:
        raise click.UsageError("--no-tls sends memory and disks so that the network can read them; add --yes")
    wanted = {
        "vm": vm, "host": host, "datastore": datastore, "disks": dict(disks), "format": form,
        "provisioning": None if provisioning == "same" else provisioning, "flatten": flatten, "via": via,
        "encrypt": not no_tls, "verify": verify, "nics": nics, "max_downtime_ms": max_downtime,
    }  # fmt: skip
    request = fit(wanted, MoveRequest, "the move")
    printer = Printer(options)
    if dry_run:
        checked = ask(options, lambda manager: manager.check_move(request))
        printer.item(checked, checked.plan.move_id, lambda: render_check(checked))
        return 0
    return ask(options, lambda manager: _move(manager, request, printer, wait=not no_wait))


async def _move(manager: ManagerClient, request: MoveRequest, printer: Printer, *, wait: bool) -> int:
    if printer.options.output is Form.TABLE and not printer.options.quiet:
        printer.aside(render_check(await manager.check_move(request)))
    task = await _start(manager, request)
    if not wait:
        printer.item(task, task.id, lambda: f"Started. Watch it: kvmove task watch {task.id}")
        return 0
    return await follow_to_end(manager, task, printer)


async def _start(manager: ManagerClient, request: MoveRequest) -> Task:
    try:
        return await manager.start_move(request)
    except Unreachable as error:
        if not error.vm_state:  # not the manager's own word, which would say where the VM is
            error.hint = f"the move may have begun all the same, see kvmove task list; {error.hint}".rstrip("; ")
        raise
